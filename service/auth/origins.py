"""Where no credential is asked for: requests that a web page made a browser send are refused.

A browser on the machine reaches the service, and any page can have it send requests. Such a request names in
``Origin`` the page's origin, or in ``Host`` a name of the page's that was made to lead here (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from service.problems import Problem, ProblemKind

REMEMBERED = 1024
ADVICE = "the setting allowed_hosts lists further names"


class Origins:
    """The names under which the service may be asked.

    Args:
        names: besides IP addresses, which no page can make lead elsewhere, and ``localhost``.
    """

    def __init__(self, names: Iterable[str]) -> None:
        stripped = (name.strip().lower() for name in names)
        self._names = frozenset(name for name in stripped if name and not _is_local(name))
        self._known: set[bytes] = set()

    def check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise the 403 for a request under an unknown name, or of a page of another origin."""
        host = headers.get(b"host", b"")
        if host not in self._known:
            if not (_is_local(_name(host)) or _name(host) in self._names):
                shown = host[:64].decode("latin-1")
                raise _refused(f"Host is '{shown}'; localhost and IP addresses are accepted, and {ADVICE}")
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            self._known.add(host)
        origin = headers.get(b"origin")
        if origin is not None:
            there = origin.partition(b"://")[2]
            if there.lower() != host.lower() and _name(there) not in self._names:
                shown = origin[:64].decode("latin-1")
                raise _refused(f"Origin is '{shown}'; pages of this service's own are accepted, and {ADVICE}")
        elif method not in ("GET", "HEAD") and headers.get(b"sec-fetch-site") in (
            b"cross-site",
            b"same-site",
        ):
            raise _refused("Sec-Fetch-Site says that a page of another origin sent this")


def _name(host: bytes) -> str:
    """The name or address in ``NAME:PORT``, in small letters."""
    name = host.decode("latin-1").lower()
    return name[1 : name.find("]")] if name.startswith("[") else name.partition(":")[0]


def _is_local(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refused(detail: str) -> Problem:
    return Problem(ProblemKind.FOREIGN_ORIGIN, detail)
