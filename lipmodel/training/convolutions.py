"""1-Lipschitz layers for images (N, C, H, W), most of which preserve the l2 norm.

Two of torch's own layers complete the set and are exported too: ``nn.PixelUnshuffle(s)`` is
space-to-depth, a rearrangement, and ``nn.MaxPool2d(s)`` over windows that do not overlap passes each
window's gradient to one entry.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipmodel.errors import RecipeError
from lipmodel.training.constraints import Stiefel
from lipmodel.training.layers import ConstrainedDense

DIRECTIONS = ((1, 2), (-1, 2), (1, 3), (-1, 3))  # (shift, axis)


class PointwiseConv(ConstrainedDense):
    """A 1×1 convolution: one constrained matrix over the channels, shared by all positions.

    With :class:`~lipmodel.training.constraints.Stiefel` the whole convolution is orthogonal, with no
    reparametrisation (LipNeXt; Hu, Hu, Fredrikson 2026). Arguments as for ``ConstrainedDense``, in channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of (N, n, H, W); shape (N, m, H, W)."""
        return nn.functional.conv2d(x, self.weight[:, :, None, None], self.bias)


class SpatialShift(nn.Module):
    """Shift of some channels by one position down, up, right and left, with wrap-around.

    Among depthwise convolutions with circular padding only shifts preserve the norm (LipNeXt, theorem 1).
    A shift between two 1×1 convolutions mixes positions.

    Args:
        share: fraction of the channels shifted in each of the four directions, at most 1/4; the other
            channels are kept.

    Raises:
        RecipeError: the share is outside (0, 1/4].
    """

    def __init__(self, share: float = 0.125) -> None:
        super().__init__()
        if not 0.0 < share <= 0.25:
            raise RecipeError(f"SpatialShift has a share of {share}; above 0, at most 0.25 is accepted")
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return the shifted channels; shape (N, C, H, W)."""
        part = int(self.share * x.shape[1])
        groups = torch.split(x, [part] * len(DIRECTIONS) + [x.shape[1] - part * len(DIRECTIONS)], dim=1)
        moved = [torch.roll(g, by, axis) for g, (by, axis) in zip(groups[:-1], DIRECTIONS, strict=True)]
        return torch.cat((*moved, groups[-1]), dim=1)


class ScaledAveragePool(nn.Module):
    """s times the mean of each s×s window: each output is the product of a unit vector and its window.

    The mean alone would shrink gradients by s. Windows, of side ``size`` = s, do not overlap.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled means of the windows; shape (N, C, H // s, W // s)."""
        return nn.functional.avg_pool2d(x, self.size) * self.size


class AOLConv(nn.Module):
    """A k×k convolution with zero padding and stride 1, almost orthogonal: ‖·‖_2 <= 1 for any free kernel.

    The free kernel P is multiplied by d_c for each input channel c,

        d_c = (Σ_{c', t} |(P ⋆ P)_{c c' t}|)^-½,   (P ⋆ P)_{c c' t} = Σ_{o, s} P_{o c s} P_{o c' s+t},

    from the row sums of the Gram operator PᵀP (Prach, Lampert 2022, theorem 2). If there are fewer output
    channels these are scaled instead, by the row sums of PPᵀ, since the adjoint has the same norm. If the
    columns, or rows, of P are orthogonal nothing is lost; training moves towards that. The factors are
    computed in each forward pass, at the cost of one small image.

    Args:
        inputs, outputs: numbers of channels.
        size: k, odd.
        generator: source of the initial kernel: an orthogonal matrix in the centre, zeros around it.

    Raises:
        RecipeError: the size is even or not positive.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int = 3, *, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if size < 1 or size % 2 == 0:
            raise RecipeError(f"a kernel of size {size}; odd sizes are accepted")
        free = torch.zeros(outputs, inputs, size, size)
        free[:, :, size // 2, size // 2] = Stiefel().initial(outputs, inputs, generator)
        self.free = nn.Parameter(free)
        self.bias = nn.Parameter(torch.zeros(outputs))

    @property
    def kernel(self) -> Tensor:
        """The rescaled kernel, of shape (outputs, inputs, k, k) and the parameter's format."""
        return almost_orthogonal(self.free)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of (N, inputs, H, W); shape (N, outputs, H, W)."""
        return nn.functional.conv2d(x, self.kernel, self.bias, padding=self.free.shape[-1] // 2)


def almost_orthogonal(free: Tensor) -> Tensor:
    """Return the rescaled kernel of :class:`AOLConv`; (m, n, k, k) to (m, n, k, k)."""
    axis = 0 if free.shape[0] < free.shape[1] else 1
    filters = free.movedim(axis, 0)
    gram = nn.functional.conv2d(filters, filters, padding=free.shape[-1] - 1)
    sums = gram.abs().sum(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(free.dtype).tiny)
    return (filters * sums.rsqrt()).movedim(0, axis)
