"""Adversarial attacks: searches for inputs with another label near given ones."""
