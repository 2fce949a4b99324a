"""The worker's own small HTTP server: /metrics, /healthz and /readyz.

It runs in threads of its own, so that a probe is answered while the event loop is busy, and on
loopback unless the settings say otherwise: it has no login. It answers GET and HEAD, reads no body,
and shows nothing but counts and states. Raises ConfigError when the address cannot be had.
"""

import json
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from app.errors import ConfigError

Probe = Callable[[], tuple[bool, list[str]]]
"""Whether all is well, and otherwise the reasons why not."""

REQUEST_TIMEOUT_S = 5.0


def well() -> tuple[bool, list[str]]:
    """A probe that has nothing to complain of."""
    return True, []


class HttpServer:
    """Serves until closed; `port` is the one that was bound."""

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        ready: Probe = well,
        alive: Probe = well,
    ) -> None:
        """Bind and begin to serve; raises ConfigError where the address is taken or unknown."""
        pages = _pages(registry, ready, alive)
        try:
            self._server = _server(host, port, pages)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({error.strerror or error});"
                " set RISKWIRE_HTTP_HOST and RISKWIRE_HTTP_PORT (0: any free port)"
            ) from None
        self.host = host
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever,
            kwargs={"poll_interval": 0.1},
            name="riskwire-http",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and give the port back."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


Page = Callable[[str], tuple[HTTPStatus, str, bytes]]


def _pages(registry: CollectorRegistry, ready: Probe, alive: Probe) -> dict[str, Page]:
    """Each path with what makes its answer from the request's Accept header."""

    def metrics(accept: str) -> tuple[HTTPStatus, str, bytes]:
        encode, content_type = choose_encoder(accept)
        return HTTPStatus.OK, content_type, encode(registry)

    def state(probe: Probe) -> Page:
        def page(_accept: str) -> tuple[HTTPStatus, str, bytes]:
            ok, reasons = probe()
            status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
            return (
                status,
                "application/json",
                json.dumps({"ok": ok, "reasons": reasons}).encode() + b"\n",
            )

        return page

    return {"/metrics": metrics, "/healthz": state(alive), "/readyz": state(ready)}


def _server(host: str, port: int, pages: dict[str, Page]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_TIMEOUT_S
        server_version = "riskwire"
        sys_version = ""

        def do_GET(self) -> None:
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self.send_error(HTTPStatus.NOT_FOUND, explain=f"there are {', '.join(pages)}")
                return
            try:
                status, content_type, body = page(self.headers.get("Accept", ""))
            except Exception:  # noqa: BLE001 -- a probe that fails is an answer: not well
                status, content_type, body = (
                    HTTPStatus.INTERNAL_SERVER_ERROR,
                    "text/plain",
                    b"the probe failed\n",
                )
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815 -- the base class looks for this name

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 -- the base class's
            """Write no access log: probes come every second."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]

        def handle_error(self, *_: object) -> None:
            """Stay silent: a caller that hung up is no error of ours."""

    return Server((host, port), Handler)
