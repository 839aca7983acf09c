"""The ``lipserve`` command, as a process of its own."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.http.server import listen
from service.settings import Settings
from tests.service.conftest import COMMAND, approve, command, lipserve, url_of


def run(*arguments):
    program = [*COMMAND, *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_answers_and_stops_quietly(models, number):
    with lipserve("--models", models, "--port", 0) as process:
        url = url_of(process)
        answer = httpx.post(f"{url}/v1/models/two-moons/predict", json={"inputs": [[0.5, 0.25]]})
        assert answer.json()["predictions"][0]["certified_radius"] > 0
        process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert (output, errors) == ("", "")


def test_settings_come_from_the_environment_and_flags_win(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"x")
    variables = {"LIPSERVE_MODELS": str(tmp_path), "LIPSERVE_PORT": "1", "LIPSERVE_MAX_ROWS": "7"}
    with lipserve("--port", 0, **variables) as process:
        assert httpx.get(url_of(process) + "/v1/models").json()["models"][0]["name"] == "bad"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert f"{tmp_path}/bad is refused: not an ONNX model" in errors


def test_a_port_in_use_is_reported(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("--models", tmp_path, "--port", port)
    assert result.returncode == 1
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--port", "99999"], {}, "--port is '99999'"),
        (["--max-rows", "0"], {}, "--max-rows is '0'"),
        ([], {"LIPSERVE_THREADS": "two"}, "LIPSERVE_THREADS is 'two'"),
        (["--nope"], {}, "No such option"),
        (
            [],
            {"LIPSERVE_MAX_ROW": "7"},
            "Unknown setting 'LIPSERVE_MAX_ROW' (did you mean 'LIPSERVE_MAX_ROWS'?)",
        ),
        (
            [],
            {"LIPSERVE_XYZZY": "7"},
            "Unknown setting 'LIPSERVE_XYZZY' (lipserve --help lists the settings)",
        ),
        (
            [],
            {"lipserve_worker": "7"},
            "Unknown setting 'LIPSERVE_WORKER' (did you mean 'LIPSERVE_WORKERS'?)",
        ),
        (["keys", "list"], {"LIPSERVE_STAT": "x"}, "did you mean 'LIPSERVE_STATE'?"),
        (
            ["--models", "/nothere"],
            {},
            "--models: the folder /nothere does not exist; make it or name another",
        ),
        (["--models", "/nothere", "--workers", "2"], {}, "the folder /nothere does not exist"),
        (["--models", "/etc/passwd", "--uploads"], {}, "the folder /etc/passwd does not exist"),
        (["--models", "/tmp", "--data", "/nothere"], {}, "--data: the folder /nothere does not exist"),
        (["--models", "/tmp", "--host", "no.such.host.invalid"], {}, "cannot listen on no.such.host.invalid"),
    ],
)
def test_bad_use_is_reported(arguments, environment, told):
    result = command(*arguments, **environment)
    assert result.exit_code in (1, 2)
    assert told in result.stderr


def test_variables_of_kubernetes_and_empty_ones_are_no_settings(tmp_path):
    variables = {
        "LIPSERVE_SERVICE_HOST": "10.96.0.7",
        "LIPSERVE_SERVICE_PORT": "80",
        "LIPSERVE_SERVICE_PORT_HTTP": "80",
        "LIPSERVE_PORT": "tcp://10.96.0.7:80",
        "LIPSERVE_PORT_80_TCP": "tcp://10.96.0.7:80",
        "LIPSERVE_PORT_80_TCP_PROTO": "tcp",
        "LIPSERVE_PORT_80_TCP_PORT": "80",
        "LIPSERVE_PORT_80_TCP_ADDR": "10.96.0.7",
        "LIPSERVE_CANARY_PORT": "tcp://10.96.0.8:80",
        "LIPSERVE_STATE": "",
        "LIPSERVE_MAX_ROWS": "",
    }
    found = json.loads(configured(tmp_path, "max_rows = 3", **variables).stdout)
    assert (found["port"], found["state"], found["max_rows"]) == (8000, None, 3)
    assert json.loads(configured(tmp_path, "port = 7", **variables).stdout)["port"] == 7
    assert json.loads(configured(tmp_path, "port = 7", LIPSERVE_PORT="8").stdout)["port"] == 8


def test_answers_do_not_wait_for_acknowledgements():
    with listen("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname()):
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def configured(tmp_path, text, *arguments, **environment):
    """The settings that come of a file, flags and environment, as the command reads them."""
    file = tmp_path / "lipserve.toml"
    file.write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.cli.main.serve", lambda settings: print(settings.model_dump_json()))
        return command("--config", file, "--models", tmp_path, *arguments, **environment)


def test_a_file_sets_and_environment_and_flags_win(tmp_path):
    text = 'max_rows = 1\nmax_queued = 1\nkept_jobs = 1\naccess_log = true\nlog_format = "json"\njob_seconds = 1.5\n'
    run = configured(tmp_path, text, "--max-rows", "3", LIPSERVE_MAX_ROWS="2", LIPSERVE_MAX_QUEUED="2")
    found = json.loads(run.stdout)
    assert (found["max_rows"], found["max_queued"], found["kept_jobs"]) == (3, 2, 1)
    assert (found["access_log"], found["log_format"], found["job_seconds"]) == (True, "json", 1.5)
    assert json.loads(configured(tmp_path, "").stdout)["access_log"] is False
    assert json.loads(configured(tmp_path, "", "--access-log").stdout)["access_log"] is True
    assert json.loads(configured(tmp_path, "", LIPSERVE_ACCESS_LOG="yes").stdout)["access_log"] is True


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_rows = 0", "max_rows in {file} is '0'"),
        ("max_rows = true", "max_rows in {file} is 'True'"),
        ("max_rows = 1.5", "max_rows in {file} is '1.5'"),
        ("max_rows = [1]", "max_rows in {file} is not a string, number or boolean"),
        ("access_log = 7", "access_log in {file} is '7'"),
        ("max-rows = 1", "Unknown setting 'max-rows' in {file} (did you mean 'max_rows'?)"),
        ("[serve]\nport = 1", "Unknown setting 'serve' in {file}"),
        ("max_rows = ", "cannot read the settings file {file}: Invalid value"),
        ("\x00", "cannot read the settings file {file}"),
    ],
)
def test_a_bad_file_is_reported(tmp_path, text, told):
    run = configured(tmp_path, text)
    assert run.exit_code == 2
    assert told.format(file=tmp_path / "lipserve.toml") in run.stderr


def test_a_missing_file_is_reported(tmp_path):
    run = configured(tmp_path, "", "--config", str(tmp_path / "nope.toml"))
    assert run.exit_code == 2
    assert "nope.toml: No such file or directory" in run.stderr


def test_help_is_the_table_of_settings():
    text = " ".join(command("--help").stdout.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert f"LIPSERVE_{name.upper()}" in text
        assert field.description in text


def test_the_documented_table_is_that_of_the_settings():
    text = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    shown = [line for line in text.partition("## Settings")[2].splitlines() if line.startswith("| `--")]
    assert shown == [
        f"| `--{name.replace('_', '-')}` | {'' if field.default is None else f'`{field.default}`'} "
        f"| {field.description} |"
        for name, field in Settings.model_fields.items()
    ]


LOOKS = "gc.get_stats()[2]['collections']"
LEAN = f"""
import gc, sys
from service.startup import lean_imports
before = {LOOKS}
with lean_imports():
    from service.app import create_app
    from service.settings import Settings
    from fastapi.openapi.models import OpenAPI
