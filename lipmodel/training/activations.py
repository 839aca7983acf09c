"""1-Lipschitz activations: GroupSort and other gradient-norm-preserving functions.

All act on axis 1, as torch's channel-wise layers do: on (N, n), or on (N, n, H, W) position by position.

GroupSort (Anil, Lucas, Grosse 2019, section 4.1) splits n units into groups and sorts each. It is
1-Lipschitz in every l_p norm and, unlike ReLU, its Jacobian is a permutation: gradients keep their
norm. Groups may be fixed by their *size* G (MaxMin: 2) or by their *number* (FullSort: one group).

Layout: unit i belongs to group i mod n/G, so that sorting is along the first axis of the units viewed
as (G, n/G). In the output, chunk k of n/G consecutive units holds the k-th largest of each group:
MaxMin is the max, then the min, of the two halves. Contiguous chunks are the fast form in ONNX.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipmodel.errors import RecipeError


class GroupSort(nn.Module):
    """Sorting within groups, in descending order; (N, n, …) to (N, n, …).

    Args:
        group_size: units per group; or
        number_of_groups: groups per layer, each of n / number_of_groups units.

    Raises:
        RecipeError: not exactly one of the two is given, or the given one is below 1.
    """

    def __init__(self, *, group_size: int | None = None, number_of_groups: int | None = None) -> None:
        super().__init__()
        given = [value for value in (group_size, number_of_groups) if value is not None]
        if len(given) != 1 or given[0] < 1:
            raise RecipeError(
                "GroupSort takes either a group_size or a number_of_groups, of at least 1, "
                f"not {group_size} and {number_of_groups}"
            )
        self._group_size, self._number_of_groups = group_size, number_of_groups

    def group_size(self, units: int) -> int:
        """Return the number of units per group in a layer of ``units``.

        Raises:
            RecipeError: the units cannot be split into equal groups.
        """
        parts = self._group_size or self._number_of_groups or 1
        if units % parts:
            groups = f"groups of {parts}" if self._group_size else f"{parts} equal groups"
            raise RecipeError(f"{units} units cannot be split into {groups}; choose a divisor of {units}")
        return parts if self._group_size else units // parts

    def forward(self, x: Tensor) -> Tensor:
        """Return the sorted units, in the layout of the module's docstring."""
        size = self.group_size(x.shape[1])
        if size == 2:  # same result as the general case below, several times faster
            a, b = x.chunk(2, dim=1)
            return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), dim=1)
        groups = x.reshape(len(x), size, x.shape[1] // size, *x.shape[2:])
        return torch.sort(groups, dim=1, descending=True).values.reshape(x.shape)


def max_min() -> GroupSort:
    """Return GroupSort with groups of two units."""
    return GroupSort(group_size=2)


def full_sort() -> GroupSort:
    """Return GroupSort with one group: the whole layer is sorted."""
    return GroupSort(number_of_groups=1)


class AbsoluteValue(nn.Module):
    """|x| in the first units and x in the rest; 1-Lipschitz in every norm, (N, n, …) to (N, n, …).

    With a share of 1/2 between two rotations this is MaxMin: β-Abs of LipNeXt (Hu, Hu, Fredrikson 2026).

    Args:
        share: fraction of the units to which |·| is applied, rounded down to whole units; in (0, 1].

    Raises:
        RecipeError: the share is outside (0, 1].
    """

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        if not 0.0 < share <= 1.0:
            raise RecipeError(f"AbsoluteValue has a share of {share}; above 0, at most 1 is accepted")
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Return |x| in the first ``share`` of the units, x in the others; shape (N, n, …)."""
        count = int(self.share * x.shape[1])
        return torch.cat((x[:, :count].abs(), x[:, count:]), dim=1)


class Householder(nn.Module):
    """Reflection of pairs across a learned line; 1-Lipschitz in l2 and gradient-norm preserving.

    Pair (a, b), units i and i + n/2, has the angle θ and v = (sin θ/2, −cos θ/2). A pair with
    v·(a, b) > 0 is kept; any other is reflected, which flips the sign of its component along v
    (Singla, Singla, Feizi 2022). The initial θ = π/2 is MaxMin.

    Args:
        units: n, even.

    Raises:
        RecipeError: the number of units is odd.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        if units < 2 or units % 2:
            raise RecipeError(f"{units} units cannot be split into pairs; an even number is accepted")
        self.angle = nn.Parameter(torch.full((units // 2,), math.pi / 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the pairs, reflected where v·(a, b) <= 0; shape (N, n, …)."""
        a, b = x.chunk(2, dim=1)
        half = _along_units(0.5 * self.angle, x)
        sine, cosine = half.sin(), half.cos()
        beyond = 2.0 * (a * sine - b * cosine).clamp(max=0.0)
        return torch.cat((a - beyond * sine, b + beyond * cosine), dim=1)


class NActivation(nn.Module):
    """N-activation: x − 2 clip(x, θ₁, θ₂) entrywise, with slopes 1, −1, 1 and learned thresholds θ₁ <= θ₂.

    1-Lipschitz in every norm. Networks with this activation represent functions, already of one variable,
    that networks with MaxMin or |x| cannot (Prach, Lampert 2023).

    Args:
        units: n, each with its own thresholds; the initial −1 and 0 give |x| around 0.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.kinks = nn.Parameter(torch.tensor([[-1.0], [0.0]]).repeat(1, units))

    def forward(self, x: Tensor) -> Tensor:
        """Return x − 2 clip(x, θ₁, θ₂); shape (N, n, …)."""
        low, high = (_along_units(kinks, x) for kinks in self.sorted_kinks())
        return x - 2.0 * torch.minimum(torch.maximum(x, low), high)

    def sorted_kinks(self) -> Tensor:
        """Return the thresholds θ₁ <= θ₂ of each unit; shape (2, n)."""
        return self.kinks.sort(dim=0).values


def _along_units(values: Tensor, x: Tensor) -> Tensor:
    """Return one value per unit, reshaped to broadcast along axis 1 of x."""
    return values.reshape(-1, *(1 for _ in x.shape[2:]))
