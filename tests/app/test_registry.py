"""The schema registry's adapter against an HTTP server of our own that answers as told."""

import base64
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from app.adapters import registry
from app.adapters.registry import SchemaRegistry
from app.config import Settings, load_settings
from app.errors import ConfigError, RegistryUnavailable

TEXT = '{"type": "string"}'
NOT_FOUND = (404, {"error_code": 40403, "message": "Schema not found"})
Answer = tuple[int, Any]


class Server(ThreadingHTTPServer):
    """Answers by path; keeps what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.authorization: str | None = None
        self.silent = threading.Event()

    @property
    def settings(self) -> Settings:
        """Settings that name this server."""
        return load_settings(schema_registry_url=f"http://127.0.0.1:{self.server_address[1]}")


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer, or keep silent."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        self.server.authorization = self.headers["Authorization"]
        if self.server.silent.is_set():
            self.connection.shutdown(socket.SHUT_RD)
            self.close_connection = True
            return
        status, content = self.server.answers.get(f"{self.command} {path}", NOT_FOUND)
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 -- http.server's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A registry that knows nothing yet."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def client(server: Server) -> Iterator[SchemaRegistry]:
    """The adapter on that server."""
    adapter = SchemaRegistry(server.settings)
    yield adapter
    adapter.close()


async def test_resolve_gives_texts_and_unknowns(server: Server, client: SchemaRegistry) -> None:
    """Known ids give their text, ids that the registry does not know None; both are kept."""
    server.answers["GET /schemas/ids/7"] = (200, {"schema": TEXT})
    for _ in range(2):
        assert await client.resolve([7, 8]) == {7: TEXT, 8: None}
    assert server.asked == ["GET /schemas/ids/7", "GET /schemas/ids/8"]


async def test_unknown_is_asked_again_later(server: Server) -> None:
    """After half a minute an id that was unknown is asked for once more."""
    now = [100.0]
    adapter = SchemaRegistry(server.settings, clock=lambda: now[0])
    assert await adapter.resolve([8]) == {8: None}
    server.answers["GET /schemas/ids/8"] = (200, {"schema": TEXT})
    now[0] += registry.UNKNOWN_S - 1
    assert await adapter.resolve([8]) == {8: None}
    now[0] += 1
    assert await adapter.resolve([8]) == {8: TEXT}
    adapter.close()


async def test_ids_beyond_int32_are_not_asked_for(server: Server, client: SchemaRegistry) -> None:
    """An id that no registry gives out costs no request."""
    assert await client.resolve([-1, 2**31]) == {-1: None, 2**31: None}
    assert server.asked == []


async def test_other_kinds_of_schema_are_unknown(server: Server, client: SchemaRegistry) -> None:
    """A Protobuf or JSON schema is none that a transaction is written by."""
    server.answers["GET /schemas/ids/7"] = (200, {"schema": "x", "schemaType": "PROTOBUF"})
    assert await client.resolve([7]) == {7: None}


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"error_code": 50001, "message": "store"}),
        (503, b"<html>away</html>"),
        (404, b"<html>no such page</html>"),
        (404, {"message": "route not found"}),
        (401, {"error_code": 401, "message": "Unauthorized"}),
        (302, b""),
        (200, b"{"),
        (200, {}),
    ],
    ids=lambda answer: f"{answer[0]} {answer[1]!s:.24}",
)
async def test_whatever_is_no_answer_is_unavailable(
    server: Server, client: SchemaRegistry, answer: Answer
) -> None:
    """Only the registry's own 404 makes an id unknown; all else is a failure that may pass."""
    server.answers["GET /schemas/ids/7"] = answer
    with pytest.raises(RegistryUnavailable):
        await client.resolve([7])
    server.answers["GET /schemas/ids/7"] = (200, {"schema": TEXT})
    assert await client.resolve([7]) == {7: TEXT}


