"""The corpus: small ONNX files, and the verdict, bounds and radii of each at fixed inputs.

``files.zip`` holds the files: those that the tests read, the exports of other libraries, the examples.
``verdicts.json`` holds the verdict of each, as of the last time that it was recorded. After a change that is
meant to alter a verdict,

    python -m tests.corpus.verdicts --reason "why the verdicts changed"

records the verdicts again and adds the names that changed, with the reason, to ``changes.md``. ``--add FILE``
adds a file to the corpus.
"""

from __future__ import annotations

import argparse
import json
import math
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import ModelError
from lipmodel.norms import Norm

FOLDER = Path(__file__).parent
ARCHIVE, VERDICTS, CHANGES = FOLDER / "files.zip", FOLDER / "verdicts.json", FOLDER / "changes.md"
TOLERANCE = 1e-6
"""Relative tolerance of numbers: the BLAS of another processor sums in another order."""


def files() -> dict[str, bytes]:
    """Return the content of every file by name."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def recorded() -> dict[str, Any]:
    """Return the recorded verdict of every file by name."""
    verdicts: dict[str, Any] = json.loads(VERDICTS.read_text("ascii"))
    return verdicts


def fixed_inputs(size: int) -> np.ndarray:
    """Return three inputs of ``size`` numbers, multiples of 1/16 in [-2, 2): exact in every float format."""
    k = np.arange(size)
    return np.stack([(37 * k + 11 * i + 5) % 64 - 32.0 for i in range(3)]) / 16.0


def verdict(content: bytes) -> dict[str, Any]:
    """Return the verdict on a file: refused by which error, or certified with which bounds and radii."""
    try:
        predictor = CertifiedPredictor(content)
    except ModelError as error:
        return {"verdict": "refused", "error": type(error).__name__, "operator": getattr(error, "op", "")}
    x = fixed_inputs(predictor.file.graph.input_size)
    certified: dict[str, Any] = {"verdict": "certified", "portable": predictor.file.portable, "norms": {}}
    for norm in Norm:
        predictions = predictor.predict(x, norm)
        certified["labels"] = predictions.radii.label.tolist()
        certified["scores"] = predictions.scores.tolist()
        certified["norms"][str(norm)] = {
            "bound_global": float(predictor.bounds(norm).bound_global),
            "certified_radius": predictions.radii.certified_radius.tolist(),
            "radius_float32_portable": predictor.portable_radii(x, norm).tolist(),
        }
    return certified


def same(left: Any, right: Any) -> bool:
    """Return True if two verdicts agree, with numbers within the tolerance."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=1e-9)
    return bool(left == right)


def main() -> None:
    """Record the corpus again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--reason", help="why verdicts changed; required where any did")
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="files to add to the corpus")
    arguments = parser.parse_args()
    contents = files() if ARCHIVE.exists() else {}
    contents |= {path.name: path.read_bytes() for path in arguments.add}
    before = recorded() if VERDICTS.exists() else {}
    now = {name: verdict(content) for name, content in sorted(contents.items())}
    changed = [name for name in now if name in before and not same(before[name], now[name])]
    if changed and not arguments.reason:
        parser.error(f"{len(changed)} verdicts changed ({', '.join(changed[:5])} …); give --reason")
    with zipfile.ZipFile(ARCHIVE, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in now:
            archive.writestr(zipfile.ZipInfo(name), contents[name], zipfile.ZIP_DEFLATED)
    kept = {name: before[name] if name in before and name not in changed else now[name] for name in now}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(kept[name])}" for name in kept)
    VERDICTS.write_text(f"{{\n{lines}\n}}\n", "ascii")
    if changed:
        with CHANGES.open("a", encoding="ascii") as log:
            log.write(f"\n## {date.today()}: {arguments.reason}\n\n")
            for name in changed:
                log.write(
                    f"* `{name}`: {_summary(before[name])} → {_summary(now[name])}\n".replace("→", "->")
                )
    print(f"{len(now)} files, {len(now.keys() - before.keys())} new, {len(changed)} changed")


def _summary(one: dict[str, Any]) -> str:
    if one["verdict"] == "refused":
        return f"refused ({one['error']}{', ' + one['operator'] if one['operator'] else ''})"
    bounds = ", ".join(f"l{norm} {found['bound_global']:.6g}" for norm, found in one["norms"].items())
    return f"certified ({bounds}{'' if one['portable'] else ', not portable'})"


if __name__ == "__main__":
    main()
