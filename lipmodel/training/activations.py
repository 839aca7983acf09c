"""Activations: GroupSort in its two parametrisations, and ReLU for contrast.

GroupSort (Anil, Lucas, Grosse 2019, section 4.1) splits n units into groups and sorts each. It is
1-Lipschitz in every l_p norm and, unlike ReLU, its Jacobian is a permutation: gradients keep their
norm. Groups may be fixed by their *size* G (MaxMin: 2) or by their *number* (FullSort: one group).

Layout: unit i belongs to group i mod n/G, so that sorting is along the first axis of the units seen
as (G, n/G). Of the output, chunk k of n/G consecutive units holds the k-th largest of each group:
MaxMin is the max, then the min, of the two halves. Contiguous chunks are the fast form in ONNX.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipmodel.errors import RecipeError


class GroupSort(nn.Module):
    """Sorts within groups, in descending order; (…, n) to (…, n).

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
        size = self.group_size(x.shape[-1])
        if size == 2:  # the same as below and several times faster
            a, b = x.chunk(2, dim=-1)
            return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), dim=-1)
        groups = x.reshape(*x.shape[:-1], size, x.shape[-1] // size)
        return torch.sort(groups, dim=-2, descending=True).values.reshape(x.shape)


def max_min() -> GroupSort:
    """GroupSort in pairs."""
    return GroupSort(group_size=2)


def full_sort() -> GroupSort:
    """GroupSort of a whole layer."""
    return GroupSort(number_of_groups=1)
