from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lipmodel.errors import RecipeError
from lipmodel.norms import Norm
from lipmodel.training.constraints import NormalisedRows, RowNorm
from lipmodel.training.heads import LLOYD_ROUNDS, LinearHead, PrototypeHead
from lipmodel.training.losses import certified_radius
from tests.certify.test_mixtures import distance
from tests.seeds import shifted

ORDER = {Norm.ONE: 1, Norm.TWO: 2, Norm.INF: np.inf}


def prototype_head(*, inputs=5, classes=3, prototypes=4, **options):
    head = PrototypeHead(
        inputs, classes, prototypes, generator=torch.Generator().manual_seed(shifted(0)), **options
    ).double()
    with torch.no_grad():
        head.bias.uniform_(-0.3, 0.3, generator=torch.Generator().manual_seed(shifted(1)))
    return head


def batch(samples=40, inputs=5, classes=3):
    generator = torch.Generator().manual_seed(shifted(2))
    x = torch.randn(samples, inputs, generator=generator, dtype=torch.float64)
    return x, torch.randint(classes, (samples,), generator=generator)


def chosen_by_hand(head, x, label):
    """Find the candidates, and each other class's prototype nearest to the region of the largest target score."""
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    owner, scores = np.arange(len(weight)) // head.prototypes, weight @ x + bias
    own = np.array(sorted(np.flatnonzero(owner == label), key=lambda i: -scores[i])[: head.candidates])
    length = np.linalg.norm(weight[own[0]] - weight, ord=ORDER[head.norm], axis=1)
    with np.errstate(invalid="ignore"):
        reach = (scores[own[0]] - scores) / length
    foreign = [
        min(np.flatnonzero(owner == c), key=lambda j: reach[j]) for c in range(head.classes) if c != label
    ]
    return weight, scores, own, foreign


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("candidates", [1, 2, 4])
def test_the_radius_is_that_of_the_best_pair_or_of_a_mixture_and_never_beyond_the_exact_distance(
    norm, candidates
):
    head = prototype_head(norm=norm, candidates=candidates)
    x, labels = batch()
    scores, bounds = head.compare(x, labels)
    radii = certified_radius(scores, labels, bounds).detach().numpy()
    mixed = 0
    for a, c, radius in zip(x.numpy(), labels.numpy(), radii, strict=True):
        weight, raw, own, foreign = chosen_by_hand(head, a, c)
        pairs, exact = [], []
        for j in foreign:
            differences, leads = weight[own] - weight[j], raw[own] - raw[j]
            pairs.append((leads / np.linalg.norm(differences, ord=ORDER[norm], axis=1)).max())
            exact.append(distance(norm.dual, differences, leads) if (leads > 0).all() else np.inf)
        if candidates == 1:
            assert radius == pytest.approx(min(pairs), rel=1e-9)
        else:
            least, most = min(pairs), max(min(exact), min(pairs))
            assert least - 1e-9 * abs(least) <= radius <= most + 1e-6 * abs(most)
            mixed += radius > min(pairs) * (1 + 1e-6)
    assert (radii < 0).any()  # samples of both kinds were tried
    assert (radii > 0).any()
    assert mixed > 0 or candidates == 1 or norm is not Norm.TWO
    raw = x @ head.weight.T + head.bias
    own = raw.reshape(len(x), 3, 4)[torch.arange(len(x)), labels].amax(dim=1)
    assert torch.allclose(scores.gather(1, labels[:, None])[:, 0], own)
    assert (bounds.gather(1, labels[:, None]) == 0).all()


def test_gradients_are_those_of_the_formula_over_all_pairs():
    head = prototype_head(candidates=1)
    x, labels = batch(samples=12)
    x.requires_grad_()
    certified_radius(*_compared(head, x, labels)).sum().backward()
    ours = head.weight.grad.clone(), head.bias.grad.clone(), x.grad.clone()
    head.zero_grad()
    x.grad = None
    distances = (head.weight[:, None] - head.weight + 1e-30).norm(dim=2)  # the Gram matrix, in full
    scores = x @ head.weight.T + head.bias
    owner = torch.arange(12) // 4
    total = torch.zeros((), dtype=torch.float64)
    for row, label in zip(scores, labels, strict=True):
        best, foreign = row.masked_fill(owner != label, -torch.inf).argmax(), owner != label
        total = total + ((row[best] - row[foreign]) / distances[best][foreign]).amin()
    total.backward()
    for mine, theirs in zip(ours, (head.weight.grad, head.bias.grad, x.grad), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-10)
    assert torch.isfinite(ours[0]).all()


