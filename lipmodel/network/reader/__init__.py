"""The reader of ONNX files: a whitelist of operators. Start at ``read.py``."""
