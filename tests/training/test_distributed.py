"""Two processes train the network of one up to rounding; missing devices and packages are named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from lipmodel.data.load import load_parts
from lipmodel.errors import MissingExtraError, RecipeError
from lipmodel.training.distributed import SINGLE_PROCESS, FabricGroup, launch
from lipmodel.training.train import plan, train_recipe

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {"network.widths": [16, 16], "training.batch_size": 64, "training.epochs": 1}
WAIT = 240  # seconds, on a machine that has other things to do

needs_fabric = pytest.mark.skipif(
    find_spec("lightning_fabric") is None, reason="lightning-fabric is not installed"
)


@pytest.fixture
def command(tmp_path):
    """Run ``lipmodel train digits`` by two processes; Fabric starts the second from the first's script."""
    script = tmp_path / "command.py"
    script.write_text("from lipmodel.cli import main\nmain()\n")

    def run(out, *more, settings=SETTINGS):
        given = [w for k, v in settings.items() for w in ("--set", f"{k}={json.dumps(v)}")]
        words = [sys.executable, script, "train", "digits", "--out", out, "--processes", "2", *given, *more]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), *sys.path))}
        return subprocess.Popen(
            [str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment, start_new_session=True,
        )  # fmt: skip

    return run


@needs_fabric
def test_two_processes_train_the_network_of_one(command, tmp_path):
    running = command(tmp_path / "two", "--json")
    planned = plan("digits", overrides={"settings": SETTINGS})
    alone = train_recipe(planned.recipe, planned.train, planned.held_out)
    said, output = running.communicate(timeout=WAIT)
    assert running.returncode == 0, output
    record = json.loads(said)  # of the first process; the second says nothing
    assert output.count("rows  ") == 1
    assert record["trained_by"] == "2 processes on cpu"
    assert alone.record()["trained_by"] == "1 process on cpu"
    assert record["model"]["bound_global"] <= 1.0
    assert record["history"][-1]["loss"] == pytest.approx(alone.history[-1].loss, rel=1e-4)
    assert record["clean_accuracy"] == pytest.approx(alone.evaluation.clean_accuracy, abs=0.005)
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == [
        f"digits.{e}" for e in ("html", "json", "onnx", "png", "samples.npz")
    ]


@needs_fabric
@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_to_the_same_file(command, tmp_path):
    long = SETTINGS | {"training.epochs": 40}
    cut = command(tmp_path / "cut", settings=long)
    cut.stderr.readline()  # what was understood of the data: both processes are there
    time.sleep(1.0)
    os.killpg(cut.pid, signal.SIGINT)
    _, output = cut.communicate(timeout=WAIT)
    assert cut.returncode == 130, output
    assert output.count("--resume") == 1
    assert (tmp_path / "cut" / "digits.checkpoint").is_file()
    for out, more in (("cut", ["--resume"]), ("whole", [])):
        running = command(tmp_path / out, *more, settings=long)
        _, output = running.communicate(timeout=WAIT)
        assert running.returncode == 0, output
    cut_off, whole = (tmp_path / out / "digits.onnx" for out in ("cut", "whole"))
    assert cut_off.read_bytes() == whole.read_bytes()


def test_one_process_needs_nothing():
    assert launch("cpu", 1) is SINGLE_PROCESS


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu():
    with pytest.raises(
        RecipeError, match=r"1 processes on cuda need 1 GPUs, and 0 were found; .*--device cpu"
    ):
        launch("cuda", 1)


def test_without_fabric(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(MissingExtraError, match=r"lipcert\[parallel\]"):
        launch("cpu", 2)


class Two:
    """Stand-in for Fabric in the second of two processes."""

    device, world_size, global_rank = torch.device("cpu"), 2, 1


def test_shares_are_of_every_row_once_and_never_empty():
    first, second = FabricGroup(type("One", (Two,), {"global_rank": 0})), FabricGroup(Two)
    for count in (2, 3, 7, 64):
        rows = torch.arange(count)
        assert sorted([*first.share(rows).tolist(), *second.share(rows).tolist()]) == rows.tolist()
    one = torch.tensor([5])
    assert first.share(one).tolist() == second.share(one).tolist() == [5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_trains_the_network_of_the_cpu():
    planned = plan("digits", overrides={"settings": SETTINGS})
    parts = load_parts("digits")
    on_gpu = train_recipe(planned.recipe, *parts, group=launch("cuda", 1))
    alone = train_recipe(planned.recipe, *parts)
    assert on_gpu.predictor.claim_proved
    assert on_gpu.evaluation.clean_accuracy == pytest.approx(alone.evaluation.clean_accuracy, abs=0.01)
