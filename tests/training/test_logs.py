from __future__ import annotations

import sys

import pytest

from lipmodel.errors import MissingExtraError, RecipeError
from lipmodel.training.loop import Epoch, Status
from lipmodel.training.progress import tensorboard


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with (
        pytest.raises(MissingExtraError, match=r"--log-dir requires .*lipcert\[logs\]"),
        tensorboard(tmp_path),
    ):
        pass
    with tensorboard(None) as watch:
        watch(Status(1, 0.5, 0.25, None))


def output(folder):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(folder))
    events.Reload()
    return {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_reads_the_logged_scalars(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    epochs = [Epoch(1, 0.5, 0.75, 0.625, 0.25), Epoch(2, 0.25, 0.875, 0.75, 0.5, 0.375)]
    with tensorboard(tmp_path / "logs") as watch:
        for step, epoch in ((1, None), (2, epochs[0]), (3, epochs[0]), (4, epochs[1])):
            watch(Status(step, step / 4, 1.0 / step, epoch))
    scalars = output(tmp_path / "logs")
    assert scalars["loss/batch"] == [(s, pytest.approx(1 / s)) for s in (1, 2, 3, 4)]
    assert scalars["epoch/held_out_accuracy"] == [(1, 0.625), (2, 0.75)]
    assert scalars["epoch/estimated_certified_accuracy"] == [(1, 0.25), (2, 0.5)]
    assert scalars["epoch/validation_loss"] == [(2, 0.375)]
    assert "epoch/number" not in scalars
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot write to"), tensorboard(tmp_path / "file" / "logs"):
        pass
