"""Losses, called like torch's own: ``Hinge(0.2)(scores, labels)`` returns the mean over the batch.

* ``scores`` (N, K), or (N, 1) of a binary classifier, which predicts class 1 for a positive score;
* ``labels`` (N,) of class indices;
* ``bounds`` (N, K): entry (n, j) bounds the Lipschitz constant of score_label − score_j at sample n, as
  returned by a head's ``compare``. EMMA and the certified radius need bounds, other losses ignore them.
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
    """A function that training minimises.

    Raises:
        RecipeError: a parameter is not a positive number.
    """

    @property
    @abstractmethod
    def binary(self) -> bool:
        """True for scores of shape (N, 1)."""

    @abstractmethod
    def __call__(self, scores: Tensor, labels: Tensor, bounds: Tensor | None = None) -> Tensor:
        """Return the mean loss of a batch, a scalar.

        Raises:
            RecipeError: the loss needs bounds and ``bounds`` is None.
        """

    def __post_init__(self) -> None:
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            if not 0.0 < value < float("inf"):
                raise RecipeError(f"loss.{parameter.name} = {value}; a positive, finite number is accepted")


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """log(1 + exp(−s f)), s = ±1: cross-entropy with f as the logit."""

    binary = True

    def __call__(self, scores: Tensor, labels: Tensor, bounds: Tensor | None = None) -> Tensor:
        """See :class:`Loss`."""
        return functional.softplus(-_signs(labels) * scores[:, 0]).mean()


@dataclass(frozen=True)
class Hinge(Loss):
    """max(0, margin − s f), s = ±1: zero where the certified radius is at least margin / Lipschitz constant.

    Used for robust Lipschitz classifiers by Anil, Lucas, Grosse 2019, section 5.
    """

    margin: float = 1.0
    binary = True

    def __call__(self, scores: Tensor, labels: Tensor, bounds: Tensor | None = None) -> Tensor:
        """See :class:`Loss`."""
        return (self.margin - _signs(labels) * scores[:, 0]).clamp(min=0.0).mean()


@dataclass(frozen=True)
class HingeKantorovichRubinstein(Loss):
    """E[f | class 0] − E[f | class 1] + weight · E[max(0, margin − s f)], s = ±1 (HKR).

    The minimum of the first two terms over 1-Lipschitz f is minus the Wasserstein-1 distance of the two
    classes, so these terms push the classes apart; the hinge turns f into a classifier. The means are those
    of the batch; a class missing from a batch adds 0. Serrurier, Mamalet, González-Sanz, Boissin, Loubes, del
    Barrio 2021, Achieving robustness in classification using optimal transport with hinge regularization.
    """

    margin: float = 1.0
    weight: float = 10.0
    binary = True

    def __call__(self, scores: Tensor, labels: Tensor, bounds: Tensor | None = None) -> Tensor:
        """See :class:`Loss`."""
        signed = _signs(labels) * scores[:, 0]
        sizes = torch.bincount(labels, minlength=2)[labels]
        return (self.weight * (self.margin - signed).clamp(min=0.0)).mean() - (signed / sizes).sum()


@dataclass(frozen=True)
class MultiClassHinge(Loss):
    """max(0, margin − (f_c − max_{j≠c} f_j)) for the label c (Crammer, Singer 2001)."""

    margin: float = 1.0
    binary = False

    def __call__(self, scores: Tensor, labels: Tensor, bounds: Tensor | None = None) -> Tensor:
        """See :class:`Loss`."""
        target = scores.gather(1, labels[:, None])
        competitor = scores.scatter(1, labels[:, None], -torch.inf).amax(dim=1)
        return (self.margin - (target[:, 0] - competitor)).clamp(min=0.0).mean()


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """−log softmax(f / T)_c: for 1-Lipschitz f the temperature trades accuracy against robustness.

    Béthune et al. 2022, Pay attention to your loss: understanding misconceptions about 1-Lipschitz
    neural networks.

    Attributes:
        temperature: T, in units of the scores.
    """

    temperature: float = 1.0
    binary = False

    def __call__(self, scores: Tensor, labels: Tensor, bounds: Tensor | None = None) -> Tensor:
        """See :class:`Loss`."""
        return functional.cross_entropy(scores / self.temperature, labels)


@dataclass(frozen=True)
class LogitAnnealing(Loss):
    """−T (1 − p)^β log p, p = softmax((f − ξ 1_c) / T)_c (Lai, Huang, Kung, Chen 2025).

    Cross-entropy with a required margin ξ. The factor (1 − p)^β falls to 0 as the margin grows, so that
    capacity goes to inputs with small margins. Enhancing certified robustness via block reflector
    orthogonal layers and logit annealing loss.

    Attributes:
        temperature: T, in units of the scores.
        offset: ξ, in units of the scores.
        annealing: β.
    """

    temperature: float = 0.75
    offset: float = 2.0 * 2.0**0.5
    annealing: float = 5.0
    binary = False

    def __call__(self, scores: Tensor, labels: Tensor, bounds: Tensor | None = None) -> Tensor:
        """See :class:`Loss`."""
        offsets = self.offset * functional.one_hot(labels, scores.shape[1])
        entropy = functional.cross_entropy((scores - offsets) / self.temperature, labels, reduction="none")
        return (self.temperature * (-torch.expm1(-entropy)) ** self.annealing * entropy).mean()


@dataclass(frozen=True)
class EfficientMarginMaximization(Loss):
    """Cross-entropy of the scores within an adversary's reach (EMMA; Hu et al. 2023, section 4).

        −log softmax((f_j + ε_j L_cj)_j / T)_c,   ε_j = min(max((f_c − f_j) / L_cj, 0), epsilon),

    with ε_c = 0. The offset amounts to the radius epsilon, but never to more than the radius currently
    certified against class j, so that no input must meet a radius far beyond its own. ε_j is held constant
    in differentiation. Hu, Zou, Wang, Leino, Fredrikson 2023, Unlocking deterministic robustness
    certification on ImageNet. The temperature T is an addition: without it, scores of a network with a
    small Lipschitz constant on small inputs are too close together for cross-entropy.

    Attributes:
        epsilon: the radius to train for, in the norm of the network.
        temperature: T, in units of the scores.
    """

    epsilon: float = 0.5
    temperature: float = 1.0
    binary = False

    def __call__(self, scores: Tensor, labels: Tensor, bounds: Tensor | None = None) -> Tensor:
        """See :class:`Loss`."""
        bounds = _required(bounds)
        gaps = (scores.gather(1, labels[:, None]) - scores).detach()
        # Where L_cj = 0 (the label itself) the gap is 0 too, and so is the offset.
        reached = (gaps / bounds.detach().clamp(min=torch.finfo(bounds.dtype).tiny)).clamp(0.0, self.epsilon)
        return functional.cross_entropy((scores + reached * bounds) / self.temperature, labels)


@dataclass(frozen=True)
class CertifiedRadiusHinge(Loss):
    """max(0, epsilon − r) for the certified radius r, negative for a wrong prediction.

    The mean is epsilon minus the mean of min(r, epsilon): minimising it maximises the mean certified radius,
    with radii counted up to epsilon.

    Attributes:
        epsilon: the radius to train for, in the norm of the network.
    """

    epsilon: float = 0.5
    binary = False

    def __call__(self, scores: Tensor, labels: Tensor, bounds: Tensor | None = None) -> Tensor:
        """See :class:`Loss`."""
        return (self.epsilon - certified_radius(scores, labels, _required(bounds))).clamp(min=0.0).mean()


LOSSES: dict[str, type[Loss]] = {
    "bce": BinaryCrossEntropy,
    "hinge": Hinge,
    "hkr": HingeKantorovichRubinstein,
    "multiclass-hinge": MultiClassHinge,
    "cross-entropy": CrossEntropy,
    "logit-annealing": LogitAnnealing,
    "emma": EfficientMarginMaximization,
    "radius-hinge": CertifiedRadiusHinge,
}
"""Losses by their names in recipes."""


def certified_radius(scores: Tensor, labels: Tensor, bounds: Tensor) -> Tensor:
    """Return min over j ≠ label of (score_label − score_j) / bound_j, (N,), in float32; differentiable.

    For a wrong prediction the result is negative: minus a lower bound on the distance to the label's region.
    """
    margins = scores.gather(1, labels[:, None]) - scores
    each = margins / bounds.clamp(min=torch.finfo(bounds.dtype).tiny)
    return each.scatter(1, labels[:, None], torch.inf).amin(dim=1)


def _required(bounds: Tensor | None) -> Tensor:
    if bounds is None:
        raise RecipeError("this loss needs bounds (N, K) with the scores; head.compare returns both")
    return bounds


def _signs(labels: Tensor) -> Tensor:
    """Return class indices 0, 1 as −1, +1."""
    return 2.0 * labels.to(torch.get_default_dtype()) - 1.0
