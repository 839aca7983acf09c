from __future__ import annotations

import math

import pytest
import torch

from lipmodel.errors import RecipeError
from lipmodel.training.losses import (
    LOSSES,
    BinaryCrossEntropy,
    EfficientMarginMaximization,
    Hinge,
    MultiClassHinge,
)

NO_BOUNDS = torch.zeros(3, 3, dtype=torch.float64)
BINARY = torch.tensor([[0.3], [-2.0], [0.1]], dtype=torch.float64)
BINARY_LABELS = torch.tensor([1, 0, 0])
SCORES = torch.tensor([[1.0, 0.2, -0.5], [0.1, 0.4, 0.35], [0.0, 2.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2])
BOUNDS = torch.tensor(
    [[0.0, 1.5, 1.0], [1.5, 0.0, 2.0], [1.0, 2.0, 0.0]], dtype=torch.float64
)  # row n: sample n


def test_binary_cross_entropy():
    by_hand = (math.log1p(math.exp(-0.3)) + math.log1p(math.exp(-2.0)) + math.log1p(math.exp(0.1))) / 3
    assert BinaryCrossEntropy()(BINARY, BINARY_LABELS, NO_BOUNDS).item() == pytest.approx(by_hand)


def test_hinge():
    by_hand = (max(0, 0.5 - 0.3) + max(0, 0.5 - 2.0) + max(0, 0.5 + 0.1)) / 3
    assert Hinge(0.5)(BINARY, BINARY_LABELS, NO_BOUNDS).item() == pytest.approx(by_hand)


def test_multi_class_hinge():
    by_hand = (max(0, 0.5 - 0.8) + max(0, 0.5 - 0.05) + max(0, 0.5 + 1.0)) / 3
    assert MultiClassHinge(0.5)(SCORES, LABELS, BOUNDS).item() == pytest.approx(by_hand)


def test_emma_adds_what_an_adversary_can_reach_and_no_more():
    epsilon, temperature = 0.4, 0.25
    total = 0.0
    for scores, label in zip(SCORES.tolist(), LABELS.tolist(), strict=True):
        shifted = []
        for j, score in enumerate(scores):
            bound = BOUNDS[label, j].item()  # the label of sample n is n
            certified = 0.0 if j == label else (scores[label] - score) / bound
            shifted.append((score + min(max(certified, 0.0), epsilon) * bound) / temperature)
        total += math.log(sum(math.exp(s) for s in shifted)) - shifted[label]
    loss = EfficientMarginMaximization(epsilon, temperature)(SCORES, LABELS, BOUNDS)
    assert loss.item() == pytest.approx(total / 3)


def test_emma_without_offset_is_cross_entropy_and_its_radius_is_not_differentiated():
    wrong = torch.tensor([[0.0, 2.0, 1.0]], dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0])  # nothing is certified: no offset
    loss = EfficientMarginMaximization(0.4)(wrong, label, BOUNDS[label])
    assert loss.item() == pytest.approx(torch.nn.functional.cross_entropy(wrong, label).item())
    right = torch.tensor([[2.0, 1.9, 0.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(EfficientMarginMaximization(0.4)(right, label, BOUNDS[label]), right)
    shifted = right.detach() + torch.tensor([[0.0, 0.1, 0.4]])
    expected = torch.softmax(shifted, dim=1) - torch.tensor([[1.0, 0.0, 0.0]])
    assert torch.allclose(gradient, expected)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_each_falls_with_a_larger_margin_and_says_what_it_is_for(name):
    loss = LOSSES[name]()
    if loss.binary:
        low, high = (loss(torch.tensor([[s]]), torch.tensor([1]), NO_BOUNDS) for s in (-1.0, 5.0))
    else:
        low, high = (
            loss(torch.tensor([[s, 0.0, 0.0]]), torch.tensor([0]), BOUNDS[:1].float()) for s in (-1.0, 5.0)
        )
    assert high < low
    assert low.ndim == 0


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_parameters_must_be_positive(value):
    with pytest.raises(RecipeError, match=r"loss\.margin"):
        Hinge(value)
    with pytest.raises(RecipeError, match=r"loss\.temperature"):
        EfficientMarginMaximization(temperature=value)
