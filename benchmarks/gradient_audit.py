"""The gradient audit measured: how close to the truth its search comes, and how fast its gradients are.

    python -m benchmarks.gradient_audit [--peers FOLDER] [--points 10000] [--json FILE]

1. On networks whose Lipschitz constant in l2 is known because they were built so: the largest gradient
   norm found by ascent and by random sampling for the same time, and the estimate of CLEVER (Weng et
   al. 2018) by the Adversarial Robustness Toolbox, given at least that time; each over the constant.
   Above 1 an estimate is wrong, which a gradient norm cannot be.
2. Gradients of random functionals <v, f> of an MLP, a convolutional and a prototype network, by our
   ONNX program and by torch (autograd's backward, and vmap of vjp): the largest relative
   difference, and torch's time, the less of the two, over ours. All in float64, one thread, by turns,
   the least processor time of five.

The toolbox is no requirement of Lipcert; its folder is made by

    pip install --no-deps --target FOLDER adversarial-robustness-toolbox six tqdm
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.tables import show, write
from lipmodel.audit.ascent import ascend
from lipmodel.audit.gradient import GradientEngine
from lipmodel.network import ops
from lipmodel.network.window import Window
from lipmodel.norms import Norm, vector_norm
from tests.audit.known import KNOWN
from tests.networks import dense, groupsort_net
from tests.soundness.nets import graph_of, prototype_net

STARTS, STEPS, BATCH = 4, 120, 250
CLEVER_RADIUS = 5.0


# --- the largest gradient norm -------------------------------------------------------------------


def by_ascent(engine, rng):
    """Return the largest gradient norm found by ascent, and the seconds it took."""
    started = time.perf_counter()
    starts = rng.uniform(-1.0, 1.0, size=(STARTS, engine.graph.input_size))
    found, _ = ascend(engine, np.ones((STARTS, 1)), starts, Norm.TWO, scale=2.0, steps=STEPS, rng=rng)
    return float(found.max()), time.perf_counter() - started


def by_sampling(engine, rng, seconds):
    """Return the largest gradient norm at uniform points of the same box, in the same time."""
    largest, started = 0.0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        points = rng.uniform(-1.0, 1.0, size=(256, engine.graph.input_size))
        gradients = engine(points, np.ones((256, 1)))[1]
        largest = max(largest, float(vector_norm(gradients, Norm.TWO).max()))
    return largest


def by_clever(engine, seconds):
    """Return the toolbox's estimate and its time, with points doubled until that is at least ``seconds``."""
    from art.estimators.classification import ClassifierMixin
    from art.estimators.classification.classifier import ClassGradientsMixin
    from art.estimators.estimator import BaseEstimator
    from art.metrics import clever_t

    class Estimator(ClassGradientsMixin, ClassifierMixin, BaseEstimator):
        """Classifier of two classes with scores f - f(0) + 0.001 and 0, so that 0 has the first class."""

        estimator_params = BaseEstimator.estimator_params
        input_shape = (engine.graph.input_size,)
        nb_classes = 2
        offset = float(engine(np.zeros((1, engine.graph.input_size)), np.ones((1, 1)))[0][0, 0]) - 1e-3

        def predict(self, x, **kwargs):
            scores = engine(np.asarray(x, dtype=np.float64), np.zeros((len(x), 1)))[0] - self.offset
            return np.hstack([scores, np.zeros_like(scores)])

        def class_gradient(self, x, label=None, **kwargs):
            gradient = engine(np.asarray(x, dtype=np.float64), np.ones((len(x), 1)))[1]
            return (gradient if label == 0 else 0.0 * gradient)[:, None]

        def fit(self, x, y, **kwargs):
            raise NotImplementedError

    estimator = Estimator(model=None, clip_values=None)
    size = 16
    while True:
        started = time.perf_counter()
        score = clever_t(estimator, np.zeros(estimator.input_shape), 1, 50, size, CLEVER_RADIUS, 2)
        took = time.perf_counter() - started
        if took >= seconds:
            return 1e-3 / score, took
        size *= 2


def measure_search(peers):
    """Return a row for each network: largest gradient norms over the true constant."""
    np.random.seed(0)  # the toolbox draws from numpy's global state
    rows = []
    for name, make in KNOWN.items():
        graph, constant = make(np.random.default_rng(0))
        engine = GradientEngine(graph)
        found, seconds = by_ascent(engine, np.random.default_rng(1))
        sampled = by_sampling(engine, np.random.default_rng(2), seconds)
        row = {"network": name, "ascent": found / constant, "sampling": sampled / constant}
        if peers:
            estimate, took = by_clever(engine, seconds)
            row |= {"CLEVER": estimate / constant, "CLEVER seconds": took}
        rows.append(row | {"seconds": seconds})
    return rows


# --- the time of a gradient -----------------------------------------------------------------------


