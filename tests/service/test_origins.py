"""What a page in a browser may have the service do, where nobody need say who they are: nothing."""

import pytest

from service.auth.api_keys import KeyStore
from service.auth.scopes import Scope
from service.problems import ProblemKind
from service.settings import Settings
from tests.service.conftest import running, state_beside, two_moons
from tests.service.test_bad_input import check
from tests.service.test_direct import INFER, PREDICT, as_json, post, raw, statuses

BODY, TYPE = as_json({"inputs": [[0.5, 0.25]]})
LOAD = "/v2/repository/models/two-moons/load"
AUDITS = "/v1/models/two-moons/audits"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "two-moons.onnx").write_bytes(two_moons())
    with running(folder, uploads=True, allowed_hosts="lipserve, Certify.example.org,") as client:
        yield client


FOREIGN = {
    "page": {"Origin": "http://evil.example"},
    "page of another port": {"Origin": "http://127.0.0.1:1"},
    "page of a file": {"Origin": "null"},
    "page of nothing": {"Origin": ""},
    "page of a name that begins alike": {"Origin": "http://127.0.0.1.evil.example"},
    "page that claims a user": {"Origin": "http://127.0.0.1@evil.example"},
    "rebound name": {"Host": "evil.example"},
    "rebound name and page": {"Host": "evil.example:8000", "Origin": "http://evil.example:8000"},
    "name of an address": {"Host": "127.0.0.1.evil.example"},
    "address in parentheses that is none": {"Host": "[evil.example]:8000"},
    "address of another form": {"Host": "127.1"},
    "name that ends alike": {"Host": "notlocalhost"},
    "name under an allowed one": {"Host": "a.lipserve"},
    "no name": {"Host": ""},
    "frame": {"Sec-Fetch-Site": "cross-site"},
    "frame of another port": {"Sec-Fetch-Site": "same-site"},
}


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize(
    "path", [PREDICT, INFER, LOAD, LOAD.replace("/load", "/unload"), AUDITS, "/v2/repository/index"]
)
def test_requests_of_a_foreign_page_are_refused(server, path, case):
    answer = server.post(path, content=b"{}", headers=TYPE | FOREIGN[case])
    check(answer, ProblemKind.FOREIGN_ORIGIN)
    assert server.get("/v1/models/two-moons", headers=TYPE).status_code == 200  # it was not unloaded


@pytest.mark.parametrize("case", ["page", "rebound name", "no name"])
def test_reads_of_a_foreign_page_are_refused_too(server, case):
    for path in ("/v1/models", "/metrics", "/v1/audits", AUDITS.replace("audits", "samples")):
        check(server.get(path, headers=FOREIGN[case]), ProblemKind.FOREIGN_ORIGIN)
    for path in ("/healthz", "/readyz", "/", "/openapi.json"):  # these tell nothing of models
        assert server.get(path, headers=FOREIGN[case]).status_code == 200


def test_no_host_is_an_unknown_one(server):
    old = post(BODY, PREDICT, "Connection: close", version="1.0").replace(b"Host: localhost\r\n", b"")
    assert statuses(raw(server, old)) == [b"403"]
    assert statuses(raw(server, b"GET /healthz HTTP/1.0\r\n\r\n")) == [b"200"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost"},
        {"Host": "LOCALHOST:8000", "Origin": "http://localhost:8000"},
        {"Host": "app.localhost:8000"},
        {"Host": "[::1]:8000", "Origin": "http://[::1]:8000", "Sec-Fetch-Site": "same-origin"},
        {"Host": "10.0.0.7:8000"},
        {"Host": "lipserve:8000"},
        {
            "Host": "certify.example.org",
            "Origin": "https://certify.example.org",
        },  # TLS ends before the service
        {
            "Host": "127.0.0.1:8000",
            "Origin": "https://certify.example.org",
        },  # or the proxy names it otherwise
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_its_own_names_and_pages_are_answered(server, headers):
    assert server.post(PREDICT, content=BODY, headers=TYPE | headers).status_code == 200
    assert server.get("/v1/models", headers=headers).status_code == 200


def test_a_link_of_another_page_may_be_followed(server):
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert server.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "given", [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}]
)
def test_json_is_said_to_be_json(server, given):
    for path in (PREDICT, AUDITS, AUDITS.replace("audits", "attacks"), AUDITS.replace("audits", "evaluations"),
                 "/v1/certificates/check"):  # fmt: skip
        check(server.post(path, content=BODY, headers=given), ProblemKind.UNSUPPORTED_MEDIA_TYPE)


def test_with_keys_any_name_will_do(models):
    state = state_beside(models)
    store = KeyStore.beside_jobs(Settings(models=models, state=state))
    key = store.create("a", [Scope.PREDICT])
    with running(models, state=state) as client:
        headers = TYPE | FOREIGN["rebound name and page"]
        assert client.post(PREDICT, content=BODY, headers=headers).status_code == 401
        headers |= {"Authorization": f"Bearer {key}"}
        assert client.post(PREDICT, content=BODY, headers=headers).status_code == 200


def test_models_are_loaded_and_unloaded_where_they_may_be_changed(client):
    for verb in ("load", "unload"):
        answer = client.post(f"/v2/repository/models/two-moons/{verb}", json={})
        check(answer, ProblemKind.UPLOADS_OFF, reason="start the service with --uploads")
