"""The ``lipserve`` command."""