assert {LOOKS} == before and gc.isenabled() and gc.get_freeze_count() > 100_000
app = create_app(Settings(models=sys.argv[1]))
assert app.state.service.registry.defaults
assert not OpenAPI.__pydantic_complete__
print(*(name for name, module in sys.modules.items() if module))
"""


def test_the_serving_process_loads_nothing_heavy(models):
    approve(Settings(models=models))
    program = [sys.executable, "-c", LEAN, models]
    loaded = set(subprocess.check_output(program, text=True, timeout=60).split())
    assert "onnxruntime" in loaded
    heavy = {
        "torch",
        "sklearn",
        "scipy",
        "matplotlib",
        "jinja2",
        "pandas",
        "numpy.random",
        "onnx.reference",
        "pydantic.v1",
        "lipmodel.audit.gradient",
        "lipmodel.data.load",
        "lipmodel.training",
    }
    assert not loaded & heavy


def test_lean_imports_give_the_same_document_and_an_empty_folder_is_served(tmp_path, client):
    with lipserve("--models", tmp_path, "--port", 0) as process:
        ready = process.stdout.readline()
        described = httpx.get(ready.split("ready at ")[1].split()[0] + "/openapi.json").json()
    assert "(no models yet; see http" in ready
    assert described == client.get("/openapi.json").json()


def test_numpy_takes_one_thread_unless_set():
    script = "import os, sys, service; print(os.environ['OPENBLAS_NUM_THREADS'], 'numpy' in sys.modules)"
    for given, expected in [({}, "1"), ({"OPENBLAS_NUM_THREADS": "2"}, "2")]:
        environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"} | given
        result = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert result.stdout.split() == [expected, "False"]  # it is set before numpy reads it


def modes(*paths):
    return {path.name: oct(path.stat().st_mode & 0o777) for path in paths}


def test_the_state_is_its_owners_alone(tmp_path):
    state = tmp_path / "new" / "state"
    (tmp_path / "models").mkdir()
    arguments = ("--models", tmp_path / "models", "--state", state, "--port", 0)
    mask = os.umask(0)
    try:
        with lipserve(*arguments, "--workers", 2) as process:
            url_of(process)
            folders = [state, state / "work", state / "workers" / "1", state / "workers" / "1" / "work"]
            files = [state / name for name in ("lock", "jobs.sqlite", "jobs.sqlite-wal", "jobs.sqlite-shm")]
            assert set(modes(*folders).values()) == {"0o700"}
            assert set(modes(*files).values()) == {"0o600"}
            process.terminate()
            assert "accessible to other users" not in process.communicate(timeout=30)[1]
    finally:
        os.umask(mask)
    other = tmp_path / "keys"
    assert command("--state", other, "keys", "create", "--name", "a", "--scope", "predict").exit_code == 0
    assert modes(other, other / "jobs.sqlite") == {"keys": "0o700", "jobs.sqlite": "0o600"}


def test_a_state_that_is_open_to_others_is_closed_and_the_log_says_so(tmp_path, caplog):
    state = tmp_path / "state"
    command("--state", state, "keys", "list")
    assert caplog.text == ""
    state.chmod(0o2755)
    (state / "jobs.sqlite").chmod(0o644)
    (state / "jobs.sqlite-wal").touch(0o644)
    command("--state", state, "keys", "list")
    told = caplog.text
    caplog.clear()
    assert f"{state} was accessible to other users (mode 2755)" in told
    assert f"{state}/jobs.sqlite was accessible to other users (mode 644)" in told
    assert f"{state}/jobs.sqlite-wal was accessible to other users (mode 644)" in told
    assert modes(state, state / "jobs.sqlite") == {"state": "0o700", "jobs.sqlite": "0o600"}
    command("--state", state, "keys", "list")
    assert caplog.text == ""


def test_a_folder_that_users_share_is_not_closed_to_them(tmp_path):
    tmp_path.chmod(0o1777)
    told = run("--state", tmp_path, "keys", "list").stderr
    assert (
        f"{tmp_path} is accessible to other users (mode 1777), which cannot be changed: it is a folder shared by users"
        in told
    )
    assert modes(tmp_path / "jobs.sqlite") == {"jobs.sqlite": "0o600"}
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777
