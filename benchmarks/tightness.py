"""Tightness of radii: ours, the tighter tier, CROWN, α-CROWN and smoothing, beside the best attack.

    python -m benchmarks.tightness [--points 60] [--peers FOLDER] [--json FILE]

One run trains the networks (kept under out/tightness), takes the first held-out points and gives,
for each, every method's radius over the distance of the nearest change of label that an attack
found: 1 would be exact, and no sound method can exceed it. Times are per point, on one thread.

CROWN and α-CROWN are those of auto_LiRPA (Zhang et al. 2018; Xu et al. 2021), by bisection between
0 and the attack, the second from the first's radius. Their radii are of real arithmetic: no rounding
is accounted for. auto_LiRPA is no requirement of Lipcert; its release 0.3 asks for old versions of
torch and numpy, so it goes into a folder by itself:

    pip install --no-deps --target FOLDER auto_LiRPA appdirs tqdm

Smoothing (Cohen et al. 2019; 10,000 samples) certifies another classifier, the smoothed one, in l2,
each radius with probability 99.9%: it may exceed what an attack on the network itself finds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import types
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import beta
from torch import nn

from benchmarks.tables import show, write
from fuzz.sizes import model, node
from lipmodel.audit.attacks.attack import AttackTask
from lipmodel.audit.attacks.registry import find_nearest
from lipmodel.audit.gradient import GradientEngine
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.load import load_parts
from lipmodel.network import ops
from lipmodel.norms import Norm
from lipmodel.threat import BALLS
from lipmodel.training.losses import MultiClassHinge
from lipmodel.training.recipes import load_recipe
from lipmodel.training.train import train_recipe

CACHE = Path("out/tightness")
ALPHA_POINTS = 12  # α-CROWN is given fewer points: it takes seconds for each
HELP = "pip install --no-deps --target FOLDER auto_LiRPA appdirs tqdm, then --peers FOLDER"


# --- the networks ------------------------------------------------------------------------------


def recipe_net(name, norm, *, activation=None, loss=None):
    """Return the file of a recipe, with another activation or loss if given."""
    recipe = load_recipe(name, norm=norm)
    if activation:
        recipe = replace(recipe, network=replace(recipe.network, activation=activation))
    if loss:
        recipe = replace(recipe, loss=loss)
    return train_recipe(recipe, *load_parts(recipe.data, None)).content


def plain_net():
    """Return the file of an ordinary ReLU network, trained for accuracy alone."""
    data = load_parts("digits", None)[0]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    x, y = torch.from_numpy(data.inputs).float(), torch.from_numpy(data.labels)
    optimiser = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-4)
    for _ in range(40):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
    nodes, constants, last = [], {}, "x"
    for index, layer in enumerate(net):
        if isinstance(layer, nn.Linear):
            constants |= {
                f"w{index}": layer.weight.detach().numpy(),
                f"b{index}": layer.bias.detach().numpy(),
            }
            nodes.append(node("Gemm", [last, f"w{index}", f"b{index}"], [last := f"t{index}"], transB=1))
        else:
            nodes.append(node("Relu", [last], [last := f"t{index}"]))
    return model(nodes, constants, ("N", 64), (last,))


NETS = {
    "two-moons l2": ("two-moons", "2", lambda: recipe_net("two-moons", "2")),
    "two-moons linf": ("two-moons", "inf", lambda: recipe_net("two-moons", "inf")),
    "digits l2": ("digits", "2", lambda: recipe_net("digits", "2")),
    "digits linf": ("digits", "inf", lambda: recipe_net("digits", "inf")),
    "digits linf, hinge": ("digits", "inf", lambda: recipe_net("digits", "inf", loss=MultiClassHinge(0.1))),
    "digits ReLU l2": ("digits", "2", lambda: recipe_net("digits", "2", activation="relu")),
    "digits plain ReLU l2": ("digits", "2", plain_net),
    "digits plain ReLU linf": ("digits", "inf", plain_net),
}


def cached(title, make):
    """Return the ONNX file of a network, made once."""
    path = CACHE / f"{title.replace(',', '').replace(' ', '-')}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make())
    return path.read_bytes()


# --- the methods -------------------------------------------------------------------------------


def smoothing(predictor, sigma, samples=10_000, alpha=0.001):
    """Return radii by randomised smoothing as in Cohen et al. 2019, Certify, with Gaussian noise."""
    rng = np.random.default_rng(0)

    def radius(x, label):
        noise = rng.normal(size=(samples, len(x))) * sigma
        hits = int((predictor.predict(x + noise).radii.label == label).sum())
        share = float(beta.ppf(alpha, hits, samples - hits + 1)) if hits else 0.0  # Clopper, Pearson 1934
        return sigma * statistics.NormalDist().inv_cdf(share) if share > 0.5 else 0.0

    return radius


class Crown:
    """CROWN and α-CROWN radii by auto_LiRPA."""

    def __init__(self, graph, norm):
        from auto_LiRPA import BoundedModule

        self.net = to_torch(graph)
        self.norm = math.inf if norm is Norm.INF else float(norm.value)
        options = {"sparse_features_alpha": False}  # its sparse ones break when called again
        self.bounded = BoundedModule(self.net, torch.zeros(1, graph.input_size), options, verbose=False)
        self.count = graph.output_shape[0]

    def proves(self, x, label, radius, method):
        """Return True if the label is proved on the ball."""
        from auto_LiRPA import BoundedTensor, PerturbationLpNorm

        if self.count == 1:
            functionals = torch.tensor([[[1.0 if label == 1 else -1.0]]])
        else:
            eye = torch.eye(self.count)
            functionals = torch.stack([eye[label] - eye[j] for j in range(self.count) if j != label])[None]
        point = BoundedTensor(x, PerturbationLpNorm(norm=self.norm, eps=radius))
        below = self.bounded.compute_bounds(x=(point,), C=functionals, method=method, bound_upper=False)[0]
        return bool((below > 0).all())

    def radius(self, x, label, low, high, method, steps):
        """Return a proved radius, by bisection between a proved and an unproved one."""
        x = torch.from_numpy(x).float()[None]
        for _ in range(steps):
            middle = (low + high) / 2.0
            low, high = (middle, high) if self.proves(x, label, middle, method) else (low, middle)
        return low


class MaxMin(nn.Module):
    """Pairs (a, b) to (b + relu(a - b), a - relu(a - b)), with matrices, which auto_LiRPA can bound."""

    def __init__(self, op):
        super().__init__()
        ((i, j),) = op.comparators
        wires = [torch.eye(op.length)[list(wire)] for wire in op.wires]
        a, b = wires[i], wires[j]
        sides = {i: (b, 1.0), j: (a, -1.0)}
        half = len(a)
        self.difference = linear(a - b)
        self.passed = linear(torch.cat([sides[k][0] for k in op.joined]))
        self.bent = linear(torch.cat([sides[k][1] * torch.eye(half) for k in op.joined]))

    def forward(self, z):
        """Return max and min, joined."""
        return self.passed(z) + self.bent(torch.relu(self.difference(z)))


def linear(weight, bias=None):
    """Return a torch layer with the weights given."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = torch.as_tensor(weight).float().contiguous()
    layer.bias.data = torch.zeros(len(weight)) if bias is None else torch.as_tensor(bias).float()
    return layer


