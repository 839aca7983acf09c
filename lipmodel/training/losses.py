"""Losses: BCE, hinge, multi-class hinge, and margin cross-entropy with the certified offset (EMMA).

Each is a small object called with

* ``scores`` (B, K), or (B, 1) of a binary classifier that answers class 1 where its score is positive;
* ``labels`` (B,) of class indices;
* ``pair_bounds`` (K, K): entry (c, j) bounds how fast f_c − f_j moves; only EMMA uses it;

and returns the mean over the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from lipmodel.errors import RecipeError


@dataclass(frozen=True)
class Loss(ABC):
    """What training makes small; ``binary`` tells for which kind of scores it is.

    Raises:
        RecipeError: a parameter that is not a positive number.
    """

    @property
    @abstractmethod
    def binary(self) -> bool:
        """Whether scores are (B, 1)."""

    @abstractmethod
    def __call__(self, scores: Tensor, labels: Tensor, pair_bounds: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar."""

    def __post_init__(self) -> None:
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            if not 0.0 < value < float("inf"):
                raise RecipeError(
                    f"loss.{parameter.name} = {value} makes no sense; a positive number is accepted"
                )


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """log(1 + exp(−s f)), s = ±1: cross-entropy with f as the logit."""

    binary = True

    def __call__(self, scores: Tensor, labels: Tensor, pair_bounds: Tensor) -> Tensor:
        """See :class:`Loss`."""
        return functional.softplus(-_signs(labels) * scores[:, 0]).mean()


@dataclass(frozen=True)
class Hinge(Loss):
    """max(0, margin − s f), s = ±1: zero where the certified radius is at least margin / Lipschitz constant.

    As used for robust Lipschitz classifiers by Anil, Lucas, Grosse 2019, section 5.
    """

    margin: float = 1.0
    binary = True

    def __call__(self, scores: Tensor, labels: Tensor, pair_bounds: Tensor) -> Tensor:
        """See :class:`Loss`."""
        return (self.margin - _signs(labels) * scores[:, 0]).clamp(min=0.0).mean()


@dataclass(frozen=True)
class MultiClassHinge(Loss):
    """max(0, margin − (f_c − max_{j≠c} f_j)) for the label c (Crammer, Singer 2001)."""

    margin: float = 1.0
    binary = False

    def __call__(self, scores: Tensor, labels: Tensor, pair_bounds: Tensor) -> Tensor:
        """See :class:`Loss`."""
        own = scores.gather(1, labels[:, None])
        others = scores.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        return (self.margin - (own[:, 0] - others)).clamp(min=0.0).mean()


@dataclass(frozen=True)
class EfficientMarginMaximization(Loss):
    """Cross-entropy of the scores that an adversary could reach (EMMA; Hu et al. 2023, section 4).

        −log softmax((f_j + ε_j L_cj)_j / T)_c,   ε_j = min(max((f_c − f_j) / L_cj, 0), epsilon),

    with ε_c = 0. The offset is worth the radius epsilon, but never more than the radius that is
    certified against class j now, so that an input is not asked for what it cannot yet give. ε_j is
    held constant in differentiation. Hu, Zou, Wang, Leino, Fredrikson 2023, Unlocking deterministic
    robustness certification on ImageNet. The temperature T is ours: scores of a network with a
    small Lipschitz constant on small inputs are otherwise too close together for cross-entropy.

    Attributes:
        epsilon: the radius to train for, in the norm of the network.
        temperature: T, in units of the scores.
    """

    epsilon: float = 0.5
    temperature: float = 1.0
    binary = False

    def __call__(self, scores: Tensor, labels: Tensor, pair_bounds: Tensor) -> Tensor:
        """See :class:`Loss`."""
        bounds = pair_bounds[labels]
        gaps = (scores.gather(1, labels[:, None]) - scores).detach()
        # Where L_cj = 0 (the label itself) the gap is 0 too, and so is the offset.
        reached = (gaps / bounds.detach().clamp(min=torch.finfo(bounds.dtype).tiny)).clamp(0.0, self.epsilon)
        return functional.cross_entropy((scores + reached * bounds) / self.temperature, labels)


LOSSES: dict[str, type[Loss]] = {
    "bce": BinaryCrossEntropy,
    "hinge": Hinge,
    "multiclass-hinge": MultiClassHinge,
    "emma": EfficientMarginMaximization,
}
"""Losses by their names in recipes."""


def _signs(labels: Tensor) -> Tensor:
    """Class indices 0, 1 as −1, +1."""
    return 2.0 * labels.to(torch.get_default_dtype()) - 1.0
