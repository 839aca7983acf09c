"""From a trained network to an ONNX file whose Lipschitz bound is proved before it is called done.

Weights are finished in float64 (exactly in their sets as float32 numbers), each module is written in
its exported form (``forms.py``), and the file's bytes are then read back as a stranger's would be.
The torch network is not changed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import TrainingError
from lipmodel.network.metadata import Claims
from lipmodel.network.ops import Graph
from lipmodel.network.writer import set_metadata, to_bytes, write_model
from lipmodel.training.convolutions import PointwiseConv
from lipmodel.training.export.graph_builder import Tape
from lipmodel.training.export.module_to_ops import write
from lipmodel.training.heads import PrototypeHead
from lipmodel.training.layers import ConstrainedDense, Monotone, Shift


def to_graph(network: nn.Module, input_shape: Sequence[int] | None = None) -> Graph:
    """The network with finished weights, as operations on float32 numbers.

    Args:
        network: of modules that have an exported form.
        input_shape: of a sample: (d,), or (C, H, W) for images. A network that begins with a shift, a
            dense layer or a monotone wrapper tells it by itself.

    Raises:
        TrainingError: a weight that is not finite, a module that has no exported form or does not fit
            what comes before it, or an input shape that is not known.
    """
    tape = Tape(tuple(input_shape) if input_shape is not None else _input_shape(network))
    write(network, tape)
    if len(tape.shape) != 1 or not tape.ops:
        raise TrainingError(
            f"the network makes samples of shape {list(tape.shape)}; scores of shape [classes] are accepted"
        )
    return tape.graph()


def export(graph: Graph, claims: Claims) -> tuple[bytes, CertifiedPredictor]:
    """The ONNX file's bytes, and the file as the certificate reads it.

    The same graph and claims give the same bytes.

    Raises:
        TrainingError: the bound proved from the file is above the claimed Lipschitz constant.
    """
    model = write_model(graph, np.float32)
    set_metadata(model, claims.to_metadata())
    content = to_bytes(model)
    predictor = CertifiedPredictor(content)
    if not predictor.claim_proved:
        proved = predictor.bounds(predictor.default_norm).bound_global
        raise TrainingError(
            f"the file's bound {proved!r} is not within the asked constant {claims.lipschitz!r}"
        )
    return content, predictor


@torch.no_grad()
def largest_difference(network: nn.Module, predictor: CertifiedPredictor, inputs: Tensor) -> float:
    """Max |score by the file in float64 − score by torch in float32| over the inputs (N, d)."""
    ours = predictor.predict(inputs.double().numpy()).scores
    return float(np.abs(ours - network(inputs).double().numpy()).max())


def _input_shape(network: nn.Module) -> tuple[int, ...]:
    """What the first module tells of the shape of a sample."""
    while isinstance(network, nn.Sequential) and len(network):
        network = network[0]
    if isinstance(network, Shift):
        return tuple(network.mean.shape)
    if isinstance(network, ConstrainedDense | PrototypeHead) and not isinstance(network, PointwiseConv):
        return (network.weight.shape[1],)
    if isinstance(network, Monotone):
        return (network.direction.shape[1],)
    raise TrainingError("the shape of an input is not known; give to_graph an input_shape")
