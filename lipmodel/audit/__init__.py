"""Measure a deployed graph: gradients, slopes and attacks are evidence, never part of a radius."""
