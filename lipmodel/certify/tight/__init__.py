"""Tighter radii, slowly: linear bounds that hold on one ball, and mixtures of class scores."""
