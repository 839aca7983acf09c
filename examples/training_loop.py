"""A custom training loop: an ordinary nn.Sequential, an ordinary optimiser, a certified ONNX file.

``python examples/training_loop.py digits.onnx``
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from lipmodel.data.load import load_parts
from lipmodel.evaluate import evaluate
from lipmodel.network.metadata import Claims
from lipmodel.norms import Norm
from lipmodel.training.activations import max_min
from lipmodel.training.constraints import Stiefel
from lipmodel.training.export.onnx_export import export, to_graph
from lipmodel.training.heads import PrototypeHead
from lipmodel.training.layers import ConstrainedDense, Shift, keep_constraints
from lipmodel.training.losses import CertifiedRadiusHinge

EPOCHS, BATCH = 20, 64


def main(path: Path) -> None:
    """Train on the bundled digits and write the file."""
    torch.manual_seed(0)
    train, held_out = load_parts("digits")
    inputs, labels = torch.from_numpy(train.inputs), torch.from_numpy(train.labels)

    body = nn.Sequential(Shift(inputs.mean(dim=0)), ConstrainedDense(64, 128, Stiefel()), max_min())
    head = PrototypeHead(128, classes=10, prototypes=10)
    network = nn.Sequential(body, head)
    head.place_(body(inputs), labels)  # initial prototypes: the k-means of each class

    optimiser = torch.optim.Adam(network.parameters(), lr=0.002)
    keep_constraints(optimiser, network)  # projects the weights after each step
    loss = CertifiedRadiusHinge(epsilon=1.0)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(inputs)).split(BATCH):
            optimiser.zero_grad()
            scores, bounds = head.compare(body(inputs[rows]), labels[rows])
            loss(scores, labels[rows], bounds).backward()
            optimiser.step()

    content, predictor = export(to_graph(network), Claims(norm=Norm.TWO, lipschitz=1.0))
    path.write_bytes(content)
    figures = evaluate(predictor, held_out.inputs, held_out.labels, Norm.TWO, (0.25, 0.5, 1.0))
    print(f"clean {figures.clean_accuracy:.1%}, certified {figures.certified_accuracy}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
