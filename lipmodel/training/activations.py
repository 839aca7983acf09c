"""Activations: GroupSort in its two parametrisations, others that keep gradients' norm, ReLU for contrast.

All act on axis 1, as torch's own channel-wise layers do: (N, n), or (N, n, H, W) place by place.

GroupSort (Anil, Lucas, Grosse 2019, section 4.1) splits n units into groups and sorts each. It is
1-Lipschitz in every l_p norm and, unlike ReLU, its Jacobian is a permutation: gradients keep their
norm. Groups may be fixed by their *size* G (MaxMin: 2) or by their *number* (FullSort: one group).

Layout: unit i belongs to group i mod n/G, so that sorting is along the first axis of the units seen
as (G, n/G). Of the output, chunk k of n/G consecutive units holds the k-th largest of each group:
MaxMin is the max, then the min, of the two halves. Contiguous chunks are the fast form in ONNX.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lipmodel.errors import RecipeError


class GroupSort(nn.Module):
    """Sorts within groups, in descending order; (N, n, …) to (N, n, …).

    Args:
        group_size: units a group; or
        number_of_groups: groups a layer, each then of n / number_of_groups units.

    Raises:
        RecipeError: not exactly one of the two is given, or it is below 1.
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
        """Units a group in a layer of that many.

        Raises:
            RecipeError: the groups do not come out even.
        """
        parts = self._group_size or self._number_of_groups or 1
        if units % parts:
            what = "groups of" if self._group_size else "equal groups, numbering"
            raise RecipeError(
                f"{units} units cannot be split into {what} {parts}; choose a divisor of {units}"
            )
        return parts if self._group_size else units // parts

    def forward(self, x: Tensor) -> Tensor:
        """Sorts; see the layout in the module's description."""
        size = self.group_size(x.shape[1])
        if size == 2:  # the same as below and several times faster
            a, b = x.chunk(2, dim=1)
            return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), dim=1)
        groups = x.reshape(len(x), size, x.shape[1] // size, *x.shape[2:])
        return torch.sort(groups, dim=1, descending=True).values.reshape(x.shape)


def max_min() -> GroupSort:
    """GroupSort in pairs."""
    return GroupSort(group_size=2)


def full_sort() -> GroupSort:
    """GroupSort of a whole layer."""
    return GroupSort(number_of_groups=1)


class AbsoluteValue(nn.Module):
    """|x| in the first units and x in the rest; 1-Lipschitz in every norm, (N, n, …) to (N, n, …).

    Between two rotations, half of each is MaxMin: β-Abs of LipNeXt (Hu, Hu, Fredrikson 2026).

    Args:
        share: of the units that lose their sign, rounded down; in (0, 1].

    Raises:
        RecipeError: another share.
    """

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        if not 0.0 < share <= 1.0:
            raise RecipeError(f"an absolute value of a share of {share} of the units; up to 1 is accepted")
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        signless = int(self.share * x.shape[1])
        return torch.cat((x[:, :signless].abs(), x[:, signless:]), dim=1)


class Householder(nn.Module):
    """Reflects a pair that lies beyond a learned line; 1-Lipschitz in l2, gradients keep their norm.

    Pair (a, b), units i and i + n/2, has the angle θ and v = (sin θ/2, −cos θ/2). The pair stays where
    v·(a, b) > 0, else it becomes its mirror image, whose part along v has the other sign
    (Singla, Singla, Feizi 2022). θ = π/2, the start, is MaxMin.

    Args:
        units: n, even.

    Raises:
        RecipeError: an odd number of units.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        if units < 2 or units % 2:
            raise RecipeError(f"{units} units cannot be split into pairs; an even number is accepted")
        self.angle = nn.Parameter(torch.full((units // 2,), math.pi / 2))

    def forward(self, x: Tensor) -> Tensor:
        """(N, n, …), and the same."""
        a, b = x.chunk(2, dim=1)
        half = _along_units(0.5 * self.angle, x)
        sine, cosine = half.sin(), half.cos()
        beyond = 2.0 * (a * sine - b * cosine).clamp(max=0.0)
        return torch.cat((a - beyond * sine, b + beyond * cosine), dim=1)


class NActivation(nn.Module):
    """N-activation: slopes 1, −1, 1 with learned kinks θ₁ <= θ₂, x − 2 clip(x, θ₁, θ₂); entrywise.

    1-Lipschitz in every norm. Already among functions of one variable, networks of it can be some that
    networks of MaxMin or |x| cannot (Prach, Lampert 2023).

    Args:
        units: n, each with its own kinks; they start at −1 and 0, which is |x| around 0.
    """

    def __init__(self, units: int) -> None:
        super().__init__()
        self.kinks = nn.Parameter(torch.tensor([[-1.0], [0.0]]).repeat(1, units))

    def forward(self, x: Tensor) -> Tensor:
        """(N, n, …), and the same."""
        low, high = (_along_units(kinks, x) for kinks in self.sorted_kinks())
        return x - 2.0 * torch.minimum(torch.maximum(x, low), high)

    def sorted_kinks(self) -> Tensor:
        """(2, n): θ₁, then θ₂."""
        return self.kinks.sort(dim=0).values


def _along_units(values: Tensor, x: Tensor) -> Tensor:
    """A value a unit, so that it broadcasts along axis 1 of x."""
    return values.reshape(-1, *(1 for _ in x.shape[2:]))
