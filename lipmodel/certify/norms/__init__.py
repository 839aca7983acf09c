"""Bounds of the operator norms of single layers."""
