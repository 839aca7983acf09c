"""Deformations of images: each turned, stretched, sheared, moved and bent a little, at random."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from lipmodel.errors import RecipeError

SHARE = 0.5  # of the images that are deformed
TURN, STRETCH, SHEAR = 0.10, 0.06, 0.10  # standard deviations: radians, and shares of a side
MOVE, BEND = 0.4 / 14, 0.6 / 14  # of half a side: 0.4 and 0.6 pixels of 28
BENDS = 5  # control points a side of the smooth field that bends


@torch.no_grad()
def deform(inputs: Tensor, shape: Sequence[int], strength: float) -> Tensor:
    """Half of the images, chosen at random, deformed; affine and elastic (Simard, Steinkraus, Platt 2003).

    Args:
        inputs: (N, d).
        shape: of one input, [H, W] or [C, H, W], d numbers.
        strength: that all standard deviations above are multiplied by.

    Raises:
        RecipeError: the shape is not that of an image.
    """
    if len(shape) not in (2, 3):
        raise RecipeError(
            f"training.deformation is for images; inputs of shape {list(shape)} take a deformation of 0"
        )
    images = inputs.reshape(len(inputs), -1, *shape[-2:])
    count = len(images)

    def normal(*size: int) -> Tensor:
        return strength * torch.randn(count, *size, device=inputs.device)

    turn, stretch, shear, move = TURN * normal(), STRETCH * normal(2), SHEAR * normal(), MOVE * normal(2)
    rows = [
        torch.stack([turn.cos() * (1 + stretch[:, 0]), shear - turn.sin(), move[:, 0]], dim=1),
        torch.stack([turn.sin(), turn.cos() * (1 + stretch[:, 1]), move[:, 1]], dim=1),
    ]
    grid = affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    bend = interpolate(BEND * normal(2, BENDS, BENDS), size=images.shape[-2:], mode="bicubic")
    moved = grid_sample(images, grid + bend.permute(0, 2, 3, 1), align_corners=False)
    chosen = torch.rand(count, 1, device=inputs.device) < SHARE
    return torch.where(chosen, moved.reshape(inputs.shape), inputs)
