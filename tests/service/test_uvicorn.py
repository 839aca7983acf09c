"""Undocumented parts of uvicorn that ``service/http/connection.py`` rests on: a release that changes one fails here."""

import ast
import inspect
from pathlib import Path

import pytest
import uvicorn
from uvicorn.protocols.http import flow_control, httptools_impl

from service.http import connection

ADVICE = f"uvicorn {uvicorn.__version__} has changed this: revise service/http/connection.py, then this test"
ROOT = Path(connection.__file__).parents[2]

SIGNATURES = {
    "HttpToolsProtocol.__init__": "self, config, server_state, app_state, _loop",
    "HttpToolsProtocol.connection_made": "self, transport",
    "HttpToolsProtocol.connection_lost": "self, exc",
    "HttpToolsProtocol.data_received": "self, data",
    "HttpToolsProtocol.on_headers_complete": "self",
    "HttpToolsProtocol.on_body": "self, body",
    "HttpToolsProtocol.on_message_complete": "self",
    "HttpToolsProtocol.on_response_complete": "self",
    "HttpToolsProtocol.send_400_response": "self, msg",
    "HttpToolsProtocol.resume_writing": "self",
    "HttpToolsProtocol._start_asgi_task": "self, cycle, app",
    "HttpToolsProtocol._unset_keepalive_if_required": "self",
    "RequestResponseCycle.run_asgi": "self, app",
    "RequestResponseCycle.send": "self, message",
}
ATTRIBUTES = {
    "HttpToolsProtocol": "client config connections cycle expect_100_continue flow headers limit_concurrency loop "
    "parser pipeline scope server_state tasks timeout_keep_alive_task transport url",
    "RequestResponseCycle": "body default_headers disconnected flow keep_alive message_event more_body on_response "
    "response_complete response_started scope transport waiting_for_100_continue",
    "FlowControl": "write_paused",
}
"""Set by the methods of these classes."""


def parts():
    return vars(httptools_impl) | {"FlowControl": flow_control.FlowControl}


def attributes(tree):
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
    ]


def check(found):
    """Raise AssertionError where a signature or an attribute differs."""
    for name, expected in SIGNATURES.items():
        kind, method = name.split(".")
        actual = ", ".join(inspect.signature(getattr(found[kind], method)).parameters)
        assert actual == expected, f"{name}({actual}), not ({expected}): {ADVICE}"
    for kind, names in ATTRIBUTES.items():
        tree = ast.parse(inspect.getsource(found[kind]))
        stored = {node.attr for node in attributes(tree) if isinstance(node.ctx, ast.Store)}
        missing = set(names.split()) - stored
        assert not missing, f"{kind} sets no {missing}: {ADVICE}"


def test_uvicorn_has_what_connections_rest_on():
    check(parts())
    assert httptools_impl.STATUS_LINE[200] == b"HTTP/1.1 200 OK\r\n", ADVICE
    assert httptools_impl.HEADER_VALUE_RE.search(b"a\r\nb"), ADVICE
    assert not httptools_impl.HEADER_VALUE_RE.search(b"a\tb"), ADVICE
    assert inspect.iscoroutinefunction(flow_control.service_unavailable), ADVICE


class ChangedCycle(httptools_impl.RequestResponseCycle):
    async def run_asgi(self, app, context):
        pass


class ChangedFlow:
    def __init__(self):
        self.paused = False


@pytest.mark.parametrize("changed", [{"RequestResponseCycle": ChangedCycle}, {"FlowControl": ChangedFlow}])
def test_the_check_can_fail(changed):
    with pytest.raises(AssertionError, match=r"revise service/http/connection\.py"):
        check(parts() | changed)


def test_no_other_module_rests_on_it():
    private = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "service").rglob("*.py")
        if "uvicorn.protocols" in path.read_text()
    }
    assert private == {"service/http/connection.py"}


@pytest.mark.parametrize(
    ("kind", "base"), [("Connection", "HttpToolsProtocol"), ("ResponseCycle", "RequestResponseCycle")]
)
def test_all_that_connections_use_is_checked(kind, base):
    """Each attribute that a class reads of itself is its own, or one that is checked above."""
    found = attributes(ast.parse(inspect.getsource(getattr(connection, kind))))
    own = {node.attr for node in found if isinstance(node.ctx, ast.Store)} | set(
        vars(getattr(connection, kind))
    )
    checked = {name.split(".")[1] for name in SIGNATURES if name.startswith(base)}
    assert {node.attr for node in found} <= own | checked | set(ATTRIBUTES[base].split())
