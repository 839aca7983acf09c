"""Step time and certified accuracy of ours and of peers' layers, in one run.

    python -m benchmarks.training [--epochs N] [--rounds N] [--folds N] [--json FILE]

needs, beside this project and none of its requirements,

    pip install deel-torchlip==1.0.5 orthogonium==0.0.4 monotonicnetworks==1.5.1

Every row is the same network (dense, MaxMin, 10 scores) with other layers; the activation is ours in
all of them, so that layers alone differ. One thread.

Step time: forward, cross-entropy, backward, Adam, and what keeps the constraint, on 256 digits, in a
net 64-256-256-10. In each of many short rounds a method is timed right after the same net without a
constraint; the figure is the median of the ratios, so that load on the machine weighs on both.
Ours are retracted after every second step, as ``lipmodel train`` does.
Prototypes are timed with the loss that they are trained by.

Certified accuracy: 5-fold on digits, in l2, a net 64-128-128-10. The recipe "digits" decides loss
(EMMA, with the differences of the last layer's own rows as bounds), epochs, batches and rate for all;
prototypes have a loss of their own, the hinge on the certified radius. Weights are then read as the
forward pass uses them, written to an ONNX file, and certified
from it by this project. No figure rests on what a library claims.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, linear
from torch.nn.utils import parametrizations

from benchmarks.tables import show
from benchmarks.tables import write as write_json
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.load import digits
from lipmodel.evaluate import evaluate
from lipmodel.network.writer import to_bytes, write_model
from lipmodel.norms import Norm
from lipmodel.training.activations import max_min
from lipmodel.training.constraints import RowNorm, Stiefel
from lipmodel.training.export.module_to_ops import write
from lipmodel.training.export.onnx_export import to_graph
from lipmodel.training.heads import ORDER, LinearHead, PrototypeHead
from lipmodel.training.layers import ConstrainedDense, keep_constraints
from lipmodel.training.losses import CertifiedRadiusHinge
from lipmodel.training.optimizer import PROJECTED_EVERY, minimise
from lipmodel.training.recipes import Schedule, load_recipe

try:
    import monotonicnetworks as lmn
    from deel import torchlip
    from orthogonium.layers.linear import OrthoLinear
    from orthogonium.reparametrizers import CHOLESKY_ORTHO_PARAMS
except ImportError as error:
    raise SystemExit(f"{error}; install what the first lines of this file name") from error

BATCH, RATE, STEPS = 256, 0.005, 4
EPSILON, FOLDS = 0.5, 5
PROTOTYPES = 20
TRAINED_FOR = 1.0  # the radius that prototypes are trained for
PLAIN = "GroupSort, no constraint"


# --- networks ------------------------------------------------------------------------------------


def body(first, layer, last, width, activation=max_min):
    """Return a network 64-width-width-10 of three kinds of layers."""
    hidden = [first(64, width), activation(), layer(width, width), activation()]
    return nn.Sequential(*hidden, last(width, 10))


def alike(layer, activation=max_min):
    """Return a maker of networks with one kind of layer."""
    return lambda width: body(layer, layer, layer, width, activation)


def ours(first, layer, norm):
    """Return a maker of networks: two constrained layers, and a head for features in the dual of ``norm``."""
    first, layer = (partial(ConstrainedDense, constraint=c) for c in (first, layer))
    return lambda width: body(first, layer, partial(LinearHead, constraint=RowNorm(norm=norm)), width)


def prototypes(width):
    """Return a network of orthogonal layers and a head of prototypes."""
    dense = partial(ConstrainedDense, constraint=Stiefel())
    head = partial(PrototypeHead, prototypes=PROTOTYPES, candidates=2, dropout=0.5)
    return body(dense, dense, head, width)


def monotonic(width):
    """Return a network with row norms for inputs in l2: ‖row‖_2, then ‖row‖_1."""
    first, rest = (partial(lmn.LipschitzLinear, kind=kind) for kind in ("two-inf", "inf"))
    return body(first, rest, rest, width)


NETWORKS = {
    "ReLU, no constraint": alike(nn.Linear, nn.ReLU),
    PLAIN: alike(nn.Linear),
    "ours, orthogonal": ours(Stiefel(), Stiefel(), Norm.TWO),
    "ours, rows": ours(RowNorm(norm=Norm.TWO), RowNorm(norm=Norm.ONE), Norm.ONE),
    "ours, prototypes": prototypes,
    "deel-torchlip": alike(torchlip.SpectralLinear),
    "deel-torchlip, eps_bjorck=None": alike(partial(torchlip.SpectralLinear, eps_bjorck=None)),
    "orthogonium, Björck": alike(OrthoLinear),
    "orthogonium, Cholesky": alike(partial(OrthoLinear, ortho_params=CHOLESKY_ORTHO_PARAMS)),
    "monotonicnetworks": monotonic,
    "torch, spectral_norm": alike(lambda n, m: parametrizations.spectral_norm(nn.Linear(n, m))),
    "torch, orthogonal": alike(lambda n, m: parametrizations.orthogonal(nn.Linear(n, m))),
}
COLUMNS = {
    "step × GroupSort": ("step", ".2f"),
    "step × ReLU": ("step_relu", ".2f"),
    "clean": ("clean", ".1%"),
    "certified": ("certified", ".1%"),
    "bound": ("bound", ".7f"),
    "training s": ("seconds", ".1f"),
}
"""Key and format of each column."""
UNCONSTRAINED = ("ReLU, no constraint", PLAIN)
BY_ROWS = ("ours, rows", "monotonicnetworks")  # features measured in linf, rows of the head in l1


@write.register
def _(module: nn.Linear, builder):
    """Write a peer's layer with the weight of its forward pass (all of them derive from torch's)."""
    plain = ConstrainedDense(*module.weight.T.shape, AsItIs())
    plain.weight.data, plain.bias.data = module.weight.detach().clone(), module.bias.detach().clone()
    write(plain, builder)


class AsItIs(Stiefel):
    """No constraint: the certificate is about a peer's weights as they are."""

    def finish(self, weight):
        """Return the weight unchanged."""
        return weight


