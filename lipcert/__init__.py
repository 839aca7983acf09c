"""The client of the service: ``from lipcert.client import Client, AsyncClient``.

This package imports neither the service nor the library, only httpx (and numpy, to send arrays).

* ``errors``   the exceptions.
* ``results``  responses as dataclasses.
* ``calls``    requests, and the parsing of their responses; no input or output.
* ``client``   the two clients, which send calls, and their retry policy.
"""
