"""The ``lipmodel`` command: train, figures, inspect, certify, verify, evaluate, audit.

Exit status: 0 fine; 1 a negative finding (a file refused, a claim unproved, an audit that refutes);
2 bad use; 130 interrupted. ``--json`` prints one JSON object on standard output and nothing else;
whatever is for people only goes to standard error. One file a group of commands.
"""

from __future__ import annotations

from typing import Any

import click

from lipmodel import __version__
from lipmodel.cli.certifying import certify, verify
from lipmodel.cli.common import BAD_USE, INTERRUPTED, NEGATIVE, err
from lipmodel.cli.inspecting import inspect
from lipmodel.cli.measuring import audit, evaluate
from lipmodel.cli.training import figures, train
from lipmodel.errors import LipcertError, ModelError, TrainingInterruptedError


class _Group(click.Group):
    """Shows our own errors as one line, with the exit status that fits."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModelError as error:
            err.print(f"refused: {error}", style="red", markup=False, soft_wrap=True)
            ctx.exit(NEGATIVE)
        except TrainingInterruptedError as error:
            how = "" if error.checkpoint is None else ": the same command with --resume goes on from there"
            err.print(f"{error}{how}", style="yellow", markup=False, soft_wrap=True)
            ctx.exit(INTERRUPTED)
        except LipcertError as error:
            err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
            ctx.exit(BAD_USE)
        except KeyboardInterrupt:
            err.print("interrupted", style="yellow")
            ctx.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="lipmodel")
def main() -> None:
    """Trains Lipschitz classifiers and proves certified radii from ONNX files alone."""


for _command in (train, figures, inspect, certify, verify, evaluate, audit):
    main.add_command(_command)