def to_torch(graph):
    """Return a network as torch layers."""
    layers = []
    for op in graph.ops:
        match op:
            case ops.Dense():
                layers.append(linear(op.weight, op.bias))
            case ops.Shift():
                offset = np.broadcast_to(op.offset, op.shape).copy()
                layers.append(linear(np.eye(op.size), offset))
            case ops.Clip():
                layers.append(nn.ReLU())
            case ops.SortingNetwork():
                layers.append(MaxMin(op))
            case _:
                raise NotImplementedError(type(op).__name__)
    return nn.Sequential(*layers)


def use_peers(folder):
    """Make auto_LiRPA 0.3 importable with the installed torch and numpy; return its version, else None.

    Three names that it imports from them are gone or hidden: they are restored, nothing else changes.
    """
    if folder:
        sys.path.append(folder)
    numpy_sets = types.ModuleType("numpy.lib.arraysetops")
    numpy_sets.isin = np.isin
    sys.modules.setdefault("numpy.lib.arraysetops", numpy_sets)
    try:
        import torch.onnx.symbolic_helper as helper
        from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

        GLOBALS.export_onnx_opset_version = 12
        helper._set_opset_version = lambda version: None
        torch._C.Node.__getitem__ = lambda node, key: getattr(node, node.kindOf(key))(key)
        import auto_LiRPA
    except ImportError as error:
        print(f"no auto_LiRPA ({error}): CROWN is left out. To have it: {HELP}", file=sys.stderr)
        return None
    return auto_LiRPA.__version__


