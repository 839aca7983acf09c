"""The network as typed operations, read from ONNX and written to ONNX; nothing is proved here."""
