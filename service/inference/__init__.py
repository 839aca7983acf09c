"""Predictions with certified radii; no HTTP."""