async def test_down(server: Server) -> None:
    """A refused connection is RegistryUnavailable, without the password in its message."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        settings = load_settings(
            schema_registry_url=f"http://127.0.0.1:{held.getsockname()[1]}",
            schema_registry_auth="user:hush",
        )
        adapter = SchemaRegistry(settings)
        with pytest.raises(RegistryUnavailable) as caught:
            await adapter.resolve([7])
        adapter.close()
    assert "hush" not in str(caught.value)
    assert server.asked == []


async def test_silence_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry that accepts and says nothing is RegistryUnavailable after the time-out."""
    monkeypatch.setattr(registry, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        adapter = SchemaRegistry(load_settings(schema_registry_url=address))
        with pytest.raises(RegistryUnavailable, match="Timeout"):
            await adapter.resolve([7])
        adapter.close()


async def test_a_broken_connection_is_unavailable(server: Server, client: SchemaRegistry) -> None:
    """A connection that ends without an answer is RegistryUnavailable."""
    server.silent.set()
    with pytest.raises(RegistryUnavailable):
        await client.resolve([7])


async def test_basic_auth(server: Server) -> None:
    """User and password go out as basic authentication."""
    url = server.settings.schema_registry_url
    settings = load_settings(schema_registry_url=url, schema_registry_auth="user:pass:word")
    adapter = SchemaRegistry(settings)
    await adapter.resolve([7])
    adapter.close()
    expected = base64.b64encode(b"user:pass:word").decode()
    assert server.authorization == f"Basic {expected}"


@pytest.mark.parametrize(
    ("url", "auth"),
    [("ftp://host", None), ("http://host", "no-colon"), ("http://a:b@host", "user:pass")],
)
def test_malformed_settings(url: str, auth: str | None) -> None:
    """An address or credentials that cannot work are the operator's to mend, at once."""
    with pytest.raises(ConfigError, match="RISKWIRE_SCHEMA_REGISTRY_URL"):
        SchemaRegistry(load_settings(schema_registry_url=url, schema_registry_auth=auth))


def test_register_looks_up_first(server: Server, client: SchemaRegistry) -> None:
    """A schema that is there already is not registered again, and heads values by its id."""
    server.answers["POST /subjects/scores-value"] = (
        200,
        {"subject": "scores-value", "id": 258, "version": 1, "schema": TEXT},
    )
    assert client.register("scores-value", TEXT, allowed=True) == 258
    assert client.header("scores-value", TEXT) == b"\x00\x00\x00\x01\x02"
    assert set(server.asked) == {"POST /subjects/scores-value"}


def test_register_only_if_allowed(server: Server, client: SchemaRegistry) -> None:
    """A new schema is registered if that is allowed, else the message says what to do."""
    server.answers["POST /subjects/scores-value/versions"] = (200, {"id": 3})
    with pytest.raises(ConfigError, match="riskwire topics apply"):
        client.register("scores-value", TEXT)
    assert client.register("scores-value", TEXT, allowed=True) == 3


def test_register_refused(server: Server, client: SchemaRegistry) -> None:
    """A schema that is not compatible is the operator's to mend; a failure is not."""
    path = "POST /subjects/scores-value/versions"
    server.answers[path] = (409, {"error_code": 409, "message": "incompatible"})
    with pytest.raises(ConfigError, match="incompatible"):
        client.register("scores-value", TEXT, allowed=True)
    server.answers[path] = (500, {"error_code": 50001, "message": "store"})
    with pytest.raises(RegistryUnavailable, match="store"):
        client.register("scores-value", TEXT, allowed=True)


async def test_unknown_ids_are_bounded(
    server: Server, client: SchemaRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many ids are made up, only the latest are remembered."""
    monkeypatch.setattr(registry, "UNKNOWN_IDS_MAX", 3)
    await client.resolve(range(1, 6))
    await client.resolve([5, 4, 3, 1])
    assert [each.rpartition("/")[2] for each in server.asked] == ["1", "2", "3", "4", "5", "1"]
