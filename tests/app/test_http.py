"""The worker's HTTP server: what each path answers, and that it gives its port back."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator

import pytest

from app.adapters.http import HttpServer
from app.errors import ConfigError
from app.metrics import Metrics

Answer = tuple[int, str, bytes]


class State:
    """A readiness that a test can change."""

    def __init__(self) -> None:
        self.ready: tuple[bool, list[str]] = (False, ["no partition is assigned"])

    def __call__(self) -> tuple[bool, list[str]]:
        """Answer as the server's probe."""
        return self.ready


@pytest.fixture
def state() -> State:
    """Return the readiness that the server asks."""
    return State()


@pytest.fixture
def server(state: State) -> Iterator[HttpServer]:
    """Serve on a free port."""
    with HttpServer("127.0.0.1", 0, Metrics().registry, ready=state) as server:
        yield server


def ask(server: HttpServer, path: str, method: str = "GET") -> Answer:
    """Return status, content type and body."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=5)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def test_metrics_are_served(server: HttpServer) -> None:
    """/metrics is the text that Prometheus reads."""
    status, content_type, body = ask(server, "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert b'riskwire_records_total{outcome="scored"} 0.0' in body


def test_readiness_follows_the_probe(server: HttpServer, state: State) -> None:
    """503 with the reasons until ready, then 200."""
    status, _, body = ask(server, "/readyz")
    assert status == 503
    assert json.loads(body) == {"ok": False, "reasons": ["no partition is assigned"]}
    state.ready = (True, [])
    assert ask(server, "/readyz")[0] == 200


def test_alive_by_default(server: HttpServer) -> None:
    """/healthz answers 200 as long as the process can answer."""
    assert ask(server, "/healthz")[0] == 200


def test_head_has_no_body(server: HttpServer) -> None:
    """HEAD gives the status alone."""
    assert ask(server, "/readyz", "HEAD") == (503, "application/json", b"")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 404), ("POST", "/metrics", 501)]
)
def test_nothing_else_is_there(server: HttpServer, method: str, path: str, status: int) -> None:
    """Other paths and methods are refused."""
    assert ask(server, path, method)[0] == status


def test_a_broken_probe_is_not_ready(server: HttpServer, state: State) -> None:
    """A probe that raises answers 500 and the server goes on."""
    state.ready = None  # type: ignore[assignment]
    assert ask(server, "/readyz")[0] == 500
    state.ready = (True, [])
    assert ask(server, "/readyz")[0] == 200


def test_a_silent_caller_holds_nobody_up(server: HttpServer) -> None:
    """A connection that sends nothing does not keep others from an answer."""
    with socket.create_connection((server.host, server.port)):
        assert ask(server, "/healthz")[0] == 200


def test_a_taken_port_says_what_to_set(server: HttpServer) -> None:
    """A second server on the port is a ConfigError that names the settings."""
    with pytest.raises(ConfigError, match="RISKWIRE_HTTP_PORT"):
        HttpServer(server.host, server.port, Metrics().registry)


def test_close_gives_the_port_back() -> None:
    """After close the port is free and no thread of the server is left."""
    server = HttpServer("127.0.0.1", 0, Metrics().registry)
    server.close()
    assert "riskwire-http" not in {thread.name for thread in threading.enumerate()}
    HttpServer("127.0.0.1", server.port, Metrics().registry).close()