# --- step time -----------------------------------------------------------------------------------


def stepper(make, x, y):
    """Return a function that trains a network of width 256 for a few steps and returns the seconds a step."""
    torch.manual_seed(0)
    network = make(256)
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    keep_constraints(optimiser, network, every=PROJECTED_EVERY)
    objective = objective_of(network, lambda network, x, y: cross_entropy(network(x) / 0.1, y))

    def seconds():
        started = time.perf_counter()
        for _ in range(STEPS):
            optimiser.zero_grad()
            objective(x, y).backward()
            optimiser.step()
        return (time.perf_counter() - started) / STEPS

    seconds()  # the first call allocates
    return seconds


def objective_of(network, otherwise):
    """Return the loss of prototypes, or the one given."""
    head = network[-1]
    if not isinstance(head, PrototypeHead):
        return partial(otherwise, network)
    hinge = CertifiedRadiusHinge(TRAINED_FOR)

    def objective(x, y):
        scores, bounds = head.compare(network[:-1](x), y)
        return hinge(scores, y, bounds)

    return objective


def step_times(rounds, x, y):
    """Return, by name, (median ratio to the unconstrained net, median seconds a step)."""
    steppers = {name: stepper(make, x[:BATCH], y[:BATCH]) for name, make in NETWORKS.items()}
    plain = stepper(NETWORKS[PLAIN], x[:BATCH], y[:BATCH])
    pairs = {name: [] for name in NETWORKS}
    for _ in range(rounds):
        for name, seconds in steppers.items():
            pairs[name].append((plain(), seconds()))
    return {
        name: (statistics.median(s / p for p, s in found), statistics.median(s for _, s in found))
        for name, found in pairs.items()
    }


