"""Metrics of torch's network during training: estimates for learning curves, not certificates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lipmodel.training.losses import Loss, certified_radius
from lipmodel.training.network import compare

MEASURED_ROWS = 10_000  # maximum number of rows for a learning curve's accuracies


@torch.no_grad()
def accuracy(network: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Return the clean accuracy on the first ``MEASURED_ROWS`` rows."""
    answers = _two_or_more(network(inputs[:MEASURED_ROWS])).argmax(dim=1)
    return float((answers == labels[:MEASURED_ROWS]).double().mean())


@torch.no_grad()
def estimated_certified_accuracy(
    network: nn.Sequential, inputs: Tensor, labels: Tensor, *, epsilon: float
) -> float:
    """Return the share of the first rows predicted correctly with margin / constant >= epsilon.

    In torch's float32 with no directed rounding, from the weights before finishing: an estimate for
    learning curves. Certified accuracy is measured from the exported file.
    """
    inputs, labels = inputs[:MEASURED_ROWS], labels[:MEASURED_ROWS]
    scores, bounds = compare(network, inputs, labels)
    if scores.shape[1] == 1:  # f against the other class's 0
        scores, bounds = _two_or_more(scores), bounds.expand(-1, 2)
    return float((certified_radius(scores, labels, bounds) >= epsilon).double().mean())


@torch.no_grad()
def mean_loss(network: nn.Sequential, loss: Loss, inputs: Tensor, labels: Tensor) -> float:
    """Return the mean loss of all rows."""
    scores, bounds = compare(network, inputs, labels)
    return float(loss(scores, labels, bounds))


def _two_or_more(scores: Tensor) -> Tensor:
    """Return scores (N, K) with K >= 2: the one score f of a binary classifier becomes 0 and f."""
    return torch.cat((torch.zeros_like(scores), scores), dim=1) if scores.shape[1] == 1 else scores
