"""Deformations: half of the images, a little, the same for the same seed; nothing but images."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from lipmodel.errors import RecipeError
from lipmodel.training.deformations import deform

DIGITS = torch.from_numpy(load_digits().data[:400] / 16.0).float()


def test_half_of_the_images_change_a_little_and_stay_images():
    torch.manual_seed(0)
    moved = deform(DIGITS, [8, 8], 0.5)
    assert moved.shape == DIGITS.shape
    assert moved.min() >= 0.0
    assert moved.max() <= 1.0 + 1e-6
    changed = (moved != DIGITS).any(dim=1)
    assert 0.4 < changed.float().mean() < 0.6
    distance = (moved - DIGITS)[changed].norm(dim=1)
    assert 0.2 < distance.median() < 0.5 * DIGITS.norm(dim=1).median()


def test_stronger_is_farther_and_seeds_repeat():
    distances = []
    for strength in (0.1, 0.5, 2.0):
        torch.manual_seed(1)
        moved = deform(DIGITS, [1, 8, 8], strength)
        torch.manual_seed(1)
        assert torch.equal(moved, deform(DIGITS, [8, 8], strength))
        distances.append((moved - DIGITS).norm(dim=1).sum())
    assert distances == sorted(distances)


def test_what_is_no_image_is_refused():
    with pytest.raises(RecipeError, match=r"inputs of shape \[64\] take a deformation of 0"):
        deform(DIGITS, [64], 0.5)
