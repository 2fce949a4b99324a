"""The worker as a child process, as the command line starts it: for demo, replay and tests.

Takes settings, all of which become its environment, so that no other source is asked for them.
Raises Unavailable with the end of its log where it does not start or does not stop.
"""

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from pydantic import SecretStr

from app.config import PREFIX, Settings
from app.demo.process import LOG_TAIL_BYTES, Server
from app.errors import Unavailable

START_TIMEOUT_S = 180.0
STOP_S_MAX = 5.0
METRICS_S = 10.0


class WorkerProcess(Server):
    """A worker as the command line starts it; ready when it says so itself."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        """Prepare it; `start` raises Unavailable with the end of its log."""
        self._url = f"http://{settings.http_host}:{settings.http_port}"
        super().__init__(
            "the worker",
            # -P: a directory named `app` where the demo is started is not ours.
            [sys.executable, "-P", "-m", "app.cli", "worker"],
            directory / "worker.log",
            lambda: _says_ready(f"{self._url}/readyz"),
            start_timeout_s=START_TIMEOUT_S,
            environment=environment(settings),
        )

    def finish(self, wait_s: float = STOP_S_MAX) -> int:
        """Send SIGTERM and return its exit status; raises Unavailable if it takes too long."""
        child = self._child
        if child is None:
            raise Unavailable("the worker is not running")
        child.send_signal(signal.SIGTERM)
        try:
            return child.wait(wait_s)
        except subprocess.TimeoutExpired:
            self._fail(f"did not stop within {wait_s:.0f} s")
            raise

    def metrics(self) -> str:
        """Return its page of metrics; raises Unavailable."""
        try:
            with urllib.request.urlopen(  # noqa: S310 -- our own, on loopback
                f"{self._url}/metrics", timeout=METRICS_S
            ) as answer:
                return bytes(answer.read()).decode()
        except OSError as error:
            raise Unavailable(f"the worker does not answer: {error}\n{self.log_end()}") from None

    def log_end(self) -> str:
        """Return the last of what it logged."""
        return self._log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")


def environment(settings: Settings) -> dict[str, str]:
    """Return the settings as variables, every one, so that no other source is asked for them."""
    shown = {name: _as_variable(getattr(settings, name)) for name in Settings.model_fields}
    return {PREFIX + name.upper(): value for name, value in shown.items() if value is not None}


def _as_variable(value: object) -> str | None:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Mapping):
        return json.dumps(value)
    return None if value is None else str(value)


def _says_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:  # noqa: S310 -- our own, on loopback
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False
