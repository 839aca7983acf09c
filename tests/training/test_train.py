from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from rich.console import Console

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.dataset import Dataset
from lipmodel.data.load import load_parts, two_moons
from lipmodel.errors import DataError, RecipeError, TrainingError
from lipmodel.norms import Norm
from lipmodel.training import train as train_module
from lipmodel.training.loop import Control, Epoch, Status, deterministic
from lipmodel.training.losses import LOSSES, Hinge, Loss
from lipmodel.training.progress import training_bar
from lipmodel.training.recipes import load_recipe, parse_recipe
from lipmodel.training.train import carry_out, plan, train_recipe
from tests.seeds import shifted
from tests.training.small import small_recipe

MOONS = two_moons(400).split()


def test_the_same_seed_gives_the_same_bytes_and_another_does_not():
    first, second = (train_recipe(small_recipe(), *MOONS) for _ in range(2))
    assert first.content == second.content
    assert first.plot() == second.plot()
    other = train_recipe(small_recipe(seed=1), *MOONS)
    assert other.content != first.content


@pytest.mark.parametrize("name", ["two-moons", "digits"])
@pytest.mark.parametrize("norm", ["1", "2", "inf"])
def test_both_recipes_train_in_every_norm_within_the_constant(name, norm):
    trained = train_recipe(small_recipe(name, norm=norm, lipschitz=2.5, epochs=3), *load_parts(name))
    record = trained.record()
    assert 0 < record["model"]["bound_global"] <= 2.5
    assert trained.predictor.claim_proved
    assert trained.predictor.default_norm == Norm(norm)
    assert record["clean_accuracy"] > 0.5
    assert record["model"]["largest_difference_to_torch"] < 2e-5


@pytest.mark.parametrize(
    "network",
    [
        {"widths": (), "head": "prototypes", "prototypes": 8},
        {"widths": (32,), "head": "prototypes", "prototypes": 4},
        {"widths": (16, 16), "body": "convolutional"},
        {"widths": (32,), "head": "normalised", "activation": "householder"},
    ],
)
def test_bodies_and_heads_of_recipes_train_and_keep_the_constant(network):
    recipe = load_recipe("digits", epochs=2)
    recipe = replace(recipe, network=replace(recipe.network, **network), loss=LOSSES["radius-hinge"](1.0))
    trained = train_recipe(recipe, *load_parts("digits"))
    record = trained.record()
    assert record["clean_accuracy"] > 0.7
    assert 0.5 < record["model"]["bound_global"] <= 1.0
    assert record["model"]["largest_difference_to_torch"] < 2e-5
    assert trained.predictor.file.graph.input_shape == (64,)
    assert parse_recipe(_as_toml(record["recipe"]), "again").network == recipe.network


def _as_toml(recipe):
    """Return the recipe in a training record."""
    lines = [f"data = '{recipe['data']}'", f"epsilons = {list(recipe['epsilons'])}"]
    for part in ("network", "loss", "training"):
        lines.append(f"[{part}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in recipe[part].items() if value is not None]
    return "\n".join(lines)


PARAMETERS = {"bce": (), "cross-entropy": (0.05,), "logit-annealing": (0.1, 0.2, 1.0)}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_loss_learns(name):
    loss: Loss = LOSSES[name](*PARAMETERS.get(name, (0.2,)))
    trained = train_recipe(replace(small_recipe(epochs=8), loss=loss), *MOONS)
    assert trained.history[-1].loss < trained.history[0].loss
    assert trained.evaluation.clean_accuracy > 0.65  # the majority-class baseline is about 0.5
    assert trained.predictor.file.graph.output_shape == ((1,) if loss.binary else (2,))


def test_the_record_equals_a_new_evaluation_of_the_file(tmp_path):
    trained = carry_out(plan("two-moons", overrides={"epochs": 2}), tmp_path / "new")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "two-moons.html", "two-moons.json", "two-moons.onnx", "two-moons.png",
    ]  # fmt: skip
    content = (tmp_path / "new" / "two-moons.onnx").read_bytes()
    record = json.loads((tmp_path / "new" / "two-moons.json").read_text())
    assert content == trained.content
    held_out = load_parts("two-moons")[1]
    # scores of the file by onnxruntime, in its own float32; radius = |score| / ‖bound‖, in plain arithmetic
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    scores = session.run(None, {session.get_inputs()[0].name: held_out.inputs})[0][:, 0].astype(np.float64)
    right = (scores > 0) == (held_out.labels == 1)
    radius = np.abs(scores) / CertifiedPredictor(content).bounds(Norm.TWO).bound_global
    assert record["clean_accuracy"] == right.mean()
    assert set(record["certified_accuracy"]) == {"0.05", "0.1", "0.15", "0.2", "0.3"}
    for epsilon, share in record["certified_accuracy"].items():
        assert share == pytest.approx((right & (radius >= float(epsilon))).mean(), abs=1 / len(radius))
    assert record["average_certified_radius"] == pytest.approx(np.where(right, radius, 0).mean(), rel=1e-5)
    assert record["data"]["held_out"]["sha256"] == held_out.digest
    assert record["model"]["bytes"] == len(content)
    assert [epoch["number"] for epoch in record["history"]] == [1, 2]
    assert record["versions"]["torch"] == torch.__version__


