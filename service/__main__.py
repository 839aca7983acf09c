"""``lipserve``, or ``python -m service``: the command of :mod:`service.app`."""

from __future__ import annotations

from service.startup import lean_imports


def main() -> None:
    """Imports it, and runs it."""
    with lean_imports():
        from service.app import main as command
    command()


if __name__ == "__main__":
    main()
