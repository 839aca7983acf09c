"""Minimum-norm attacks of foolbox (Rauber et al. 2020) on the deployed graph (extra ``attacks``).

Scores and gradients are those of :class:`~lipmodel.audit.gradient.GradientEngine`; torch only carries them,
since foolbox works on its tensors.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from lipmodel.audit.attacks.attack import AttackResult, AttackTask
from lipmodel.audit.gradient import GradientEngine
from lipmodel.errors import MissingExtraError
from lipmodel.norms import Norm
from lipmodel.progress import Progress

BOX = (-100.0, 100.0)
"""Wide, since radii cover every change and not only those that leave pixels in [0, 1]."""


@dataclass(frozen=True)
class FoolboxAttack:
    """One of foolbox's attacks.

    Attributes:
        classes: names of foolbox's classes, by norm.
        steps: number of steps.
    """

    classes: Mapping[Norm, str]
    steps: int

    @property
    def norms(self) -> Collection[Norm]:
        """The norms for which foolbox has a class."""
        return self.classes

    def require(self) -> None:
        """Raise MissingExtraError where foolbox or torch is not installed."""
        _foolbox()

    def __call__(self, task: AttackTask, progress: Progress) -> AttackResult:
        """Return foolbox's adversarial inputs, as far as the predictor gives them another label."""
        foolbox, torch = _foolbox()
        network = foolbox.PyTorchModel(_network(torch, task.engine), bounds=BOX, device="cpu")
        attack = getattr(foolbox.attacks, self.classes[task.norm])(steps=self.steps)
        inputs, labels = torch.from_numpy(task.inputs), torch.from_numpy(task.labels)
        points, _, _ = attack(network, inputs, labels, epsilons=None)
        progress(1.0)
        return task.judge(np.asarray(points.numpy(), dtype=np.float64))


def _foolbox() -> tuple[Any, Any]:
    try:
        return import_module("foolbox"), import_module("torch")
    except ModuleNotFoundError:
        raise MissingExtraError("an attack of foolbox", "attacks") from None


def _network(torch: Any, engine: GradientEngine) -> Any:
    """Return the deployed graph as a torch module; the scores of a binary classifier are 0 and f."""

    class Scores(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(context: Any, x: Any) -> Any:
            context.save_for_backward(x)
            return torch.from_numpy(engine.scores(x.numpy().astype(np.float64))).to(x.dtype)

        @staticmethod
        def backward(context: Any, cotangent: Any) -> Any:
            (x,) = context.saved_tensors
            _, gradient = engine(x.numpy().astype(np.float64), cotangent.numpy().astype(np.float64))
            return torch.from_numpy(gradient.copy()).to(x.dtype)

    class Network(torch.nn.Module):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            scores = Scores.apply(x)
            return scores if scores.shape[1] > 1 else torch.cat([0.0 * scores, scores], dim=1)

    return Network().eval()
