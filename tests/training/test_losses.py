from __future__ import annotations

import math

import pytest
import torch

from lipmodel.errors import RecipeError
from lipmodel.training.losses import (
    LOSSES,
    BinaryCrossEntropy,
    CertifiedRadiusHinge,
    CrossEntropy,
    EfficientMarginMaximization,
    Hinge,
    HingeKantorovichRubinstein,
    LogitAnnealing,
    MultiClassHinge,
    certified_radius,
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


def test_cross_entropy_at_a_temperature():
    total = 0.0
    for scores, label in zip(SCORES.tolist(), LABELS.tolist(), strict=True):
        total += math.log(sum(math.exp((s - scores[label]) / 0.25) for s in scores))
    assert CrossEntropy(0.25)(SCORES, LABELS).item() == pytest.approx(total / 3)


def test_logit_annealing():
    temperature, offset, annealing = 0.75, 0.5, 3.0
    total = 0.0
    for scores, label in zip(SCORES.tolist(), LABELS.tolist(), strict=True):
        powers = [math.exp((s - (offset if j == label else 0)) / temperature) for j, s in enumerate(scores)]
        p = powers[label] / sum(powers)
        total -= temperature * (1 - p) ** annealing * math.log(p)
    loss = LogitAnnealing(temperature, offset, annealing)
    assert loss(SCORES, LABELS).item() == pytest.approx(total / 3)
    # what has its margin pulls no more, unlike under cross-entropy
    easy = torch.tensor([[3.0, 0.0, 0.0]], requires_grad=True)
    pull = torch.autograd.grad(loss(easy, torch.tensor([0])), easy)[0].abs().max()
    plain = torch.autograd.grad(CrossEntropy(0.75)(easy, torch.tensor([0])), easy)[0].abs().max()
    assert pull < 0.02 * plain


def test_hinge_kantorovich_rubinstein():
    transport = (-2.0 + 0.1) / 2 - 0.3  # the mean of class 0 less that of class 1
    hinges = (max(0, 0.5 - 0.3) + max(0, 0.5 - 2.0) + max(0, 0.5 + 0.1)) / 3
    loss = HingeKantorovichRubinstein(0.5, 4.0)
    assert loss(BINARY, BINARY_LABELS).item() == pytest.approx(transport + 4 * hinges)
    # a batch of one class alone
    ones = loss(BINARY, torch.ones(3, dtype=torch.long))
    by_hand = -(0.3 - 2.0 + 0.1) / 3 + 4 * (max(0, 0.5 - 0.3) + 2.5 + max(0, 0.5 - 0.1)) / 3
    assert ones.item() == pytest.approx(by_hand)


def test_the_radius_hinge_is_of_the_nearest_class():
    by_hand = [
        min((1.0 - 0.2) / 1.5, 1.5 / 1.0),
        min((0.4 - 0.1) / 1.5, 0.05 / 2.0),
        min(1.0 / 1.0, -1.0 / 2.0),
    ]
    assert certified_radius(SCORES, LABELS, BOUNDS).tolist() == pytest.approx(by_hand)
    scores, bounds = SCORES.clone().requires_grad_(), BOUNDS.clone().requires_grad_()
    loss = CertifiedRadiusHinge(0.5)(scores, LABELS, bounds)
    assert loss.item() == pytest.approx(sum(max(0.0, 0.5 - r) for r in by_hand) / 3)
    loss.backward()
    assert torch.allclose(scores.grad[0], torch.zeros(3, dtype=torch.float64))  # far enough already
    assert torch.allclose(scores.grad[1], torch.tensor([0, -0.5, 0.5], dtype=torch.float64) / 3)
    assert torch.isfinite(bounds.grad).all()
    assert bounds.grad[1, 2].item() == pytest.approx(0.05 / 4 / 3)


@pytest.mark.parametrize("loss", [EfficientMarginMaximization(), CertifiedRadiusHinge()])
def test_losses_about_radii_need_bounds(loss):
    with pytest.raises(RecipeError, match="needs bounds"):
        loss(SCORES, LABELS)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_each_loss_falls_with_a_larger_margin(name):
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
