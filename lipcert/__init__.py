"""The client of the service: ``from lipcert.client import Client, AsyncClient``.

Nothing here imports the service or the library, only httpx (and numpy, where arrays are sent).

* ``errors``   the tree of what can go wrong.
* ``results``  what the service answers, as dataclasses.
* ``calls``    each request, and how its answer is read: knows no network.
* ``retries``  when to try again.
* ``client``   the two clients, which send calls.
"""
