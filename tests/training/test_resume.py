"""An interrupted training resumes bit for bit; other checkpoints are refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from lipmodel.cli import main
from lipmodel.data.load import two_moons
from lipmodel.errors import RecipeError, TrainingError, TrainingInterruptedError
from lipmodel.files import write_whole
from lipmodel.training import checkpoint as checkpoint_module
from lipmodel.training import progress
from lipmodel.training.checkpoint import Checkpoint
from lipmodel.training.loop import Control
from lipmodel.training.losses import HingeKantorovichRubinstein
from lipmodel.training.train import Plan, carry_out, plan, train_recipe
from tests.seeds import shifted
from tests.training.small import small_recipe

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"network.widths": [16, 16], "training.batch_size": 250, "training.epochs": 3}  # 12 steps an epoch
EVERYTHING = {
    "training.averaging": "exponential", "training.averaging_share": 0.8,
    "training.validation": 0.2, "training.patience": 3,
}  # fmt: skip


def command(out, settings, send):
    """Run ``lipmodel train two-moons``, which saves its state after each step and sends itself a signal in the 20th."""
    given = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]

    @contextmanager
    def bar(*_):
        yield lambda status: os.kill(os.getpid(), send) if status.step == 20 else None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint_module, "INTERVAL", 0.0)
        patch.setattr(progress, "training_bar", bar)
        return CliRunner().invoke(main, ["train", "two-moons", "--out", str(out), *given])


KILLED = """
import json, signal, sys
from tests.training.test_resume import command
command(sys.argv[1], json.loads(sys.argv[2]), signal.SIGKILL)
"""


@pytest.mark.parametrize("more", [{}, EVERYTHING], ids=["plain", "averaged and stopped early"])
def test_killed_and_resumed_is_the_same_file(tmp_path, more):
    settings = SMALL | more
    planned = plan("two-moons", overrides={"settings": settings})
    whole = train_recipe(planned.recipe, planned.train, planned.held_out)
    process = [sys.executable, "-c", KILLED, tmp_path, json.dumps(settings)]
    assert subprocess.run(process, check=False, cwd=ROOT).returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["two-moons.checkpoint"]
    (tmp_path / ".two-moons.checkpoint.half").write_bytes(b"what a write cut short leaves")
    steps = []
    resumed = carry_out(planned, tmp_path, resume=True, control=Control(watch=lambda s: steps.append(s.step)))
    assert steps[0] == 20  # the last step but one had been saved
    assert {p.name for p in tmp_path.iterdir()} == {f"two-moons.{e}" for e in ("onnx", "json", "png", "html")}
    assert resumed.content == whole.content == (tmp_path / "two-moons.onnx").read_bytes()
    records = [json.loads(json.dumps(whole.record())), json.loads((tmp_path / "two-moons.json").read_text())]
    for record in records:
        assert record.pop("seconds") > 0
    assert records[0] == records[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_names_the_remedy_and_exits_with_130(tmp_path, number):
    cut = command(tmp_path, SMALL, number)
    assert cut.exit_code == 130, cut.stderr
    assert cut.stderr.splitlines()[-1] == (
        f"interrupted in epoch 2 of 3; the state is saved in {tmp_path / 'two-moons.checkpoint'}; "
        "to continue, repeat the command with --resume"
    )
    assert isinstance(cut.exception, SystemExit)
    state = torch.load(tmp_path / "two-moons.checkpoint", weights_only=True)["state"]
    assert state["descent"]["step"] == 20  # the step that was under way is in it
    with pytest.raises(
        RecipeError, match="unfinished training; continue it with --resume, or delete the file"
    ):
        carry_out(plan("two-moons", overrides={"settings": SMALL}), tmp_path)


# --- in this process -----------------------------------------------------------------------

MOONS = two_moons(400).split()


def interrupted(out):
    seen = []
    control = Control(watch=seen.append, stop=lambda: nullcontext(lambda: len(seen) == 4))
    with pytest.raises(
        TrainingInterruptedError, match=r"interrupted in epoch 2 of 2; the state is saved in "
    ):
        carry_out(Plan(small_recipe(), *MOONS), out, control=control)
    return out / "two-moons.checkpoint"


def test_other_data_or_another_torch_are_refused(tmp_path, monkeypatch):
    interrupted(tmp_path)
    other = two_moons(400, seed=1).split()
    with pytest.raises(TrainingError, match=r"the training data's sha256 was"):
        carry_out(Plan(small_recipe(), other[0], MOONS[1]), tmp_path, resume=True)
    with pytest.raises(TrainingError, match=r"the held-out data's sha256 was"):
        carry_out(Plan(small_recipe(), MOONS[0], other[1]), tmp_path, resume=True)
    with pytest.raises(TrainingError, match=rf"recipe.seed was {shifted(0)} and is now 5"):
        carry_out(Plan(small_recipe(seed=5), *MOONS), tmp_path, resume=True)
    monkeypatch.setattr(torch, "__version__", "1.0")
    with pytest.raises(TrainingError, match=r'the version of torch was ".*" and is now "1.0"'):
        carry_out(Plan(small_recipe(), *MOONS), tmp_path, resume=True)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(
        TrainingError, match=r"there is no checkpoint .*two-moons.checkpoint to resume from; train without"
    ):
        carry_out(Plan(small_recipe(), *MOONS), tmp_path, resume=True)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(tmp_path, keep):
    path = interrupted(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(TrainingError, match=r"cannot be read as a checkpoint .*delete it and train again"):
        carry_out(Plan(small_recipe(), *MOONS), tmp_path, resume=True)


class RunsACommand:
    def __reduce__(self):
        return os.system, ("touch ran",)


@pytest.mark.parametrize(
    "content", [RunsACommand(), [1, 2], {"format": 2}, {"format": 1, "identity": RunsACommand(), "state": {}}]
)
def test_a_file_that_is_no_checkpoint_is_refused_and_runs_nothing(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "two-moons.checkpoint")
    with pytest.raises(TrainingError, match=r"cannot be read as a checkpoint"):
        carry_out(Plan(small_recipe(), *MOONS), tmp_path, resume=True)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_whose_state_does_not_fit_is_refused(tmp_path):
    path = interrupted(tmp_path)
    content = torch.load(path, weights_only=True)
    content["state"]["descent"]["network"] = {}
    torch.save(content, path)
    with pytest.raises(TrainingError, match=r"does not match this training's network"):
        carry_out(Plan(small_recipe(), *MOONS), tmp_path, resume=True)


def test_a_loss_that_is_no_number_leaves_no_checkpoint_that_leads_there_again(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint_module, "INTERVAL", 0.0)
    values = iter([0.25, 0.125, 0.5, torch.nan])
    monkeypatch.setattr(
        HingeKantorovichRubinstein, "__call__", lambda _, scores, *__: scores.sum() * 0.0 + next(values)
    )
    message = (
        r"the loss is nan in epoch 2, step 1 of 3 \(last finite loss: 0.5\); try a learning_rate below 0.005"
    )
    with pytest.raises(TrainingError, match=message):
        carry_out(Plan(small_recipe(), *MOONS), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_are_written_when_they_are_due(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Checkpoint, "write", lambda self, state: written.append(state["descent"]["step"]))
    control = Control(checkpoint=Checkpoint(tmp_path / "x", {}))
    train_recipe(small_recipe(), *MOONS, control=control)
    assert written == []  # it takes less than INTERVAL
    monkeypatch.setattr(checkpoint_module, "INTERVAL", 0.0)
    train_recipe(small_recipe(), *MOONS, control=control)
    assert written == [1, 2, 3, 4, 5, 6]


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space"):
        write_whole(path, b"after")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


def test_no_permission_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the super-user may write anywhere
    with pytest.raises(RecipeError, match=r"cannot write to .*no permission"):
        carry_out(
            Plan(small_recipe(), *MOONS), tmp_path, control=Control(watch=lambda _: pytest.fail("trained"))
        )
