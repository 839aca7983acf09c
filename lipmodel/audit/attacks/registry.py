"""The attacks by name, and searches with several of them.

To add an attack: a class of the protocol :class:`~lipmodel.audit.attacks.attack.Attack` in a file of its own
here, one entry in :data:`ATTACKS`, and its name in ``docs/audits.md``; ``tests/audit/test_attacks.py`` runs
every entry. Every result is judged by the predictor, so an attack that errs costs strength, never truth.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lipmodel.audit.attacks.attack import Attack, AttackResult, AttackTask
from lipmodel.audit.attacks.descent import MinimumNormDescent, ProjectedGradientDescent
from lipmodel.audit.attacks.foolbox_attacks import FoolboxAttack
from lipmodel.errors import InputError
from lipmodel.norms import Array, Norm
from lipmodel.progress import Progress, part, silent
from lipmodel.threat import Threat

BUILT_IN = "ascent"
"""The attack that every search begins with."""

ATTACKS: dict[str, Attack] = {
    BUILT_IN: MinimumNormDescent(),
    # Moosavi-Dezfooli et al. 2016
    "deepfool": FoolboxAttack({Norm.TWO: "L2DeepFoolAttack", Norm.INF: "LinfDeepFoolAttack"}, steps=50),
    # Rony et al. 2019
    "ddn": FoolboxAttack({Norm.TWO: "DDNAttack"}, steps=100),
    # Pintor et al. 2021
    "fmn": FoolboxAttack(
        {Norm.ONE: "L1FMNAttack", Norm.TWO: "L2FMNAttack", Norm.INF: "LInfFMNAttack"}, steps=100
    ),
}
METHODS = tuple(name for name in ATTACKS if name != BUILT_IN)
"""The attacks that can be added to the built-in one."""


def check_methods(methods: tuple[str, ...], threat: Threat) -> None:
    """Refuse attacks that cannot run, before any work is done.

    Raises:
        InputError: an unknown attack, or one that does not work for that threat set.
        MissingExtraError: a package that an attack needs is not installed.
    """
    norm = threat.norm
    for method in methods:
        if method in METHODS and threat.scale is not None:
            raise InputError(
                f"'{method}' searches balls; for a scaled threat set the built-in attack is used alone",
                field="attack method",
            )
        usable = [name for name in METHODS if norm in ATTACKS[name].norms]
        if method not in usable:
            raise InputError(
                f"'{method[:40]}' is not available in l{norm}; choose from {', '.join(usable)}",
                field="attack method",
            )
        ATTACKS[method].require()


def find_nearest(
    task: AttackTask, methods: tuple[str, ...] = (), progress: Progress = silent
) -> AttackResult:
    """Return the nearest adversarial inputs that the built-in attack and others find.

    Args:
        task: the inputs to attack.
        methods: names of :data:`METHODS`, in addition to the built-in attack.
        progress: callback for the share done.

    Raises:
        InputError, MissingExtraError: see :func:`check_methods`.
    """
    check_methods(methods, task.threat)
    share = 1.0 / (1 + len(methods))
    found = ATTACKS[BUILT_IN](task, part(progress, 0.0, share))
    for number, method in enumerate(methods, 1):
        found = found.nearer(ATTACKS[method](task, part(progress, number * share, (number + 1) * share)))
    return found


def attack_radii(
    task: AttackTask, radius: Array, methods: tuple[str, ...] = (), progress: Progress = silent
) -> AttackResult:
    """Return the nearest adversarial inputs found at any distance, then inside each certified radius.

    A distance of at most the radius refutes the radius.

    Args:
        task: the inputs to attack.
        radius: (N,) certified; inputs with radius 0 have nothing to search inside it.
        methods: see :func:`find_nearest`.
        progress: callback for the share done.

    Raises:
        InputError, MissingExtraError: see :func:`check_methods`.
    """
    found = find_nearest(task, methods, part(progress, 0.0, 0.7))
    certified = np.flatnonzero(radius > 0.0)
    if len(certified):
        attack = ProjectedGradientDescent(radius[certified], steps=15)
        inside = attack(replace(task, inputs=task.inputs[certified]), part(progress, 0.7, 1.0))
        adversarial, distance = task.inputs.copy(), np.full(len(radius), np.inf)
        adversarial[certified], distance[certified] = inside.adversarial, inside.distance
        found = found.nearer(AttackResult(adversarial, distance))
    progress(1.0)
    return found
