"""Files by the exporters of peers: the proved Lipschitz constant beside the claimed one.

    python -m benchmarks.peer_files        (needs deel-torchlip, monotonicnetworks, orthogonium, onnxscript,
                                            skl2onnx beside this project; none is one of its requirements)

Each network is trained for a few steps, exported as its library's users would, and bounded from the file.
All claim a Lipschitz constant of 1, but for plain torch and scikit-learn, which claim nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import ModelError
from lipmodel.norms import Norm

try:
    import monotonicnetworks as lmn
    import numpy as np
    import orthogonium.layers as orthogonium
    import torch
    from deel import torchlip
    from skl2onnx import to_onnx
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from torch import nn
except ImportError as error:
    raise SystemExit(f"{error}; install what the first lines of this file name") from error

STEPS = 200


class MaxMin(nn.Module):
    """MaxMin as a user writes it."""

    def forward(self, x: Any) -> Any:
        """Return max and min of the two halves."""
        a, b = x.chunk(2, dim=1)
        return torch.cat([torch.maximum(a, b), torch.minimum(a, b)], dim=1)


def networks() -> Iterator[tuple[str, Norm, Any, tuple[int, ...]]]:
    """Yield name, norm of the claim, network and shape of an input."""
    linear, free = torchlip.SpectralLinear, {"eps_bjorck": None}
    layers: list[Any] = [linear(8, 32), torchlip.GroupSort2(), linear(32, 32), torchlip.FullSort()]
    yield "deel-torchlip, Björck", Norm.TWO, torchlip.Sequential(*layers, linear(32, 1)), (8,)
    layers = [linear(8, 32, **free), torchlip.GroupSort2(), linear(32, 32, **free), torchlip.GroupSort2()]
    network = torchlip.Sequential(*layers, linear(32, 1, **free))
    yield "deel-torchlip, eps_bjorck=None", Norm.TWO, network, (8,)
    layers = [torchlip.SpectralConv2d(1, 8, (3, 3), padding=1), torchlip.GroupSort2()]
    layers += [torchlip.ScaledAvgPool2d((2, 2)), nn.Flatten(), linear(128, 1)]
    yield "deel-torchlip, convolution", Norm.TWO, torchlip.Sequential(*layers), (1, 8, 8)
    body = [
        lmn.LipschitzLinear(8, 32, kind="one-inf"), lmn.GroupSort(16),
        lmn.LipschitzLinear(32, 32, kind="inf"), lmn.GroupSort(16), lmn.LipschitzLinear(32, 1, kind="inf"),
    ]  # fmt: skip
    yield "monotonicnetworks", Norm.ONE, nn.Sequential(*body), (8,)
    ortho = orthogonium.linear.OrthoLinear
    maxmin = orthogonium.custom_activations.MaxMin
    yield "orthogonium", Norm.TWO, nn.Sequential(ortho(8, 32), maxmin(), ortho(32, 1)), (8,)
    yield "torch, ReLU", Norm.TWO, nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1)), (8,)
    yield "torch, MaxMin", Norm.TWO, nn.Sequential(nn.Linear(8, 32), MaxMin(), nn.Linear(32, 1)), (8,)


def train(network: Any, shape: tuple[int, ...]) -> None:
    """Train a few steps towards a function steeper than the network may be."""
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(STEPS):
        x = torch.randn(64, *shape, generator=generator)
        loss = (network(x) - 5 * x.flatten(1).sin().sum(dim=1, keepdim=True)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval()


def dynamo(network: Any, x: Any, path: Path) -> None:
    """Export by torch.export."""
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(network, (x,), str(path), dynamo=True, dynamic_shapes=shapes, verbose=False)


def torchscript(network: Any, x: Any, path: Path) -> None:
    """Export by the older exporter, TorchScript."""
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    names["dynamic_axes"] = {"x": {0: "b"}, "y": {0: "b"}}
    torch.onnx.export(network, (x,), str(path), dynamo=False, **names)


def folded(network: Any, x: Any, path: Path) -> None:
    """Export with weights as plain tensors, by deel's vanilla_export or torch's remove_parametrizations."""
    if hasattr(network, "vanilla_export"):
        network = network.vanilla_export()
    for module in network.modules():
        for name in list(getattr(module, "parametrizations", {})):
            nn.utils.parametrize.remove_parametrizations(module, name)
    dynamo(network, x, path)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discard output: exporters print whole graphs, some of them from C++."""
    kept = os.dup(1), os.dup(2)
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        for descriptor in (1, 2):
            os.dup2(nothing.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stdout.flush()
            for descriptor, former in zip((1, 2), kept, strict=True):
                os.dup2(former, descriptor)
                os.close(former)


def result_of(path: Path, norm: Norm, *, claims: bool) -> str:
    """Return the proved Lipschitz constant of a file, or the reason of its refusal."""
    try:
        predictor = CertifiedPredictor(path)
    except ModelError as error:
        return f"refused: {str(error)[:150]}"
    bound = predictor.bounds(norm).bound_global
    portable = "" if predictor.file.portable else ", not portable (weights summed in the graph)"
    claim = f", {bound - 1:+.1e} from its claim of 1" if claims else ""
    return f"{bound:.9f}{claim}{portable}"


def main() -> None:
    """Print one row for each file."""
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    exporters: list[Callable[[Any, Any, Path], None]] = [dynamo, torchscript, folded]
    print("| network | exporter | norm | proved Lipschitz constant |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, norm, network, shape in networks():
            train(network, shape)
            for exporter in exporters:
                path = Path(folder) / f"{name}-{exporter.__name__}.onnx"
                try:
                    with silence():
                        exporter(network, torch.randn(4, *shape), path)
                except Exception as error:
                    result = f"its exporter fails: {type(error).__name__}"
                else:
                    result = result_of(path, norm, claims=not name.startswith("torch"))
                print(f"| {name} | {exporter.__name__} | l{norm} | {result} |", flush=True)
        x, y = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32), np.arange(300) % 3
        for model in (MLPClassifier((16,), max_iter=30), MLPRegressor(hidden_layer_sizes=(16,), max_iter=30)):
            path = Path(folder) / "sklearn.onnx"
            path.write_bytes(to_onnx(model.fit(x, y), x[:1]).SerializeToString())
            result = result_of(path, Norm.TWO, claims=False)
            print(f"| scikit-learn {type(model).__name__} | skl2onnx | l2 | {result} |")


if __name__ == "__main__":
    sys.exit(main())
