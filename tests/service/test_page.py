"""The files of the page, as a browser asks for them."""

import pytest

from service.api.page import FILES, WEB

PAGES = {"/", "/docs"}


@pytest.mark.parametrize("path", ["/", *(f"/web/{name}" for name in FILES if not name.endswith(".html"))])
def test_every_file_is_served_and_kept(client, path):
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Encoding"] == "gzip"
    again = client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert ("script-src 'self'" in answer.headers["Content-Security-Policy"]) == (path in PAGES)
    plain = client.get(path, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.content == answer.content


def test_all_that_the_page_is_made_of_is_there():
    assert {path.relative_to(WEB).as_posix() for path in WEB.rglob("*") if path.is_file()} <= FILES.keys()
    assert {"plotly.js"} <= FILES.keys()


@pytest.mark.parametrize(
    "path", ["/web/", "/web/nope.js", "/web/..%2Fapp.py", "/web/views/../../app.py", "/web//etc/passwd"]
)
def test_nothing_else_is_served(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
