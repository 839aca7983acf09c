"""Who may call: keys, tokens, scopes and limits, asked for by a real client of a real server."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from service.auth.api_keys import KeyStore
from service.auth.scopes import ADMIN, PUBLIC, ROUTES, Scope, required_scopes
from service.inference.pipeline import PredictionPipeline
from tests.service.conftest import (
    HEALTH,
    PREDICT,
    command,
    connected,
    digits,
    eventually,
    lipserve,
    new_database,
    post,
    rest,
    running,
    state_beside,
    stopped_worker,
    two_moons,
    url_of,
)

BODY = {"inputs": [[0.5, 0.25]]}


@pytest.fixture
def state(models):
    return state_beside(models)


@pytest.fixture
def store(state):
    opened = KeyStore(f"sqlite:///{state / 'jobs.sqlite'}")
    yield opened
    opened.close()


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def ask(client, key=None, **more):
    return client.post(PREDICT, json=BODY, headers=bearer(key) if key else {}, **more)


# --- the table -----------------------------------------------------------------------------


def test_every_route_has_an_entry_and_every_entry_a_use(client):
    document = client.get("/openapi.json").json()
    declared = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    missing = declared - ROUTES.keys()
    assert not missing, f"add to ROUTES in service/auth/scopes.py: {missing}"


def test_routes_are_distinguished():
    assert required_scopes("GET", "/healthz") is PUBLIC
    assert required_scopes("HEAD", "/healthz") is PUBLIC
    assert required_scopes("POST", PREDICT) == {Scope.PREDICT}
    assert required_scopes("POST", "/v1/models/a%2Fb/predict") == {Scope.PREDICT}
    for method, path in [
        ("DELETE", "/healthz"), ("GET", PREDICT), ("POST", "/v1/models/a/b/predict"), ("GET", "/healthz\n"),
        ("GET", "/healthz/"), ("GET", "//healthz"), ("POST", "/v1/models//predict"), ("POST", PREDICT + "/"),
        ("PUT", "/v1/models/x"), ("GET", ""), ("GET", "/V1/models"), ("get", "/healthz"),
    ]:  # fmt: skip
        assert required_scopes(method, path) == ADMIN, (method, path)


def test_the_cache_of_paths_is_bounded():
    for index in range(10_000):
        assert required_scopes("GET", f"/v1/audits/{index}") == {Scope.AUDIT}
    long = f"/v1/audits/{'a' * 2000}"
    assert required_scopes("GET", long) == {Scope.AUDIT}
    from service.auth.scopes import _known

    assert len(_known) <= 4096
    assert ("GET", long) not in _known


# --- keys ----------------------------------------------------------------------------------


def test_without_any_key_every_caller_on_this_machine_is_admitted(models):
    with running(models) as client:
        assert ask(client).status_code == 200
        assert ask(client, "anything").status_code == 200


def test_scopes_decide(models, state, store):
    keys = {name: store.create(name, scopes) for name, scopes in {
        "predict": [Scope.PREDICT], "audit": [Scope.AUDIT], "metrics": [Scope.METRICS], "admin": [Scope.ADMIN],
        "both": [Scope.PREDICT, Scope.AUDIT],
    }.items()}  # fmt: skip
    with running(models, state=state) as client:
        open_to_all = (
            "healthz",
            "readyz",
            "docs",
            "openapi.json",
            ".well-known/jwks.json",
            "problems/internal",
        )
        for path in open_to_all:
            assert client.get(path).status_code == 200, path
        for path, may in {
            "/v1/models": {"predict", "audit", "admin", "both"},
            "/v1/audits": {"audit", "admin", "both"},
            "/metrics": {"metrics", "admin"},
            "/nothing/here": {"admin"},
        }.items():
            assert client.get(path).status_code == 401
            for name, key in keys.items():
                admitted = client.get(path, headers=bearer(key)).status_code in (200, 404)
                assert admitted == (name in may), (path, name)
        for name, key in keys.items():
            answer = ask(client, key)
            assert (answer.status_code == 200) == (name in {"predict", "admin", "both"})
            if answer.status_code == 403:
                assert "'predict'" in answer.json()["detail"]
                assert answer.json()["type"] == "/problems/forbidden"
                challenge = 'Bearer realm="lipserve", error="insufficient_scope", scope="predict"'
                assert answer.headers["WWW-Authenticate"] == challenge


def test_credentials_that_are_none_are_refused(models, state, store):
    key = store.create("a", [Scope.ADMIN])
    start, _, secret = key.rpartition("_")
    with running(models, state=state) as client:
        assert ask(client, key).status_code == 200
        answer = ask(client)
        assert answer.status_code == 401
        assert answer.json()["type"] == "/problems/unauthenticated"
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="lipserve"'
        assert answer.headers["Content-Type"] == "application/problem+json"
        wrong = [
            key[:-1], key + "A", key[:-1] + ("A" if key[-1] != "A" else "B"), key.upper(), f"{start}_", start,
            f"lipcert_{'0' * 12}_{secret}", "lipcert__", "lipcert_", "lipcert", secret, "x", "a.b.c", "é" * 9,
            f"{key} {key}", f"'{key}' OR 1=1", "eyJhbGciOiJub25lIn0.e30.", "." * 9000,
        ]  # fmt: skip
        for credential in wrong:
            answer = client.post(
                PREDICT, json=BODY, headers={"Authorization": f"Bearer {credential}".encode()}
            )
            assert answer.status_code == 401, credential
            assert "invalid_token" in answer.headers["WWW-Authenticate"]
            assert secret not in answer.text
        for given in ("Basic dTpw", key, f"bearer{key}", "Bearer", f"Token {key}", ""):
            assert client.post(PREDICT, json=BODY, headers={"Authorization": given}).status_code == 401, given
        twice = [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")]
        assert client.post(PREDICT, json=BODY, headers=twice).status_code == 401
        assert client.post(PREDICT, json=BODY, headers={"X-API-Key": key}).status_code == 401
        assert client.post(f"{PREDICT}?key={key}", json=BODY).status_code == 401
        assert client.post(PREDICT, json=BODY, headers={"authorization": f"BEARER {key}"}).status_code == 200


def test_a_running_server_notices_keys_made_and_revoked(models, state):
    with running(models, state=state) as client:
        assert ask(client).status_code == 200
        made = command("--state", state, "keys", "create", "--name", "ann", "--scope", "predict")
        assert made.exit_code == 0, made.stderr
        key = made.stdout.strip()
        eventually(lambda: ask(client).status_code == 401, 5)
        assert ask(client, key).status_code == 200
        listed = command("--state", state, "keys", "list").stdout
        key_id = key.split("_")[1]
        assert listed.startswith(f"{key_id}  valid     predict  created ")
        assert key.split("_", 2)[2] not in listed
        assert command("--state", state, "keys", "revoke", key_id).exit_code == 0
        eventually(lambda: ask(client, key).status_code == 401, 5)
        assert ask(client, key).json()["detail"] == "the API key is revoked"
        assert ask(client).status_code == 401  # that the last key is gone opens nothing
        again = command("--state", state, "keys", "revoke", key_id)
        assert again.exit_code == 1
        assert "no valid key" in again.stderr


def test_keys_end(models, state, store):
    key = store.create("short", [Scope.PREDICT], days=2 / 86400)
    with running(models, state=state) as client:
        assert ask(client, key).status_code == 200
        eventually(lambda: ask(client, key).status_code == 401, 10)
        assert ask(client, key).json()["detail"] == "the API key is expired"
    assert [k.state for k in store.all()] == ["expired"]


def test_no_secret_is_kept(state, store):
    key = store.create("a", [Scope.PREDICT])
    kept = b"".join(path.read_bytes() for path in state.iterdir() if path.is_file())
    assert key.split("_")[1].encode() in kept
    assert key.split("_", 2)[2].encode() not in kept
    assert len({store.create("a", [Scope.PREDICT]) for _ in range(50)}) == 50


def test_keys_in_postgresql_are_shared(models, postgresql):
    database = new_database(postgresql)
    with running(models, database=database) as one, running(models, database=database) as other:
        assert ask(one).status_code == 200
        made = command("keys", "create", "--name", "a", "--scope", "predict", LIPSERVE_DATABASE=database)
        for client in (one, other):
            eventually(lambda client=client: ask(client).status_code == 401, 10)
            assert ask(client, made.stdout.strip()).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create", "--name", "x"], "--scope"),
        (["create", "--scope", "predict"], "--name"),
        (["create", "--name", "x", "--scope", "all"], "'all' is not one of"),
        (["create", "--name", "x\ny", "--scope", "predict"], "printable"),
        (["create", "--name", "x", "--scope", "predict", "--expires", "0"], "--expires"),
        (["revoke", "nope"], "no valid key"),
        (["make"], "No such command"),
    ],
)
def test_wrong_arguments_of_keys_are_reported(tmp_path, arguments, told):
    result = command("--state", tmp_path / "s", "keys", *arguments)
    assert result.exit_code in (1, 2)
    assert told in result.stderr


def test_keys_where_none_can_be_kept(tmp_path):
    (tmp_path / "file").write_text("")
    for arguments in (["--state", tmp_path / "file" / "x"], ["--database", "sqlite:////nope/x"]):
        result = command(*arguments, "keys", "list")
        assert result.exit_code == 1
        assert "Error: " in result.stderr


# --- where it listens ----------------------------------------------------------------------


def test_it_does_not_listen_beyond_this_machine_unguarded(models, state):
    refused = command("--models", models, "--state", state, "--host", "0.0.0.0", "--port", 0)
    assert refused.exit_code == 1
    assert "lipserve keys create" in refused.stderr
    assert "--no-auth" in refused.stderr


@pytest.mark.parametrize("way", ["--no-auth", "environment", "key"])
def test_a_service_with_authentication_or_no_auth_listens_beyond_loopback(models, state, way):
    flags, variables = [], {}
    if way == "key":
        KeyStore(f"sqlite:///{state / 'jobs.sqlite'}").create("a", [Scope.PREDICT])
    elif way == "environment":
        variables = {"LIPSERVE_NO_AUTH": "true"}
    else:
        flags = ["--no-auth"]
    arguments = ["--models", models, "--state", state, "--host", "0.0.0.0", "--port", 0, *flags]
    with lipserve(*arguments, **variables) as process:
        url = url_of(process)
        assert httpx.post(url + PREDICT, json=BODY).status_code == (401 if way == "key" else 200)


# --- tokens --------------------------------------------------------------------------------

ISSUER, AUDIENCE = "https://id.example.org", "lipcert"
ED25519, EC, RSA = (
    Ed25519PrivateKey.generate(),
    ec.generate_private_key(ec.SECP256R1()),
    rsa.generate_private_key(65537, 2048),
)


def published(**keys):
    makers = {ED25519: OKPAlgorithm, EC: ECAlgorithm, RSA: RSAAlgorithm}
    return {"keys": [
        makers.get(key, OKPAlgorithm).to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"}
        for kid, key in keys.items()
    ]}  # fmt: skip


def token(key=ED25519, kid="ed", algorithm="EdDSA", header=None, **changes):
    now = time.time()
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "exp": now + 600,
        "sub": "ann",
        "scope": "openid predict",
    } | changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid} | (header or {}))


@contextmanager
def identity_provider(document):
    """Publishes keys at a URL; returns it and how often they were fetched."""
    fetched = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            fetched.append(self.path)
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/keys")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(document).encode())

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", fetched
        finally:
            server.shutdown()
            thread.join()


TRUST = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


def test_tokens_of_an_identity_provider_are_accepted(models, tmp_path):
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(published(ed=ED25519, ec=EC, rsa=RSA)))
    with running(models, jwt_jwks=str(path), **TRUST) as client:
        assert ask(client).status_code == 401
        for key, kid, algorithm in [(ED25519, "ed", "EdDSA"), (EC, "ec", "ES256"), (RSA, "rsa", "RS256")]:
            assert ask(client, token(key, kid, algorithm)).status_code == 200
        assert ask(client, token(aud=["other", AUDIENCE])).status_code == 200
        assert ask(client, token(exp=time.time() - 5)).status_code == 200  # clocks may differ by so much
        assert ask(client, token(scope="audit")).status_code == 403
        assert ask(client, token(scope=None)).status_code == 403
        assert ask(client, token(scope=["predict"])).status_code == 403
        assert ask(client, token(scope="admin")).status_code == 200
        assert client.get("/v1/audits", headers=bearer(token())).status_code == 403


def test_other_tokens_are_refused_with_the_reason(models, tmp_path):
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(published(ed=ED25519, rsa=RSA)))
    other, pem = Ed25519PrivateKey.generate(), RSA.public_key().public_bytes
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    secret = pem(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    good = token()
    confused = jwt.utils.base64url_encode(json.dumps({"alg": "HS256", "kid": "rsa"}).encode()).decode()
    confused += "." + good.split(".")[1]
    confused += (
        "."
        + jwt.utils.base64url_encode(
            jwt.algorithms.HMACAlgorithm("SHA256" and __import__("hashlib").sha256).sign(
                confused.encode(), secret
            )
        ).decode()
    )
    now = time.time()
    with running(models, jwt_jwks=str(path), **TRUST) as client:
        for given, reason in [
            (token(exp=now - 60), "expired"), (token(exp=None), "exp"), (token(nbf=now + 60), "not yet valid"),
            (token(iss="https://evil.example.org"), "issuer"), (token(iss=None), "iss"),
            (token(aud="other"), "udience"), (token(aud=None), "aud"), (token(exp="soon"), "xpiration"),
            (token(key=other), "ignature"), (token(kid="nope"), "not among the issuer's keys"), (token(kid="rsa"), "is for RS256"),
            (token(key="k" * 64, algorithm="HS256"), "algorithm is not accepted"), (confused, "algorithm is not accepted"),
            (token(key=None, algorithm="none"), "algorithm is not accepted"),
            (token(header={"jwk": published(x=other)["keys"][0]}), "'jwk'"), (token(header={"crit": ["x"], "x": 1}), ""),
            (token(header={"jku": "https://example.org"}), "'jku'"),
            (token(header={"typ": "lipcert-certificate+jws"}), "type is not accepted"),
            (good[:-3] + "AAA", "ignature"), (good + "A", ""), (good.rsplit(".", 1)[0] + ".", ""), (good[1:], ""),
            *((token(**{claim: odd}), "") for claim in ("exp", "nbf", "iat")
              for odd in (10**400, float("inf"), float("nan"), [1], {}, "", "soon")),
            (token(exp=10**400), "malformed"), (token(sub=["a"]), "ubject"),
            ("A" * 20_000, "longer than"), ("a.b.c", "neither"), ("!.!.!", "neither"),
        ]:  # fmt: skip
            answer = ask(client, given)
            assert answer.status_code == 401, (reason, answer.text)
            assert reason in answer.json()["detail"], answer.text
            assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
        assert ask(client, good).status_code == 200


def test_a_signed_certificate_is_no_credential(models, tmp_path):
    """Though one file may hold the keys of both."""
    from lipmodel.signed.key_sets import add_signing_key, read_signing_keys

    add_signing_key(tmp_path / "signing")
    (tmp_path / "jwks.json").write_text(
        json.dumps({"keys": read_signing_keys(tmp_path / "signing").published})
    )
    with running(models, signing_keys=tmp_path / "signing") as client:
        certificate = client.post(PREDICT, json=BODY | {"certificate": True}).json()["predictions"][0][
            "certificate"
        ]
    with running(models, jwt_jwks=str(tmp_path / "jwks.json"), **TRUST) as client:
        answer = ask(client, certificate)
        assert answer.status_code == 401
        assert "type is not accepted" in answer.json()["detail"]


def test_new_keys_of_the_provider_are_fetched_when_needed_and_not_too_often(models, monkeypatch):
    document = published(ed=ED25519)
    new = Ed25519PrivateKey.generate()
    with (
        identity_provider(document) as (url, fetched),
        running(models, jwt_jwks=f"{url}/keys", **TRUST) as client,
    ):
        assert ask(client, token()).status_code == 200
        document["keys"] += published(new=new)["keys"]
        with ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(lambda i: ask(client, token(kid=f"no{i}")).status_code, range(40)))
        assert set(codes) == {401}
        assert len(fetched) == 1  # at the start
        monkeypatch.setattr("service.auth.tokens.REFRESH_SECONDS", 0.0)
        assert ask(client, token(new, "new")).status_code == 200
        assert len(fetched) == 2
        document["keys"] = []
        assert ask(client, token(kid="more")).status_code == 401
        assert (
            ask(client, token(new, "new", sub="bob")).status_code == 200
        )  # what cannot be used changes nothing


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--jwt-jwks", "/nope"], "jwt_issuer"),
        (["--jwt-jwks", "/nope", "--jwt-issuer", "a", "--jwt-audience", "b"], "No such file"),
        (["--jwt-jwks", "http://example.org/keys", "--jwt-issuer", "a", "--jwt-audience", "b"], "only https"),
        (["--jwt-jwks", "http://127.0.0.1:9/", "--jwt-issuer", "a", "--jwt-audience", "b"], "refused"),
        (["--signing-keys", "/nope"], "No such file"),
    ],
)
def test_unusable_keys_prevent_a_start(models, flags, told):
    result = command("--models", models, "--port", 0, *flags)
    assert result.exit_code == 1
    assert told in result.stderr


def test_redirects_are_not_followed(models):
    flags = ("--models", models, "--port", 0, "--jwt-issuer", "a", "--jwt-audience", "b", "--jwt-jwks")
    with (
        identity_provider(published(ed=ED25519)) as (url, fetched),
        lipserve(*flags, f"{url}/moved") as process,
    ):
        assert process.wait(60) == 1
    assert fetched == ["/moved"]


# --- limits --------------------------------------------------------------------------------


def test_one_caller_has_no_more_than_a_rate(models, state, store):
    one, other = (store.create(name, [Scope.PREDICT]) for name in "ab")
    with running(models, state=state, requests_per_second=4.0) as client:
        answers = [ask(client, one) for _ in range(12)]
        refused = [a for a in answers if a.status_code == 429]
        assert [a.status_code for a in answers[:4]] == [200] * 4
        assert len(refused) >= 4
        assert refused[0].json()["type"] == "/problems/too-many-requests"
        assert refused[0].headers["Retry-After"] == "1"
        assert ask(client, other).status_code == 200
        assert all(client.get("/healthz").status_code == 200 for _ in range(20))
        assert ask(client).status_code == 401
        eventually(lambda: ask(client, one).status_code == 200, 10)


@pytest.mark.parametrize("known", [False, True])
def test_one_caller_has_no_more_than_so_many_requests_at_a_time(models, state, store, known):
    one, other = (store.create(name, [Scope.PREDICT]) for name in "ab")
    with running(models, state=state, requests_at_a_time=2) as client:
        for _ in range(5 * known):  # one after another
            assert ask(client, one).status_code == 200
        waiting = []
        for _ in range(2):  # their bodies never come
            waiting.append(connected(client))
            waiting[-1].sendall(post(b"", PREDICT, f"Authorization: Bearer {one}", length=9))
        headers = {"Authorization": f"Bearer {store.create('m', [Scope.METRICS])}"}
        eventually(lambda: "in_flight_requests 3.0" in client.get("/metrics", headers=headers).text)
        eventually(lambda: ask(client, one).status_code == 429, 10)
        assert ask(client, other).status_code == 200
        for connection in waiting:
            connection.close()
        eventually(lambda: ask(client, one).status_code == 200, 10)


def test_where_all_may_call_addresses_are_limited(models):
    with running(models, requests_per_second=1.0) as client:
        assert 429 in {ask(client).status_code for _ in range(5)}


# --- requests that do not arrive -----------------------------------------------------------


def test_requests_that_do_not_arrive_are_ended(models):
    with running(models, request_seconds=1.0) as client, ExitStack() as stack:
        body, head, nothing, twice = (stack.enter_context(connected(client)) for _ in range(4))
        start = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        body.sendall(f'{start}Content-Length: 99\r\n\r\n{{"inputs"'.encode())
        head.sendall(start.encode())
        twice.sendall(HEALTH)
        assert b" 200 OK" in twice.recv(4096)
        twice.sendall(start.encode())
        answer = rest(body)
        assert answer.startswith(b"HTTP/1.1 408 ")
        problem = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert (problem["status"], problem["type"]) == (408, "/problems/request-timeout")
        for connection in (head, nothing, twice):
            assert connection.recv(4096) == b""
        assert ask(client).status_code == 200


def test_an_idle_connection_is_not_one_on_which_something_does_not_arrive(models):
    with running(models, request_seconds=0.5) as client, connected(client) as idle:
        for seconds in (2.5, 0):  # it is looked at once a second
            idle.sendall(HEALTH)
            assert b" 200 OK" in idle.recv(4096)
            time.sleep(seconds)


def test_slow_answers_are_not_ended(models):
    with running(models, request_seconds=0.5) as client:
        answer = client.post(
            "/v1/models/two-moons/audits", json={"samples": 200}, headers={"Prefer": "wait=60"}
        )
        assert answer.status_code == 200
        with client.stream("GET", "/v1/audits") as listed:
            time.sleep(2)
            assert listed.read()


def test_headers_are_bounded(models):
    with running(models, max_header_bytes=2048) as client:
        assert client.get("/healthz", headers={"X-Long": "a" * 1000}).status_code == 200
        for headers in ({"X-Long": "a" * 2000}, {f"X-{i}": "a" * 20 for i in range(90)}):
            answer = client.get("/healthz", headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (431, "/problems/headers-too-large")


def seconds_of_work(monkeypatch, seconds):
    answer = PredictionPipeline.answer

    async def slow(pipeline, question):
        await asyncio.sleep(seconds)
        return await answer(pipeline, question)

    monkeypatch.setattr(PredictionPipeline, "answer", slow)


def test_beyond_the_most_connections_those_that_wait_for_their_clients_give_way(models, monkeypatch):
    seconds_of_work(monkeypatch, 4)
    with running(models, max_connections=4) as client, ExitStack() as stack:

        def connect(sent=b""):
            held.append(stack.enter_context(connected(client)))
            held[-1].sendall(sent)
            time.sleep(0.05)
            return held[-1]

        held = []
        whole = post(json.dumps(BODY | {"portable": True}).encode())
        half = whole[:-1]
        busy, nothing, late, idle = connect(whole), connect(), connect(half), connect(whole[:50])
        for _ in range(20):  # each is answered, though 20 before it stay open
            assert connect(HEALTH).recv(4096).startswith(b"HTTP/1.1 200 ")
        assert late.recv(4096).startswith(b"HTTP/1.1 503 ")
        for gone in (nothing, late, idle, *held[4:-3]):
            assert gone.recv(1) == b""
        for _ in range(3):
            connect(whole)
        refused = connect(HEALTH).recv(4096)
        assert refused.startswith(b"HTTP/1.1 503 ")
        head, _, problem = refused.partition(b"\r\n\r\n")
        assert json.loads(problem)["type"] == "/problems/too-many-connections"
        assert b"retry-after: 1\r\n" in head.lower()
        assert b"cache-control: no-store" in head
        assert busy.recv(4096).startswith(b"HTTP/1.1 200 ")


def test_a_limit_of_open_files_leaves_room_for_all_else(models, state):
    """The hard limit, which cannot be raised: 200 with 1,000 connections allowed."""
    script = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200)); "
    script += "sys.argv[0] = 'lipserve'; runpy.run_module('service', run_name='__main__')"
    program = [sys.executable, "-c", script, "--models", models, "--state", state, "--port", "0"]
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        stack.callback(process.kill)
        url = url_of(process)
        for _ in range(300):
            stack.enter_context(connected(url))
        for _ in range(10):
            assert httpx.post(url + PREDICT, json=BODY).status_code == 200
        audit = {"json": {"samples": 10}, "headers": {"Prefer": "wait=60"}, "timeout": 60}
        assert httpx.post(f"{url}/v1/models/two-moons/audits", **audit).status_code == 200
        process.terminate()
        assert (
            "max_connections is reduced to 72: the limit of open files (ulimit -n) is 200"
            in process.communicate()[1]
        )


@pytest.mark.parametrize(("proxies", "statuses"), [(None, {200, 429}), ("127.0.0.1", {200})])
def test_only_a_trusted_proxy_names_the_caller(models, proxies, statuses):
    with running(models, requests_per_second=1.0, forwarded_allow_ips=proxies) as client:
        asked = [
            client.post(PREDICT, json=BODY, headers={"X-Forwarded-For": f"10.0.0.{i}"}) for i in range(6)
        ]
        assert {answer.status_code for answer in asked} == statuses


# --- headers -------------------------------------------------------------------------------


def test_every_answer_has_safe_headers(models, serve):
    client = serve({"two-moons": two_moons(), "digits": digits()})
    for answer in (
        ask(client), client.get("/nope"), client.post(PREDICT, content=b"x", headers={"Content-Type": "application/json"}), client.get("/metrics"),
        client.get("/openapi.json"), client.delete("/healthz"), client.get("/docs"),
    ):  # fmt: skip
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == ("no-cache" if answer.url.path == "/docs" else "no-store")
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        scripted = "script-src" in answer.headers["Content-Security-Policy"]
        assert scripted == (answer.url.path == "/docs")


def test_failures_have_them_too(models, monkeypatch):
    async def fail(*_, **__):
        raise ValueError

    monkeypatch.setattr("service.inference.engine.Engine.predict", fail)
    with running(models) as client:
        answer = ask(client)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (500, "no-store")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_stream_of_events_ends_with_its_key(models, state, store):
    key, other = (store.create(name, {Scope.AUDIT}) for name in ("one", "other"))
    with running(models, state=state) as client:
        url = "/v1/models/two-moons/audits"
        asked = bearer(key) | {"Prefer": "wait=0"}
        place = client.post(url, json={"samples": 5}, headers=asked).headers["location"]
        stopped_worker(state)  # so that the job does not end by itself
        with client.stream("GET", place + "/events", headers=bearer(key), timeout=30) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: progress"
            store.revoke(key.split("_")[1])
            assert "event: end" not in list(lines)
        assert client.get(place, headers=bearer(key)).status_code == 401
        assert client.delete(place, headers=bearer(other)).json()["state"] == "cancelled"