def test_the_file_carries_its_recipe_and_figures_and_nothing_of_time_or_place():
    trained = train_recipe(small_recipe(norm="inf", lipschitz=2), *MOONS)
    claims = trained.predictor.claims
    assert claims.ignored == ()
    assert (claims.norm, claims.lipschitz, claims.classes) == (Norm.INF, 2.0, ("upper", "lower"))
    assert claims.input_box == (MOONS[0].inputs.min(), MOONS[0].inputs.max())
    assert claims.record["recipe"]["seed"] == shifted(0)
    assert claims.record["data_sha256"] == MOONS[0].digest
    assert claims.record["held_out"] == trained.evaluation.summary()
    assert set(claims.record) == {"recipe", "data_sha256", "input_shape", "units", "held_out"}


def test_a_loss_that_is_no_number_stops_with_the_epoch():
    inputs = MOONS[0].inputs * np.float32(1e38)
    broken = Dataset("huge", inputs, MOONS[0].labels, MOONS[0].classes, (2,), "")
    with pytest.raises(TrainingError, match=r"the loss is (inf|nan) in epoch 1"):
        train_recipe(small_recipe(), broken, MOONS[1])


def test_two_classes_need_a_binary_loss_or_none():
    with pytest.raises(RecipeError, match="2 classes and digits has 10"):
        train_recipe(replace(small_recipe("digits"), loss=Hinge()), *load_parts("digits"))


def test_bad_use_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(train_module, "train_recipe", lambda *_, **__: pytest.fail("trained all the same"))
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match=r"cannot write to .*file"):
        carry_out(plan("two-moons"), tmp_path / "file")
    with pytest.raises(DataError, match="mnist needs --data-dir, the folder of its files"):
        plan("mnist")
    with pytest.raises(RecipeError, match="unknown recipe"):
        plan("moons")


def test_progress_is_reported_after_each_step():
    seen: list[Status] = []
    train_recipe(small_recipe(), *MOONS, control=Control(watch=seen.append))
    shares = [status.share for status in seen]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(shares) == 2 * 3  # epochs × batches of 100
    assert [status.step for status in seen] == [1, 2, 3, 4, 5, 6]
    assert [status.epoch and status.epoch.number for status in seen] == [None, None, 1, 1, 1, 2]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_shows_on_a_terminal_only(terminal):
    console = Console(force_terminal=terminal, width=200, record=True)
    with console.capture() as capture, training_bar("digits", 0.5, console) as watch:
        watch(Status(1, 0.5, 0.25, None))
        watch(Status(2, 1.0, 0.125, Epoch(1, 0.2, 0.8, 0.75, 0.625)))
    shown = " ".join(capture.get().split())
    expected = ("digits", "0.1250", "clean 75.0%", "certified at 0.5: 62.5% (estimate)", "0:00:0")
    assert [part in shown for part in expected] == [terminal] * len(expected)


def test_determinism_is_put_back_as_it_was():
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with deterministic(before[0] + 1):
        assert torch.get_num_threads() == before[0] + 1
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
