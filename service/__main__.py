"""Entry point of ``lipserve`` and ``python -m service``."""

from __future__ import annotations

from service.startup import lean_imports


def main() -> None:
    """Import the command of :mod:`service.cli.main` within :func:`lean_imports`, and run it."""
    with lean_imports():
        from service.cli.main import main as command
    command()


if __name__ == "__main__":
    main()
