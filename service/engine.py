"""Arrays in, certified predictions out, and where the work runs. Knows no HTTP.

Work of about a millisecond runs on the event loop itself: handing it to a thread costs 0.2 ms of
CPU, as much as the whole of a small batch. Longer work goes to threads (onnxruntime and numpy release
the interpreter while they compute).
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from lipmodel.certify.predictor import Predictions
from lipmodel.errors import InputError
from lipmodel.norms import Array, Norm
from service.drift import Served
from service.registry import Model

INLINE_MULTIPLICATIONS = 10_000_000
"""Of a batch; about 1.3 ms on one core."""


class Engine:
    """Runs predictions; one a process.

    Attributes:
        served: what was answered, but for tightened radii.
    """

    def __init__(self) -> None:
        self.served = Served()
        self._predictions = ThreadPoolExecutor(os.cpu_count(), "predict")

    async def predict(
        self, model: Model, inputs: Array, norm: Norm, *, tighten: bool = False, portable: bool = False
    ) -> tuple[Predictions, Array | None]:
        """Scores, labels and certified radii of (N, d) inputs; and portable radii where asked for.

        Raises:
            InputError: the inputs do not fit the model, or its scores overflow there.
        """
        work = partial(_predict, model, inputs, norm, tighten=tighten, portable=portable)
        short = len(inputs) * model.multiplications <= INLINE_MULTIPLICATIONS
        if short and model.predictor.rule(norm).ready and not (tighten or portable):
            predictions, portable_radii = work()
        else:
            loop = asyncio.get_running_loop()
            predictions, portable_radii = await loop.run_in_executor(self._predictions, work)
        if not tighten:
            self.served.of(model, norm).add(predictions.radii)
        return predictions, portable_radii

    def alive(self) -> bool:
        """Whether it takes work."""
        try:
            self._predictions.submit(int)
        except RuntimeError:
            return False
        return True

    def close(self) -> None:
        """Takes no more work; what waits is dropped."""
        self._predictions.shutdown(wait=False, cancel_futures=True)


def _predict(
    model: Model, inputs: Array, norm: Norm, *, tighten: bool, portable: bool
) -> tuple[Predictions, Array | None]:
    predictions = model.predictor.predict(inputs, norm, tighten=tighten)
    finite = np.isfinite(predictions.scores).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        raise InputError("is so large that the model's scores overflow", field=f"inputs[{row}]")
    return predictions, model.predictor.portable_radii(inputs, norm) if portable else None
