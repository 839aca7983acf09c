"""The experiments, shortened; claims that hold after little training are checked."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lipmodel.errors import RecipeError
from lipmodel.training import figures
from lipmodel.training.recipes import load_recipe

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(figures, "ABSOLUTE_SCHEDULE", replace(figures.ABSOLUTE_SCHEDULE, epochs=60))
    monkeypatch.setattr(figures, "WIDTH_SCHEDULE", replace(figures.WIDTH_SCHEDULE, epochs=8))
    monkeypatch.setattr(figures, "WIDTHS", (4, 32))
    monkeypatch.setattr(figures, "load_recipe", lambda name, seed: load_recipe(name, seed=seed, epochs=8))


def test_the_three_experiments_reproduce_the_paper(short, tmp_path):
    shares = []
    numbers = figures.make_figures(tmp_path / "figures", shares.append)
    assert json.loads((tmp_path / "figures" / "figures.json").read_text()) == numbers
    for name in ("absolute_value", "two_moons_losses", "error_against_width"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(PNG)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)

    slopes = {name: part["observed_largest_slope"] for name, part in numbers["absolute_value"].items()}
    assert (
        slopes["relu"] < 0.9 < slopes["maxmin"] <= numbers["absolute_value"]["maxmin"]["bound_lipschitz"] <= 1
    )
    losses = numbers["two_moons_losses"]
    assert losses["bce"]["clean_accuracy"] < 0.9 < losses["hinge"]["clean_accuracy"]
    assert all(loss["bound_lipschitz"] <= 1 for loss in losses.values())
    errors = numbers["error_against_width"]["observed_root_mean_square_error"]
    assert errors["maxmin"][1] < errors["maxmin"][0]
    assert errors["maxmin"][1] < errors["relu"][1]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot write to"):
        figures.make_figures(tmp_path / "file")