# --- the run -----------------------------------------------------------------------------------


def timed(function, *args):
    """Return a result and the seconds it took."""
    started = time.perf_counter()
    return function(*args), time.perf_counter() - started


def measure(title, points, peers):
    """Return median ratios to the best attack and times per point, of every method on one network."""
    data, name, make = NETS[title]
    norm = Norm(name)
    predictor = CertifiedPredictor(cached(title, make))
    inputs = load_parts(data, None)[1].inputs.astype(np.float64)[:points]
    x = inputs.reshape(len(inputs), -1)
    predictor.predict(x[:1], norm, tighten=True)  # analyses the file
    fast, fast_seconds = timed(predictor.predict, x, norm)
    x = x[fast.radii.certified_radius > 0.0]
    tight = predictor.predict(x, norm, tighten=True)
    label, radius = tight.radii.label, tight.radii.certified_radius
    attacked = find_nearest(
        AttackTask(predictor, GradientEngine(predictor.file.graph), x, BALLS[norm])
    ).distance
    fast = predictor.predict(x, norm).radii.certified_radius
    result = {
        "lipschitz": (fast / attacked, fast_seconds / len(inputs)),
        "local": (radius / attacked, float(np.median(tight.tightening.seconds))),
    }
    if peers:
        crown = Crown(predictor.file.graph, norm)
        low = np.zeros(len(x))
        for key, method, steps, rows in (
            ("crown", "CROWN", 10, len(x)),
            ("alpha-crown", "CROWN-Optimized", 5, ALPHA_POINTS),
        ):
            given = zip(x[:rows], label[:rows], low[:rows], attacked[:rows], strict=True)
            runs = [timed(crown.radius, *args, method, steps) for args in given]
            low = np.array([r for r, _ in runs])  # the second never proves less than the first
            result[key] = (low / attacked[:rows], np.median([s for _, s in runs]))
    if norm is Norm.TWO:
        smooth = smoothing(predictor, sigma=float(np.median(attacked)) / 2)
        runs = [timed(smooth, *args) for args in zip(x, label, strict=True)]
        result["smoothing"] = (np.array([r for r, _ in runs]) / attacked, np.median([s for _, s in runs]))
    return {
        "network": title,
        "points": len(x),
        "above_the_attack": {k: int((v > 1).sum()) for k, (v, _) in result.items()},
        "ratio": {k: float(np.median(v)) for k, (v, _) in result.items()},
        "seconds": {k: float(s) for k, (_, s) in result.items()},
        "improved": float((radius > fast * 1.001).mean()),
    }


def main():
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=60, help="held-out inputs of each network")
    parser.add_argument("--peers", help="folder that auto_LiRPA was installed to")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    parser.add_argument("--nets", nargs="*", choices=list(NETS), default=list(NETS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # of auto_LiRPA
    version = use_peers(args.peers)
    rows = []
    for title in args.nets:
        rows.append(measure(title, args.points, version))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    methods = ["lipschitz", "local", "crown", "alpha-crown", "smoothing"]
    shown = []
    for row in rows:
        both = ((row["ratio"].get(method), row["seconds"].get(method)) for method in methods)
        cells = ("–" if ratio is None else f"{ratio:.3f} · {seconds:.2g}" for ratio, seconds in both)
        named = {"network": row["network"], "points": row["points"]}
        shown.append(named | dict(zip(methods, cells, strict=True)))
    version = f"auto_LiRPA {version}; α-CROWN on the first {ALPHA_POINTS} points"
    show(f"median radius / best attack · seconds a point ({version})", shown)
    write(args.json, rows)


if __name__ == "__main__":
    main()
