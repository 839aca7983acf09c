"""Protection of a service without authentication against requests sent by web pages through a browser.

A browser on the machine reaches the service, and any page can have it send requests. Such a request names
the page's origin in ``Origin``, or in ``Host`` a name of the page that was made to resolve here (DNS
rebinding).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from service.problems import Problem, ProblemKind

REMEMBERED = 1024
OTHER_SITES = (b"cross-site", b"same-site")
ADVICE = "the setting allowed_hosts lists further names"


class AllowedHosts:
    """Host names accepted in requests without a credential.

    Args:
        names: besides ``localhost`` and IP addresses, which no page can make resolve elsewhere.
    """

    def __init__(self, names: Iterable[str]) -> None:
        stripped = (name.strip().lower() for name in names)
        self._names = frozenset(name for name in stripped if name and not _is_local(name))
        self._known: set[bytes] = set()

    def check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Raise a 403 for an unknown host name, or for a request by a page of another origin."""
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
                raise _refused(f"Origin is '{shown}'; only pages of this service are accepted, and {ADVICE}")
        elif method not in ("GET", "HEAD") and headers.get(b"sec-fetch-site") in OTHER_SITES:
            raise _refused("the request comes from a page of another origin (Sec-Fetch-Site)")


def _name(host: bytes) -> str:
    """Return the name or address in ``NAME:PORT``, in lower case."""
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
