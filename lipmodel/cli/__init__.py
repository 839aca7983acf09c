"""The ``lipmodel`` command: train, figures, inspect, certify, verify, evaluate, audit.

Exit status: 0 success; 1 a negative finding (a file refused, a claim unproved, a refuting audit); 2 usage
error; 130 interrupted. ``--json`` prints one JSON object on standard output; messages go to standard error.
Each module has one group of commands.
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
    """Command group that prints Lipcert's errors on one line and exits with their status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModelError as error:
            err.print(f"refused: {error}", style="red", markup=False, soft_wrap=True)
            ctx.exit(NEGATIVE)
        except TrainingInterruptedError as error:
            remedy = "" if error.checkpoint is None else "; to continue, repeat the command with --resume"
            err.print(f"{error}{remedy}", style="yellow", markup=False, soft_wrap=True)
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
    """Train Lipschitz classifiers and prove certified radii from ONNX files alone.

    Exit status: 0 success, 1 negative finding, 2 usage error, 130 interrupted.
    """


for _command in (train, figures, inspect, certify, verify, evaluate, audit):
    main.add_command(_command)
