"""MNIST test points attacked by three methods: nothing may change label inside its certified radius.

    python -m benchmarks.attacks MODEL.onnx --data FOLDER [--points 10000] [--peers FOLDER] [--out FOLDER]

``ascent`` is ours: inside the radius (``ProjectedGradientDescent``), then for the nearest change at all
(``MinimumNormDescent``). ``ddn`` and ``deepfool`` are foolbox's (``lipmodel.audit.attacks.foolbox_attacks``).
Where the extra ``attacks`` is not installed, foolbox may lie in a folder of its own, made by

    pip install --no-deps --target FOLDER foolbox eagerpy GitPython gitdb smmap
    pip install --no-deps --target FOLDER requests urllib3 certifi charset_normalizer idna

The predictor itself judges the inputs that a method returns: a success is an input with another label, at its
distance rounded up. Every 250 points are kept under --out, and a second run continues from there. Radii are
in l2.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.tables import show, write
from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.descent import MinimumNormDescent, ProjectedGradientDescent
from lipmodel.audit.attacks.registry import ATTACKS
from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.stream import open_stream
from lipmodel.norms import Norm
from lipmodel.progress import silent
from lipmodel.threat import BALLS

CHUNK = 250
NORM = Norm.TWO


METHODS = ("ascent", "ddn", "deepfool")


def attack(method, task, radius):
    """Return the nearest changes of label that a method finds; by ours inside the radius, and at all."""
    if method != "ascent":
        return ATTACKS[method](task, silent)
    return ProjectedGradientDescent(np.maximum(radius, 1e-12))(task).nearer(MinimumNormDescent()(task))


def measure(predictor, engine, x, method, folder):
    """Return radii and distances of a chunk, and the seconds it took; they are kept in a file."""
    if folder.exists():
        with np.load(folder) as kept:
            return kept["radius"], kept["distance"], float(kept["seconds"])
    before = predictor.predict(x, NORM).radii
    started = time.perf_counter()
    distance = attack(method, AttackTask(predictor, engine, x, BALLS[NORM]), before.certified_radius).distance
    seconds = time.perf_counter() - started
    part = folder.with_suffix(".part.npz")
    np.savez(part, radius=before.certified_radius, distance=distance, seconds=seconds)
    part.replace(folder)
    return before.certified_radius, distance, seconds


def main():
    """Attack and print one table; exit with status 1 where a label changed inside its radius."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True, help="as for lipmodel evaluate")
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--peers", help="folder that foolbox was installed to")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--out", type=Path, default=Path("out/attacks"))
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peers:
        sys.path.append(args.peers)
    predictor = CertifiedPredictor(args.model)
    engine = GradientEngine(predictor.file.graph)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for method in args.methods:
        parts = []
        for index, (inputs, _) in enumerate(open_stream(args.data).batches(CHUNK)):
            if index * CHUNK >= args.points:
                break
            x = predictor.check_inputs(inputs)[: args.points - index * CHUNK]
            name = f"{predictor.file.sha256[:12]}-{method}-{index * CHUNK}-{len(x)}.npz"
            parts.append(measure(predictor, engine, x, method, args.out / name))
            print(f"{method}: {index * CHUNK + len(x)} points", file=sys.stderr, flush=True)
        radius, distance = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
        both = (radius > 0) & np.isfinite(distance)
        rows.append(
            {
                "method": method,
                "points": len(radius),
                "certified": int((radius > 0).sum()),
                "changed": int(np.isfinite(distance).sum()),
                "inside": int((distance <= radius).sum()),
                "median_ratio": float(np.median((radius / distance)[both])),
                "largest_ratio": float((radius / distance)[both].max()),
                "seconds": sum(part[2] for part in parts),
            }
        )
    show(f"{args.model.name}: label changes found, l2", rows)
    write(args.json, rows)
    sys.exit(1 if any(row["inside"] for row in rows) else 0)


if __name__ == "__main__":
    main()
