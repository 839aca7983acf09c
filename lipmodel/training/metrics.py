"""What torch measures of a network while it trains: estimates to watch, never certificates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipmodel.training.losses import Loss
from lipmodel.training.network import compare

MEASURED_ROWS = 10_000  # inputs that a learning curve's accuracy is measured on, at most


@torch.no_grad()
def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of right answers among the first rows, ``MEASURED_ROWS`` of them at most."""
    answers = _two_or_more(network(inputs[:MEASURED_ROWS])).argmax(dim=1)
    return float((answers == labels[:MEASURED_ROWS]).double().mean())


@torch.no_grad()
def estimated_certified_accuracy(
    network: nn.Sequential, inputs: Tensor, labels: Tensor, *, epsilon: float
) -> float:
    """Share of the first rows answered right with margin / constant >= epsilon, in torch's float32.

    Nothing is rounded towards safety and the constants are the weights' as they are, so this is an
    estimate to watch a training by. What is certified is measured from the exported file.
    """
    own = labels[:MEASURED_ROWS, None]
    scores, bounds = compare(network, inputs[:MEASURED_ROWS], own[:, 0])
    if scores.shape[1] == 1:  # f against the other class's 0
        scores, bounds = _two_or_more(scores), bounds.expand(-1, 2)
    radii = (scores.gather(1, own) - scores) / bounds.clamp(min=torch.finfo(scores.dtype).tiny)
    return float((radii.scatter(1, own, torch.inf).amin(dim=1) >= epsilon).double().mean())


@torch.no_grad()
def mean_loss(network: nn.Sequential, loss: Loss, inputs: Tensor, labels: Tensor) -> float:
    """Over all rows."""
    scores, bounds = compare(network, inputs, labels)
    return float(loss(scores, labels, bounds))


def _two_or_more(scores: Tensor) -> Tensor:
    """A binary classifier's one score f as the two scores 0 and f."""
    return torch.cat((torch.zeros_like(scores), scores), dim=1) if scores.shape[1] == 1 else scores
