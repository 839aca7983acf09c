"""The ``lipserve`` command, as a process of its own."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.app import listen
from service.settings import Settings
from tests.service.conftest import COMMAND, lipserve, two_moons, url_of


def run(*arguments, **environment):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_answers_and_stops_quietly(tmp_path, number):
    (tmp_path / "two-moons.onnx").write_bytes(two_moons())
    with lipserve("--models", tmp_path, "--port", 0) as process:
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


def test_a_port_in_use_is_told(tmp_path):
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
        (["--host", "no.such.host.invalid"], {}, "cannot listen on no.such.host.invalid"),
    ],
)
def test_bad_use_is_told(arguments, environment, told):
    result = run(*arguments, **environment)
    assert result.returncode in (1, 2)
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_answers_do_not_wait_for_acknowledgements():
    with listen("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname()):
        accepted, _ = sock.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_help_is_the_table_of_settings():
    text = " ".join(run("--help").stdout.split())
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


def test_the_serving_process_loads_nothing_heavy(tmp_path):
    (tmp_path / "two-moons.onnx").write_bytes(two_moons())
    script = (
        "import sys; from service.app import create_app; from service.settings import Settings; "
        f"app = create_app(Settings(models={str(tmp_path)!r})); assert app.state.service.registry.served; "
        "print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(result.stdout.split())
    assert "onnxruntime" in loaded
    heavy = {
        "torch",
        "sklearn",
        "scipy",
        "matplotlib",
        "jinja2",
        "pandas",
        "onnx.reference",
        "lipmodel.training",
    }
    assert not loaded & heavy


def test_numpy_takes_one_thread_unless_told():
    script = "import os, service.app; print(os.environ['OPENBLAS_NUM_THREADS'])"
    for given, expected in [({}, "1"), ({"OPENBLAS_NUM_THREADS": "2"}, "2")]:
        environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_NUM_THREADS"} | given
        result = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == expected