def test_gradients_through_mixtures_are_finite_differences():
    """Weights are constant in the gradient, by the envelope theorem exact at the optimum; here approximate."""
    head = prototype_head(candidates=4)
    x, labels = batch(samples=12)
    certified_radius(*_compared(head, x, labels)).sum().backward()
    gradient, step = head.weight.grad.clone(), 1e-6 * torch.randn_like(head.weight)
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            head.weight.add_(sign * step)
            values.append(certified_radius(*_compared(head, x, labels)).sum())
            head.weight.sub_(sign * step)
    assert (gradient * step).sum().item() * 2 == pytest.approx((values[0] - values[1]).item(), rel=0.05)


def _compared(head, x, labels):
    scores, bounds = head.compare(x, labels)
    return scores, labels, bounds


@pytest.mark.parametrize("norm", list(Norm))
def test_no_change_within_the_radius_of_pairs_alters_the_answer(norm):
    x, _ = batch(samples=200)
    head = prototype_head(norm=norm.dual)
    answers = head(x).argmax(dim=1)
    size = certified_radius(*_compared(head, x, answers)).detach()[:, None] * (1 - 1e-9)
    rows = head.weight.detach()
    generator = torch.Generator().manual_seed(shifted(3))
    for attempt in range(60):
        # towards each prototype, steepest in this norm, then anywhere
        if attempt < 12:
            toward = rows[attempt] - rows[(x @ rows.T + head.bias).argmax(dim=1)]
            toward = {
                Norm.ONE: torch.nn.functional.one_hot(toward.abs().argmax(dim=1), 5) * toward.sign(),
                Norm.TWO: toward,
                Norm.INF: toward.sign(),
            }[norm]
        else:
            toward = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        length = torch.linalg.vector_norm(toward, ord=ORDER[norm], dim=1, keepdim=True).clamp(min=1e-300)
        assert torch.equal(head(x + size * toward / length).argmax(dim=1), answers)


def test_distances_of_all_to_all_are_never_formed():
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.numel())
            return result

    head = prototype_head(inputs=7, classes=3, prototypes=500, candidates=2)
    x, labels = batch(samples=4, inputs=7)
    with Watch():
        certified_radius(*_compared(head, x, labels)).sum().backward()
    assert largest <= 1500 * 7  # the weights themselves; all to all would be 2.25 million


def k_means(x, labels, classes, k, generator):
    """Lloyd's algorithm, class by class, from equal initial samples."""
    found = []
    for c in range(classes):
        own = x[labels == c]
        points = own[torch.randperm(len(own), generator=generator)[:k].numpy()]
        for _ in range(LLOYD_ROUNDS):
            nearest = ((own[:, None] - points) ** 2).sum(axis=2).argmin(axis=1)
            points = np.array(
                [own[nearest == i].mean(axis=0) if (nearest == i).any() else points[i] for i in range(k)]
            )
        found.append(points)
    return np.concatenate(found)


def test_prototypes_left_out_in_training_do_not_answer_and_foreign_ones_stay():
    """Other target prototypes replace the omitted ones; a seed omits the same prototypes; eval mode omits none."""
    head = prototype_head(inputs=5, classes=3, prototypes=6, candidates=1, dropout=0.5)
    x, labels = batch(samples=40)
    whole = certified_radius(*_compared(head.eval(), x, labels))
    assert torch.equal(whole, certified_radius(*_compared(head, x, labels)))
    torch.manual_seed(shifted(0))
    left = torch.stack([certified_radius(*_compared(head.train(), x, labels)) for _ in range(20)])
    assert (left < whole - 1e-6).any(dim=0).double().mean() > 0.8
    torch.manual_seed(shifted(0))
    assert torch.equal(left[0], certified_radius(*_compared(head, x, labels)))


