"""Static files: the page, the API documentation, and their scripts and styles from this package and others.

A file is served if it is listed here, or is in ``service/web`` with one of the suffixes listed here. Browsers
revalidate their copies by ``ETag`` on each use, so no copy is stale after an update of the package.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.budget import PIECE_BYTES

router = APIRouter(include_in_schema=False)

WEB = Path(__file__).parents[1] / "web"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page: scripts and styles are files of this service, none is inline."""
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
}
LIBRARIES = {
    "plotly.js": ("plotly", "package_data/plotly.min.js"),
    "swagger-ui.js": ("fastapi_swagger", "resources/swagger-ui-bundle.js"),
    "swagger-ui.css": ("fastapi_swagger", "resources/swagger-ui.css"),
}
"""Files of other packages: package and path within the package, by name here."""


def _files() -> Mapping[str, Path]:
    """Return all served files by path under ``/web``."""
    own = {path.relative_to(WEB).as_posix(): path for path in WEB.rglob("*") if path.suffix in MEDIA_TYPES}
    found = {name: (find_spec(package), place) for name, (package, place) in LIBRARIES.items()}
    return own | {
        name: Path(spec.origin).parent / place
        for name, (spec, place) in found.items()
        if spec is not None and spec.origin is not None
    }


FILES = _files()
PAGES = {"/": "index.html", "/docs": "docs.html"}


@lru_cache(maxsize=128)
def _content(path: Path, _modified: int) -> tuple[bytes, bytes, str]:
    """Return a file, the same gzipped, and its entity tag, which is weak since both encodings share one."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:32]
    return content, gzip.compress(content, 6, mtime=0), f'W/"{digest}"'


class _Pieces(Response):
    """Response that sends shared content in slices, so that no request holds a copy of the whole."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send each piece once the client has read the pieces before."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        content = memoryview(self.body)
        last = (max(1, len(content)) - 1) // PIECE_BYTES * PIECE_BYTES
        for start in range(0, last + 1, PIECE_BYTES):
            piece = bytes(content[start : start + PIECE_BYTES])
            await send({"type": "http.response.body", "body": piece, "more_body": start < last})


@router.api_route("/", methods=["GET", "HEAD"])
@router.api_route("/docs", methods=["GET", "HEAD"])
@router.api_route("/web/{name:path}", methods=["GET", "HEAD"])
async def show_file(request: Request) -> Response:
    """Return the page, the API documentation or a file of both; a 304 if the browser has a current copy."""
    name = PAGES.get(request.scope["route"].path) or request.path_params["name"]
    path = FILES.get(name)
    if path is None:
        raise HTTPException(404)
    body, gzipped, etag = await asyncio.to_thread(_content, path, path.stat().st_mtime_ns)
    headers = {"ETag": etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
    if path.suffix == ".html":
        headers["Content-Security-Policy"] = PAGE_POLICY
    if etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"], body = "gzip", gzipped
    return _Pieces(body, headers=headers, media_type=MEDIA_TYPES[path.suffix])
