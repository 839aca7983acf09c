"""Minimum-norm attacks of foolbox (Rauber et al. 2020) on the deployed graph. Wants the extra ``attacks``.

Scores and gradients are those of our engine; torch carries them, as foolbox works on its tensors.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from lipmodel.audit.gradient import GradientEngine
from lipmodel.errors import InputError, MissingExtraError
from lipmodel.norms import Array, Norm

METHODS: dict[str, dict[Norm, tuple[str, int]]] = {
    "deepfool": {Norm.TWO: ("L2DeepFoolAttack", 50), Norm.INF: ("LinfDeepFoolAttack", 50)},
    "ddn": {Norm.TWO: ("DDNAttack", 100)},
    "fmn": {
        Norm.ONE: ("L1FMNAttack", 100),
        Norm.TWO: ("L2FMNAttack", 100),
        Norm.INF: ("LInfFMNAttack", 100),
    },
}
"""By name and norm: foolbox's name, and steps. DeepFool (Moosavi-Dezfooli et al. 2016), DDN (Rony et al.
2019), FMN (Pintor et al. 2021)."""
BOX = (-100.0, 100.0)
"""Wide: radii are of all changes, not of those alone that leave pixels in [0, 1]."""


def check_methods(methods: tuple[str, ...], norm: Norm) -> None:
    """Refuses what :func:`attacked_by` could not do, before any work.

    Raises:
        InputError: an unknown method, or one that does not work in that norm.
        MissingExtraError: foolbox or torch is not installed.
    """
    for method in methods:
        if norm not in METHODS.get(method, {}):
            usable = ", ".join(name for name, norms in METHODS.items() if norm in norms)
            raise InputError(f"'{method[:40]}' is no attack in l{norm}; {usable} are", field="attack method")
    if methods:
        _foolbox()


def attacked_by(method: str, engine: GradientEngine, inputs: Array, labels: Any, norm: Norm) -> Array:
    """(N, d) what the method makes of inputs (N, d) with those labels: changed ones, where it succeeds.

    Raises:
        InputError, MissingExtraError: see :func:`check_methods`.
    """
    check_methods((method,), norm)
    foolbox, torch = _foolbox()
    name, steps = METHODS[method][norm]
    network = foolbox.PyTorchModel(_network(torch, engine), bounds=BOX, device="cpu")
    attack = getattr(foolbox.attacks, name)(steps=steps)
    changed, _, _ = attack(network, torch.from_numpy(inputs), torch.from_numpy(labels), epsilons=None)
    return np.asarray(changed.numpy(), dtype=np.float64)


def _foolbox() -> tuple[Any, Any]:
    try:
        return import_module("foolbox"), import_module("torch")
    except ModuleNotFoundError:
        raise MissingExtraError("an attack of foolbox", "attacks") from None


def _network(torch: Any, engine: GradientEngine) -> Any:
    """The deployed graph as a torch module; of a binary classifier the scores are 0 and f."""

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