def test_it_starts_as_the_nearest_prototype_classifier_and_its_radius():
    x, labels = batch(samples=60)
    head = PrototypeHead(5, 3, 6, lipschitz=2.0).double()
    owner = np.arange(18) // 6
    prototypes = k_means(x.numpy(), labels.numpy(), 3, 6, torch.Generator().manual_seed(shifted(5)))
    head.place_(x, labels, torch.Generator().manual_seed(shifted(5)))
    assert head.weight.norm(dim=1).max().item() == pytest.approx(2.0)
    points = np.random.default_rng(0).normal(size=(50, 5))
    squared = ((points[:, None] - prototypes) ** 2).sum(axis=2)
    answers = owner[squared.argmin(axis=1)]
    given = torch.from_numpy(points)
    assert np.array_equal(head(given).argmax(dim=1).numpy(), answers)
    radii = certified_radius(*_compared(head, given, torch.from_numpy(answers))).detach().numpy()
    for point, row, answer, radius in zip(points, squared, answers, radii, strict=True):
        i = row.argmin()
        bisectors = [
            (row[j] - row[i]) / (2 * np.linalg.norm(prototypes[i] - prototypes[j]))
            for j in np.flatnonzero(owner != answer)
        ]
        assert radius == pytest.approx(min(bisectors), rel=1e-9), point


def test_projection_changes_neither_labels_nor_radii():
    head = prototype_head()
    with torch.no_grad():
        head.weight.mul_(7)
        head.bias.mul_(7)
    x, labels = batch()
    before, radii = head(x).argmax(dim=1), certified_radius(*_compared(head, x, labels))
    with torch.no_grad():
        head.project_()
    assert head.weight.norm(dim=1).max().item() == pytest.approx(1.0)
    assert torch.equal(head(x).argmax(dim=1), before)
    assert torch.allclose(certified_radius(*_compared(head, x, labels)), radii)
    again = copy.deepcopy(head.state_dict())
    with torch.no_grad():
        head.weight.mul_(0.5)  # what is short enough stays
        head.project_()
    assert torch.equal(head.weight, again["weight"] * 0.5)


def test_normalised_rows_have_one_norm_and_differences_the_bounds_they_have():
    for norm in Norm:
        head = LinearHead(
            6, 4, NormalisedRows(3.0, norm=norm), generator=torch.Generator().manual_seed(shifted(0))
        )
        with torch.no_grad():
            head.weight.mul_(torch.tensor([[0.1], [1.0], [5.0], [2.0]]))
            head.project_()
        rows = head.weight.detach().double().numpy()
        assert np.allclose(np.linalg.norm(rows, ord=ORDER[norm], axis=1), 3.0, rtol=1e-6)
        labels = torch.tensor([2, 0, 0])
        scores, bounds = head.compare(torch.ones(3, 6), labels)
        expected = [[np.linalg.norm(rows[c] - row, ord=ORDER[norm]) for row in rows] for c in labels]
        assert np.allclose(bounds.detach().numpy(), expected, atol=1e-5)
        assert torch.equal(scores, head(torch.ones(3, 6)))


def test_one_score_has_the_bound_of_its_row():
    head = LinearHead(3, 1, RowNorm(2.0, norm=Norm.ONE))
    scores, bounds = head.compare(torch.ones(4, 3), torch.tensor([0, 1, 1, 0]))
    assert scores.shape == bounds.shape == (4, 1)
    assert torch.allclose(bounds, head.weight.abs().sum())


def test_bad_heads_are_refused():
    with pytest.raises(RecipeError, match="0 prototypes"):
        PrototypeHead(3, 2, 0)
    with pytest.raises(RecipeError, match="3 candidates of 2 prototypes"):
        PrototypeHead(3, 2, 2, candidates=3)
    with pytest.raises(RecipeError, match="class 1 has 2 samples for 3 prototypes"):
        PrototypeHead(3, 2, 3).place_(torch.ones(5, 3), torch.tensor([0, 0, 0, 1, 1]))
    with pytest.raises(RecipeError, match="a dropout of 1"):
        PrototypeHead(3, 2, 3, dropout=1.0)
