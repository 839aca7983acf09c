"""One job in a process of its own: ``python -m service.sandbox.worker FOLDER BYTES``.

The folder holds ``task.json``, ``model.onnx`` and the data. BYTES limits the memory of the process; files
that it maps do not count. The process writes the files of a requested report into ``report/``, and lines of
JSON to standard output: ``{"progress": share}`` any number of times, then ``{"result": …}`` or
``{"problem": …}``. It ends with the server: standard input closes when the server dies, for any reason.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lipmodel.audit.report import audit
from lipmodel.certify.predictor import CertifiedPredictor
from lipmodel.data.stream import Stream, in_memory, open_stream
from lipmodel.errors import DataError, InputError, LipcertError
from lipmodel.evaluate import BATCH_ROWS, Evaluation, evaluate
from lipmodel.norms import Array, Norm
from lipmodel.progress import Progress
from service.disk import full
from service.sandbox.data_folder import pin
from service.sandbox.launch import message_writer
from service.sandbox.process import REPORT_FOLDER, TASK_FILE
from service.sandbox.resources import lower_priority, within

SECONDS_BETWEEN_PROGRESS = 0.1
MAX_RADII = 10_000
"""Largest number of radii stored as reference for drift; of larger evaluations, a random sample."""


def main() -> None:
    """Run the job in the folder of the first argument, within the memory of the second."""
    lower_priority()
    folder, max_bytes = Path(sys.argv[1]), within(resource.RLIMIT_DATA, int(sys.argv[2]))
    resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))
    threading.Thread(target=_die_with_the_server, daemon=True).start()
    write = message_writer()
    try:
        write(**_run(folder, _throttled(lambda share: write(progress=share))))
    except Exception as error:
        write(problem=_problem(error, folder))


def _problem(error: Exception, folder: Path) -> dict[str, str]:
    """Return the problem of a job that ended with an error."""
    if reason := full(error):
        return {"kind": "insufficient-storage", "detail": reason}
    if isinstance(error, InputError):
        return {"kind": "invalid-input", "field": error.field, "detail": error.reason}
    if isinstance(error, DataError):
        return {"kind": "invalid-input", "field": "data", "detail": str(error).replace(f"{folder}/", "")}
    if isinstance(error, LipcertError):
        return {"kind": "job-failed", "detail": str(error)}
    # Log the type and place alone: the message may quote the data. The client gets the type.
    print(*traceback.format_tb(error.__traceback__), type(error).__name__, sep="", file=sys.stderr)
    return {"kind": "job-failed", "detail": f"the job ended with {type(error).__name__}"}


def _die_with_the_server() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def _throttled(progress: Progress) -> Progress:
    last = 0.0

    def report(share: float) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_BETWEEN_PROGRESS:
            last = time.monotonic()
            progress(float(share))

    return report


def _run(folder: Path, progress: Progress) -> dict[str, Any]:
    task = json.loads((folder / TASK_FILE).read_text("ascii"))
    predictor = CertifiedPredictor((folder / "model.onnx").read_bytes())
    if task.get("execution") == "float32":  # execution of the model when the job was submitted
        predictor = predictor.executing(np.float32)
    # The digest of the served file includes its external data.
    predictor.file = replace(predictor.file, sha256=task["sha256"])
    return KINDS[task["kind"]](predictor, folder, task["options"], progress)


def _audit(
    predictor: CertifiedPredictor, folder: Path, options: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    inputs = folder / "inputs.npy"
    report = audit(
        predictor,
        norm=_norm(options),
        inputs=np.load(inputs, allow_pickle=False) if inputs.exists() else None,
        box=tuple(options["box"]) if options["box"] else None,
        samples=options["samples"],
        seed=options["seed"],
        progress=progress,
    )
    if options["report"]:
        from lipmodel.report.audit import audit_files  # the extra 'report'
        from lipmodel.report.page import write_files

        write_files(audit_files(predictor, report, **options["titles"]), folder / REPORT_FOLDER)
    return {"result": report.to_dict()}


def _evaluate(
    predictor: CertifiedPredictor, folder: Path, options: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    threat = predictor.parse_threat(given) if (given := options.get("threat")) else predictor.default_norm
    data = _data(folder, options["data"], options["under"])
    result = evaluate(
        predictor,
        data,
        None,
        threat,
        options["epsilons"],
        progress,
        tighten=options["tighten"],
        attacked=options["attack"],
    )
    if options["report"]:
        from lipmodel.report.evaluation import evaluation_files  # the extra 'report'
        from lipmodel.report.page import write_files

        files = evaluation_files(predictor, result, **options["titles"], units=data.units)
        write_files(files, folder / REPORT_FOLDER)
    return {
        "result": {"sha256": predictor.file.sha256, **result.to_dict()},
        # No reference for drift in other units than those of the radii that are counted.
        "radii": None if result.threat.scale else _served_radii(predictor, data, result).tolist(),
    }


def _data(folder: Path, name: str | None, under: str | None) -> Stream:
    """Return the rows of the request, or the named file or folder, in the job's folder or in ``under``."""
    if under is not None and name is not None:
        return open_stream(str(pin(Path(under), name, folder / "data")))
    if name is not None:
        return open_stream(str(folder / name))
    inputs, labels = (np.load(folder / f"{n}.npy", allow_pickle=False) for n in ("inputs", "labels"))
    return replace(in_memory("the rows sent", inputs, labels), units="")


def _served_radii(predictor: CertifiedPredictor, data: Stream, result: Evaluation) -> Array:
    """Return the radii that the service would return for these inputs, the reference for drift."""
    chosen = np.arange(result.samples)
    if len(chosen) > MAX_RADII:
        chosen = np.sort(np.random.default_rng(0).choice(len(chosen), MAX_RADII, replace=False))
    if not result.tightened:
        return result.radii[chosen]
    radii, first = [], 0
    for rows, _ in data.batches(BATCH_ROWS):
        wanted = chosen[(chosen >= first) & (chosen < first + len(rows))] - first
        if len(wanted):
            radii.append(predictor.predict(rows[wanted], result.norm).radii.certified_radius)
        first += len(rows)
    return np.concatenate(radii)


def _norm(options: dict[str, Any]) -> Norm | None:
    return Norm(options["norm"]) if options["norm"] else None


Kind = Callable[[CertifiedPredictor, Path, dict[str, Any], Progress], dict[str, Any]]
KINDS: dict[str, Kind] = {"audit": _audit, "evaluation": _evaluate}

if __name__ == "__main__":
    main()
