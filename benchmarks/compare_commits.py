"""Compare an older commit with the present tree: everything that they make and answer must be equal.

    git worktree add ../old COMMIT
    python -m benchmarks.compare_commits --baseline ../old

Both trees get the same models (of tests/corpus, examples and tests/networks, and those that they train),
rows, labels and requests: ``benchmarks.commit_answers`` lists them, and the fields that are not compared.
Numbers, files, certificates and bodies are compared bit for bit; of an error status, problem and fields; of
the OpenAPI document and the commands all but texts. Exit status 1 where anything differs. Some five minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import commit_answers
from tests import networks
from tests.corpus.verdicts import files

ROOT = Path(__file__).resolve().parents[1]
THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

Values = dict[str, Any]


def write_models(folder: Path) -> None:
    """Write the models that both trees read."""
    net = networks.groupsort_net((6, 16, 16), 4, seed=1)
    made = {
        "groupsort": net,
        "rows": networks.groupsort_net((6, 16, 16), 4, seed=2, kind="rows", group_size=4),
        "binary": networks.groupsort_net((2, 16, 16), 1, seed=3),
        "uneven": networks.uneven(net),
        "relu": networks.with_activation(net, networks.relu),
        "n": networks.with_activation(net, networks.n_activation),
        "top-k": networks.with_activation(net, networks.top_k),
        "linear": networks.linear_net(np.random.default_rng(0).normal(size=(3, 5))),
        "flat": networks.linear_net(np.zeros((2, 2))),
    }
    made |= {f"tree-{n}": networks.entrywise_tree(np.random.default_rng(n), 4) for n in range(8)}
    models = {f"made-{name}.onnx": networks.to_file(graph) for name, graph in made.items()}
    models |= {f"corpus-{name}": content for name, content in files().items()}
    models["made-float64.onnx"] = networks.to_file(replace(net), dtype=np.float64)
    shutil.copytree(ROOT / "examples" / "models", folder)
    for name, content in models.items():
        (folder / name).write_bytes(content)


def found_of(trees: list[Path], work: Path) -> list[dict[str, Values]]:
    """Return the findings of each tree; both run at the same time.

    Raises:
        SystemExit: a tree cannot do what is asked of it; it has said why.
    """
    places = [work / name for name in ("before", "now")]
    environments = [os.environ | THREADS | {"PYTHONPATH": str(tree)} for tree in trees]
    write_models(work / "models")
    new_key = [sys.executable, "-P", "-m", "service", "keys", "new-signing", "signing.json"]
    subprocess.run(new_key, env=environments[0], cwd=work, check=True, stdout=subprocess.DEVNULL)
    for place in places:
        shutil.copytree(work / "models", place / "models")
        shutil.copy(work / "signing.json", place)
    command = [sys.executable, "-P", commit_answers.__file__]
    given = zip(places, environments, strict=True)
    running = [subprocess.Popen([*command, place], env=variables, cwd=work) for place, variables in given]
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise SystemExit("a tree could not be looked at")
    return [json.loads((place / "found.json").read_text()) for place in places]


def first_difference(before: Any, now: Any, place: str = "") -> str:
    """Return where two JSON values, which differ, do so first, and how."""
    if isinstance(before, dict) and isinstance(now, dict):
        if changed := sorted(before.keys() ^ now.keys()):
            return f"{place}: {changed[0]} only {'before' if changed[0] in before else 'now'}"
        key = next(key for key in before if before[key] != now[key])
        return first_difference(before[key], now[key], f"{place}.{key}")
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        number = next(n for n in range(len(now)) if before[n] != now[n])
        return first_difference(before[number], now[number], f"{place}[{number}]")
    return f"{place}: {str(before)[:100]} → {str(now)[:100]}"


def differences(before: Values, now: Values) -> list[str]:
    """Return a line for each name whose values differ."""
    return [
        f"{name}: {first_difference(before.get(name), now.get(name))}"
        for name in dict.fromkeys([*before, *now])
        if name not in before or name not in now or before[name] != now[name]
    ]


@click.command()
@click.option(
    "--baseline",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Worktree of the commit to compare with.",
)
@click.option("--shown", default=20, show_default=True, help="Differences to print of each section.")
def main(baseline: Path, shown: int) -> None:
    """Print how many of each section were compared and how many differ, and the differences."""
    with tempfile.TemporaryDirectory(prefix="compare-commits-") as work:
        before, now = found_of([baseline.resolve(), ROOT], Path(work))
    found = {title: differences(before[title], now[title]) for title in now}
    print("| | compared | differ |\n|---|---|---|")
    for title, lines in found.items():
        print(f"| {title} | {len(before[title].keys() | now[title].keys())} | {len(lines)} |")
    print(f"\nNot compared: texts, and the values of {', '.join(sorted(commit_answers.MASKED))}.")
    for title, lines in found.items():
        print("".join(f"\n{title}: {line}" for line in lines[:shown]), end="")
        print(f"\n{title}: {len(lines) - shown} more" if len(lines) > shown else "", end="")
    print()
    sys.exit(any(found.values()))


if __name__ == "__main__":
    main()
