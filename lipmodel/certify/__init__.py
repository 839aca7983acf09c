"""From an ONNX file alone to certified radii. Start at ``predictor.py``; the proof is in ``radius.py``."""
