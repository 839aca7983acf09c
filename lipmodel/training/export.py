"""From a trained network to an ONNX file whose Lipschitz bound is proved before it is called done.

Weights are finished in float64 (exactly in their sets as float32 numbers), the shift is folded into
the first bias, and the file's bytes are then read back as a stranger's would be. The torch network
is not changed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from lipmodel.certify import ops
from lipmodel.certify.claims import Claims
from lipmodel.certify.onnx_writer import set_metadata, to_bytes, write_model
from lipmodel.certify.ops import Graph, Op
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.errors import TrainingError
from lipmodel.norms import Array
from lipmodel.training.activations import GroupSort
from lipmodel.training.layers import ConstrainedDense, Shift

LARGEST_NETWORK_SORT = 8  # larger groups are sorted by TopK: networks of comparators grow as n log² n

INPUT, SCORES = "input", "scores"


def to_graph(network: nn.Sequential) -> Graph:
    """The network with finished weights, as operations on float32 numbers.

    Raises:
        TrainingError: a weight that is not finite, or a module that has no exported form.
    """
    layers: list[Op] = []
    offset: Array | None = None
    tensor, size = INPUT, 0
    for index, module in enumerate(network):
        if isinstance(module, Shift):
            offset = _float64(module.mean)
        elif isinstance(module, ConstrainedDense):
            weight, bias = _float64(module.weight), _float64(module.bias)
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise TrainingError(
                    f"layer {index} has a weight that is not finite; a smaller learning rate may help"
                )
            weight = module.constraint.finish(weight)
            if offset is not None:
                bias, offset = bias - weight @ offset, None  # W(x − mean) + b = Wx + (b − W mean)
            name = SCORES if index == len(network) - 1 else f"dense_{index}"
            layers.append(
                ops.Dense(output=name, inputs=(tensor,), shape=bias.shape, weight=weight, bias=bias)
            )
            tensor, size = name, len(bias)
        elif isinstance(module, GroupSort):
            layers.extend(_sort(f"sorted_{index}", tensor, size, module.group_size(size)))
            tensor = layers[-1].output
        elif isinstance(module, nn.ReLU):
            layers.append(ops.Clip(output=f"relu_{index}", inputs=(tensor,), shape=(size,), low=np.zeros(())))
            tensor = layers[-1].output
        else:
            raise TrainingError(
                f"{type(module).__name__} has no exported form; dense layers, GroupSort and ReLU have"
            )
    first = next(op for op in layers if isinstance(op, ops.Dense))
    return Graph(input=INPUT, input_shape=(first.weight.shape[1],), ops=tuple(layers), output=SCORES)


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
def largest_difference(network: nn.Sequential, predictor: CertifiedPredictor, inputs: Tensor) -> float:
    """Max |score by the file in float64 − score by torch in float32| over the inputs (N, d)."""
    ours = predictor.predict(inputs.double().numpy()).scores
    return float(np.abs(ours - network(inputs).double().numpy()).max())


def _sort(name: str, tensor: str, size: int, group: int) -> list[Op]:
    """GroupSort in the layout of ``activations``: chunk k holds the k-th largest of each group."""
    part = size // group
    if group <= LARGEST_NETWORK_SORT:
        return [
            ops.SortingNetwork(
                output=name,
                inputs=(tensor,),
                shape=(size,),
                axis=0,
                length=size,
                wires=tuple(tuple(range(k * part, (k + 1) * part)) for k in range(group)),
                comparators=ops.groupsort_comparators(group),
                joined=tuple(range(group)),
            )
        ]
    groups = (group, part)
    return [
        ops.Reshape(output=f"{name}_in", inputs=(tensor,), shape=groups),
        ops.Sort(
            output=f"{name}_groups", inputs=(f"{name}_in",), shape=groups, axis=0, k=group, largest=True
        ),
        ops.Reshape(output=name, inputs=(f"{name}_groups",), shape=(size,)),
    ]


def _float64(values: Tensor) -> Array:
    return np.asarray(values.detach().double().numpy())
