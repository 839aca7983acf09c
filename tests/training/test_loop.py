"""Averaged weights, early stopping and estimates, compared with their definitions."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from lipmodel.data.dataset import Dataset
from lipmodel.data.load import two_moons
from lipmodel.errors import DataError, RecipeError
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from lipmodel.training import loop
from lipmodel.training import optimizer as module_of_descent
from lipmodel.training.export.onnx_export import export, to_graph
from lipmodel.training.layers import project_
from lipmodel.training.loop import Control, Fit, accuracy, estimated_certified_accuracy
from lipmodel.training.losses import Hinge
from lipmodel.training.optimizer import Average, Descent
from lipmodel.training.recipes import Schedule
from lipmodel.training.train import train_recipe
from tests.seeds import shifted
from tests.training.small import small_network, small_recipe

MOONS = two_moons(400).split()


def schedule(**changes):
    return Schedule(**({"epochs": 4, "batch_size": 100, "learning_rate": 0.01} | changes))


@pytest.mark.parametrize("kind", ["uniform", "exponential"])
def test_an_average_is_of_the_last_steps_and_comes_back_to_its_sets(kind):
    network, generator = small_network(), torch.Generator().manual_seed(shifted(0))
    average = Average(network, schedule(averaging=kind, averaging_share=0.3, averaging_decay=0.9), total=10)
    taken = []
    for step in range(1, 11):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        assert average.begun == (step > 8)
        average.update(network, step)
        taken.append(copy.deepcopy(network[1].weight.detach().double()))
    last = taken[7:]
    expected = sum(last) / 3 if kind == "uniform" else 0.9 * (0.9 * last[0] + 0.1 * last[1]) + 0.1 * last[2]
    got = average.network()
    left, _, right = torch.linalg.svd(expected, full_matrices=False)  # the nearest orthogonal matrix
    assert torch.allclose(got[1].weight.double(), left @ right, atol=1e-5)
    again = copy.deepcopy(got)
    project_(again)
    assert torch.allclose(again[1].weight, got[1].weight, atol=1e-6)
    assert export(to_graph(got), Claims(norm=Norm.TWO, lipschitz=1.0))[1].claim_proved


@pytest.mark.parametrize("kind", ["uniform", "exponential"])
@pytest.mark.parametrize("norm", ["2", "inf"])
def test_an_averaged_training_keeps_its_promise(kind, norm):
    plain = train_recipe(small_recipe(norm=norm), *MOONS)
    averaged = train_recipe(small_recipe(norm=norm, settings={"training.averaging": kind}), *MOONS)
    assert averaged.predictor.claim_proved
    assert averaged.content != plain.content
    assert averaged.largest_difference < 2e-5


def test_weights_return_to_their_sets_after_every_second_step_and_at_the_end_of_each_epoch(monkeypatch):
    network, returned = small_network(inputs=2, outputs=1), []

    def objective(inputs, labels):
        return Hinge(1.0)(network(inputs), labels)

    def noted(network):
        returned.append(descent.step)
        project_(network)

    monkeypatch.setattr(module_of_descent, "project_", noted)
    data = torch.from_numpy(MOONS[0].inputs), torch.from_numpy(MOONS[0].labels)
    five_steps = schedule(epochs=2, batch_size=60)
    descent = Descent(network, objective, data, five_steps, torch.Generator().manual_seed(shifted(0)))
    while descent.step < descent.total:
        descent.advance()
    assert returned == [2, 4, 5, 6, 8, 10]
    for layer in (network[1], network[3]):
        assert torch.linalg.svdvals(layer.weight).sub(1).abs().max() < 1e-3


def test_patience_stops_and_keeps_the_weights_of_the_lowest_loss(monkeypatch):
    output, weights = iter([3.0, 1.0, 2.0, 1.5, 0.5]), []

    def watched(network, *_):
        weights.append(copy.deepcopy(network.state_dict()))
        return next(output)

    monkeypatch.setattr(loop, "mean_loss", watched)
    network = small_network(inputs=2, outputs=1)
    tensors = [(torch.from_numpy(d.inputs), torch.from_numpy(d.labels)) for d in (*MOONS, MOONS[0])]
    fit = Fit(
        network, Hinge(0.2), *tensors, schedule(epochs=9, validation=0.1, patience=2),
        epsilon=0.1, generator=torch.Generator().manual_seed(shifted(0)),
    )  # fmt: skip
    result = fit.run(Control())
    assert [epoch.validation_loss for epoch in fit.history] == [3.0, 1.0, 2.0, 1.5]
    assert all(torch.equal(weights[1][name], value) for name, value in result.state_dict().items())
    assert not torch.equal(weights[1]["1.weight"], weights[3]["1.weight"])


def test_held_out_data_choose_nothing():
    settings = {"training.validation": 0.2, "training.patience": 1, "training.averaging": "uniform"}
    recipe = small_recipe(epochs=6, settings=settings)
    other = Dataset("other", -MOONS[1].inputs, MOONS[1].labels, MOONS[1].classes, (2,), "")
    first, second = (train_recipe(recipe, MOONS[0], held_out) for held_out in (MOONS[1], other))
    assert [e.loss for e in first.history] == [e.loss for e in second.history]
    x = MOONS[1].inputs
    assert np.array_equal(first.predictor.predict(x).scores, second.predictor.predict(x).scores)
    assert first.evaluation != second.evaluation


def test_validation_rows_are_not_trained_on():
    trained = train_recipe(small_recipe(settings={"training.validation": 0.5}), *MOONS)
    assert all(epoch.validation_loss is not None for epoch in trained.history)
    few = Dataset("few", MOONS[0].inputs[:4], np.array([0, 1, 1, 1]), ("a", "b"), (2,), "")
    with pytest.raises(DataError, match="class 'a' has too few rows"):
        train_recipe(small_recipe(settings={"training.validation": 0.3}), few, MOONS[1])


def test_a_batch_larger_than_the_data():
    with pytest.raises(RecipeError, match=r"training.batch_size = 301 is larger than .*; at most 300 is"):
        train_recipe(small_recipe(settings={"training.batch_size": 301}), *MOONS)


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("outputs", [1, 2, 4])
def test_the_estimate_is_close_to_the_certified_accuracy(norm, outputs):
    network = small_network(norm, outputs=outputs)
    inputs = torch.randn(400, 6, generator=torch.Generator().manual_seed(shifted(1)))
    labels = torch.arange(400) % max(2, outputs)
    predictor = export(to_graph(network), Claims(norm=norm, lipschitz=1.0))[1]
    radii = predictor.predict(inputs.double().numpy(), norm).radii
    right = radii.label == labels.numpy()
    epsilon = float(np.quantile(radii.certified_radius[right], 0.5)) * 0.9999
    certified = (right & (radii.certified_radius >= epsilon)).mean()
    estimate = estimated_certified_accuracy(network, inputs, labels, epsilon=epsilon)
    assert certified > 0
    # with rows the file's own constants can only be tighter than the set's
    assert estimate == pytest.approx(certified, abs=0.01) or (estimate <= certified and outputs == 1)
    assert accuracy(network, inputs, labels) == pytest.approx(right.mean())