def convolutional(rng):
    """Return a network of 16 by 16 pixels: 16 channels, MaxMin, 32 of stride 2, MaxMin, means, dense."""

    def window(side, stride):
        one = (1, 1)
        return Window(
            spatial=(side, side), size=(3, 3), strides=(stride, stride), dilations=one, begin=one, end=one
        )

    def maxmin(output, source, shape):
        half = shape[0] // 2
        wires = (tuple(range(half)), tuple(range(half, 2 * half)))
        return ops.SortingNetwork(output=output, inputs=(source,), shape=shape, axis=0, length=shape[0],
                                  wires=wires, comparators=((0, 1),), joined=(0, 1))  # fmt: skip

    two, none = (2, 2), (0, 0)
    mean = Window(spatial=(8, 8), size=two, strides=two, dilations=(1, 1), begin=none, end=none)
    return graph_of(
        256,
        ops.Conv(output="a", inputs=("input",), shape=(16, 16, 16), kernel=rng.normal(size=(16, 1, 3, 3)) / 3,
                 bias=rng.normal(size=16), window=window(16, 1)),
        maxmin("b", "a", (16, 16, 16)),
        ops.Conv(output="c", inputs=("b",), shape=(32, 8, 8), kernel=rng.normal(size=(32, 16, 3, 3)) / 12,
                 bias=rng.normal(size=32), window=window(16, 2)),
        maxmin("d", "c", (32, 8, 8)),
        ops.AveragePool(output="e", inputs=("d",), shape=(32, 4, 4), window=mean, count_padding=False),
        ops.Reshape(output="f", inputs=("e",), shape=(512,)),
        dense("scores", "f", rng.normal(size=(10, 512)) / 23),
        shape=(1, 16, 16),
    )  # fmt: skip


def in_torch(graph):
    """Return a network as a torch function of a batch."""
    constants = {}
    for op in graph.ops:
        weight = getattr(op, "weight", getattr(op, "kernel", None))
        bias = getattr(op, "bias", None)
        if weight is not None:
            constants[op.output] = (torch.tensor(weight), None if bias is None else torch.tensor(bias))

    def run(x):
        values = {graph.input: x.reshape(len(x), *graph.input_shape)}
        for op in graph.ops:
            z = values[op.inputs[0]]
            match op:
                case ops.Dense():
                    z = torch.nn.functional.linear(z, *constants[op.output])
                case ops.Conv():
                    z = torch.nn.functional.conv2d(
                        z, *constants[op.output], stride=op.window.strides, padding=op.window.begin
                    )
                case ops.SortingNetwork():
                    a, b = z.chunk(2, dim=1)
                    z = torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)
                case ops.AveragePool():
                    z = torch.nn.functional.avg_pool2d(z, op.window.size, op.window.strides)
                case ops.Reshape():
                    z = z.reshape(len(z), *op.shape)
                case ops.ReduceExtremum():
                    z = z.amax(dim=op.axes[0] + 1)
                case _:
                    raise NotImplementedError(type(op).__name__)
            values[op.output] = z
        return values[graph.output]

    return run


def least_times(functions, points, cotangents):
    """Return gradients of all points by each function, BATCH at a time, and the least processor time of five.

    The functions take turns, so that other load on the machine falls on all alike.
    """
    found, best = [None] * len(functions), [np.inf] * len(functions)
    for _ in range(5):
        for index, function in enumerate(functions):
            started = time.process_time()
            parts = [
                function(points[start : start + BATCH], cotangents[start : start + BATCH])
                for start in range(0, len(points), BATCH)
            ]
            best[index] = min(best[index], time.process_time() - started)
            found[index] = np.concatenate(parts)
    return found, best


def measure_speed(count):
    """Return a row for each network: differences and times of gradients."""
    rows = []
    for name, graph in {
        "MLP 784-256-256-10": groupsort_net((784, 256, 256), 10),
        "convolutional": convolutional(np.random.default_rng(0)),
        "prototypes 784, 10 × 20": prototype_net(np.random.default_rng(0), 784, 10, 20),
    }.items():
        rng = np.random.default_rng(1)
        points, cotangents = rng.normal(size=(count, graph.input_size)), rng.normal(size=(count, 10))
        engine, network = GradientEngine(graph), in_torch(graph)

        def backward(x, v, network=network):
            tensor = torch.from_numpy(x).requires_grad_()
            network(tensor).backward(torch.from_numpy(v))
            return tensor.grad.numpy()

        def mapped(x, v, network=network):
            def one(row, cotangent):
                return torch.func.vjp(lambda z: network(z[None])[0], row)[1](cotangent)[0]

            return torch.func.vmap(one)(torch.from_numpy(x), torch.from_numpy(v)).numpy()

        def own(x, v, engine=engine):
            return engine(x, v)[1]

        found, times = least_times((own, backward, mapped), points, cotangents)
        (ours, theirs, _), (seconds, *by_torch) = found, times
        difference = np.abs(ours - theirs).max(axis=1) / np.abs(theirs).max(axis=1)
        figures = {"network": name, "points": count, "largest relative difference": float(difference.max())}
        titles = ("ours, µs a point", "torch backward", "torch vmap")
        figures |= {title: 1e6 * taken / count for title, taken in zip(titles, times, strict=True)}
        rows.append(figures | {"times as fast as torch": min(by_torch) / seconds})
    return rows


def main():
    """Print both measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", help="folder that the toolbox was installed to")
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peers:
        sys.path.append(args.peers)
    search = measure_search(args.peers)
    show("largest gradient norm found or estimated, over the true constant", search)
    speed = measure_speed(args.points)
    show("gradients in float64, one thread", speed)
    write(args.json, {"search": search, "speed": speed})


if __name__ == "__main__":
    main()