# --- certified accuracy --------------------------------------------------------------------------


def trained(name, x, y, schedule, loss, seed):
    """Return a trained network of width 128, in eval mode."""
    torch.manual_seed(seed)
    network = NETWORKS[name](128)
    head = network[-1]
    order = ORDER[Norm.ONE if name in BY_ROWS else Norm.TWO]

    def margin_loss(network, x, y):
        rows = head.weight  # computed anew at each access where it is parametrised
        distances = torch.cdist(rows, rows, order, compute_mode="donot_use_mm_for_euclid_dist")
        return loss(linear(network[:-1](x), rows, head.bias), y, distances[y])

    if isinstance(head, PrototypeHead):
        head.place_(network[:-1](x).detach(), y, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    minimise(network, objective_of(network, margin_loss), (x, y), schedule, generator)
    return network.eval()


def accuracy(name, x, y, folds, schedule, loss):
    """Return clean and certified accuracy (means over folds), largest proved bound, seconds of a training."""
    fold_of = np.random.default_rng(0).permutation(len(x)) % FOLDS
    results = []
    for fold in range(folds):
        inside = torch.from_numpy(fold_of != fold)
        started = time.perf_counter()
        network = trained(name, x[inside], y[inside], schedule, loss, seed=fold)
        seconds = time.perf_counter() - started
        predictor = CertifiedPredictor(to_bytes(write_model(to_graph(network, (64,)), np.float32)))
        with torch.no_grad():
            scores = predictor.predict(x.double().numpy()).scores
            assert np.abs(scores - network(x).numpy()).max() < 1e-3, "the file is another network"
        measured = evaluate(predictor, x[~inside].double().numpy(), y[~inside].numpy(), Norm.TWO, [EPSILON])
        certified, bound = (
            measured.certified_accuracy[f"{EPSILON:g}"],
            predictor.bounds(Norm.TWO).bound_global,
        )
        results.append((measured.clean_accuracy, certified, bound, seconds))
    clean, certified, bound, seconds = zip(*results, strict=True)
    return statistics.mean(clean), statistics.mean(certified), max(bound), statistics.mean(seconds)


# --- the run -------------------------------------------------------------------------------------


def main():
    """Measure everything and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, help="of training; by default the recipe's")
    parser.add_argument("--rounds", type=int, default=100, help="of timing")
    parser.add_argument("--folds", type=int, default=FOLDS, help=f"of the {FOLDS} that are measured")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    x, y = torch.from_numpy(data.inputs.reshape(-1, 64)), torch.from_numpy(data.labels)
    times = step_times(args.rounds, x, y)
    recipe = load_recipe("digits", epochs=args.epochs)
    schedule = Schedule(recipe.training.epochs, recipe.training.batch_size, recipe.training.learning_rate)
    relu = times["ReLU, no constraint"][1]
    rows = []
    for name, (ratio, seconds) in times.items():
        row = {"network": name, "step": ratio, "step_relu": seconds / relu, "milliseconds": 1e3 * seconds}
        if name not in UNCONSTRAINED:
            figures = accuracy(name, x, y, args.folds, schedule, recipe.loss)
            row |= dict(zip(("clean", "certified", "bound", "seconds"), figures, strict=True))
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    write_json(args.json, rows)
    shown = [
        {"layers": row["network"]}
        | {title: f"{row[key]:{form}}" if key in row else "" for title, (key, form) in COLUMNS.items()}
        for row in rows
    ]
    show(f"step time, and accuracy on digits after {schedule.epochs} epochs (l2, ε = {EPSILON})", shown)
    step = {row["network"]: row["step"] for row in rows}
    own = step["ours, orthogonal"]
    print(
        f"ours, orthogonal: {own:.2f} × the net without constraint (1.25 asked), "
        f"deel-torchlip {step['deel-torchlip'] / own:.1f} × ours (4 asked)"
    )


if __name__ == "__main__":
    main()
