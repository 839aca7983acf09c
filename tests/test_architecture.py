"""Imports at run time, and tests that the linter and the import contracts detect violations."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def modules_after(statement: str) -> set[str]:
    """Return the modules that are loaded once a new interpreter has run a statement."""
    code = f"import sys; {statement}; print('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "module",
    ["lipmodel", "lipmodel.certify.predictor", "lipmodel.audit.report", "lipmodel.evaluate", "lipmodel.cli",
     "lipmodel.data.load", "service.app"],
)  # fmt: skip
def test_no_torch_without_training(module):
    assert not {"torch", "sklearn", "matplotlib"} & modules_after(f"import {module}")


def test_the_torch_guard_can_catch():
    assert "torch" in modules_after("import lipmodel.training.layers")


def test_layers_heads_and_losses_need_nothing_of_recipes_and_loops():
    parts = ("activations", "constraints", "convolutions", "export.onnx_export", "heads", "layers", "losses")
    found = modules_after("import " + ", ".join(f"lipmodel.training.{part}" for part in parts))
    assert "lipmodel.training.export.module_to_ops" in found
    assert not {f"lipmodel.training.{part}" for part in ("recipes", "network", "loop", "train")} & found
    assert not {"sklearn", "matplotlib"} & found


def test_importing_the_package_imports_none_of_its_parts():
    assert not {m for m in modules_after("import lipmodel") if m.startswith("lipmodel.")}


def test_the_linter_catches_a_torch_import_inside_a_function(tmp_path):
    offender = tmp_path / "offender.py"
    offender.write_text('"""x"""\n\n\ndef f() -> None:\n    """x"""\n    import torch  # noqa: F401\n')
    run = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(offender)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "TID251" in run.stdout


OFFENDERS = {
    "imports run one way": ("lipmodel/norms.py", "lipmodel.data.load"),
    "imports of the service run one way": ("service/inference/pipeline.py", "service.http.server"),
    "the framework stays in the routes, the application and the problems": ("service/wire.py", "fastapi"),
    "verification imports nothing of the proof that it verifies": ("lipmodel/verify/check.py", "lipmodel.certify.radius"),
    "only training imports torch": ("lipmodel/errors.py", "torch"),
    "the client needs nothing of what it talks to": ("lipcert/errors.py", "pydantic"),
}  # fmt: skip


def test_every_import_contract_catches_an_import_against_it(tmp_path):
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    assert [contract["name"] for contract in contracts] == list(OFFENDERS)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("lipmodel", "service", "lipcert"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file, module in OFFENDERS.values():
        with (tmp_path / file).open("a") as text:
            text.write(f"import {module}\n")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    assert run.returncode == 1
    assert [name for name in OFFENDERS if f"{name} BROKEN" not in run.stdout] == []
