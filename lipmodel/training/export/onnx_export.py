"""Export of a trained network to an ONNX file with a proved Lipschitz bound.

Weights are finished in float64 (exactly in their sets as float32 numbers), each module is written by its
export rule (``module_to_ops``), and the file's bytes are then read back like any untrusted file. The torch
network is not changed.
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
from lipmodel.training.export.graph_builder import GraphBuilder
from lipmodel.training.export.module_to_ops import write
from lipmodel.training.heads import PrototypeHead
from lipmodel.training.layers import Clip, ConstrainedDense, Monotone, Shift


def to_graph(network: nn.Module, input_shape: Sequence[int] | None = None) -> Graph:
    """Return the network with finished weights, as operations on float32 numbers.

    Args:
        network: a module with an export rule.
        input_shape: shape of a sample, (d,) or (C, H, W) for images; inferred for a network that begins with
            a shift, a dense layer or a monotone wrapper.

    Raises:
        TrainingError: a weight is not finite, a module has no export rule or does not accept the shape of
            its input, or the input shape is unknown.
    """
    builder = GraphBuilder(tuple(input_shape) if input_shape is not None else _input_shape(network))
    write(network, builder)
    if len(builder.shape) != 1 or not builder.ops:
        raise TrainingError(
            f"the network's output has shape {list(builder.shape)} per sample; scores of shape [classes] "
            "are accepted"
        )
    return builder.graph()


def export(graph: Graph, claims: Claims) -> tuple[bytes, CertifiedPredictor]:
    """Return the ONNX file's bytes, and the predictor of the file read back.

    Equal graphs and claims give equal bytes.

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
            f"the bound proved from the file, {proved!r}, exceeds the Lipschitz constant {claims.lipschitz!r}"
        )
    return content, predictor


@torch.no_grad()
def largest_difference(network: nn.Module, predictor: CertifiedPredictor, inputs: Tensor) -> float:
    """Return max |score of the file in float64 − score of torch in float32| over inputs (N, d)."""
    ours = predictor.predict(inputs.double().numpy()).scores
    return float(np.abs(ours - network(inputs).double().numpy()).max())


def _input_shape(network: nn.Module) -> tuple[int, ...]:
    """Return the shape of a sample, from the network's first module that is no Clip.

    Raises:
        TrainingError: the first module accepts several shapes.
    """
    while isinstance(network, nn.Sequential) and len(network):
        network = network[1] if isinstance(network[0], Clip) and len(network) > 1 else network[0]
    if isinstance(network, Shift):
        return tuple(network.mean.shape)
    if isinstance(network, ConstrainedDense | PrototypeHead) and not isinstance(network, PointwiseConv):
        return (network.weight.shape[1],)
    if isinstance(network, Monotone):
        return (network.direction.shape[1],)
    raise TrainingError("the shape of a sample is unknown; pass input_shape to to_graph")
