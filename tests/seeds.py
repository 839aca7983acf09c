"""The seed of every model that the tests draw or train: no test may depend on the digits of one.

``LIPCERT_TEST_SEED=3 make test`` runs all tests on other models. A test that fails for one seed claims something
that is true of one model alone.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

SEED = int(os.environ.get("LIPCERT_TEST_SEED", "0"))
BUNDLED = Path(__file__).resolve().parents[1] / "examples" / "models"


def shifted(seed: int) -> int:
    """Return the seed given; for another LIPCERT_TEST_SEED than 0 another one."""
    return seed + 1000 * SEED


@cache
def bundled_models() -> Path:
    """Return the folder of the two bundled models, or of the same two trained from another seed."""
    if SEED == 0:
        return BUNDLED
    from lipmodel.training.train import carry_out, plan

    folder = Path(tempfile.mkdtemp(prefix="models"))
    atexit.register(shutil.rmtree, folder)
    for name in ("two-moons", "digits"):
        carry_out(plan(name, overrides={"seed": shifted(0)}), folder, samples=300)
        for report in (f"{name}.png", f"{name}.html"):
            (folder / report).unlink()
    return folder
