"""Training: the only part that imports torch. Networks, losses, recipes, export, figures."""
