"""A server as a child process on loopback: start, wait until it answers, stop, start again.

Kafka's JVM and Redis are run by it for the demo, the tests and the benchmarks. A server lives in a
process group of its own, so that Ctrl-C in the terminal reaches Riskwire first and the server goes
last. Raises Unavailable, with the end of the server's log, where it does not come up.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.errors import Unavailable

POLL_S = 0.02
TERM_WAIT_S = 20.0
LOG_TAIL_BYTES = 2000


def free_ports(count: int) -> list[int]:
    """Loopback TCP ports that are free now and differ from each other."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


def listens(port: int) -> bool:
    """Whether something accepts connections on that loopback port."""
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """SIGTERM leaves through every `finally`, so that no server stays behind.

    Does nothing where the program handles SIGTERM itself, or outside the main thread.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Server:
    """One child process that can be stopped and started again on the same data and port."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        ready: Callable[[], bool],
        *,
        start_timeout_s: float = 60.0,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`ready` is asked again and again, from start on, until it says yes."""
        self.name = name
        self.start_s = 0.0
        self._command = list(command)
        self._log = log
        self._ready = ready
        self._start_timeout_s = start_timeout_s
        self._environment = {**os.environ, **(environment or {})}
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; raises Unavailable while stopped."""
        if self._child is None:
            raise Unavailable(f"{self.name} is stopped")
        return self._child.pid

    def start(self) -> None:
        """Start and wait until it answers; does nothing if it runs. Raises Unavailable."""
        if self._child is not None and self._child.poll() is None:
            return
        began = time.monotonic()
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                process_group=0,
            )
        while not self._ready():
            if self._child.poll() is not None:
                self._fail(f"ended with status {self._child.returncode} instead of starting")
            if time.monotonic() - began > self._start_timeout_s:
                self._fail(f"did not answer within {self._start_timeout_s:.0f} s")
            time.sleep(POLL_S)
        self.start_s = time.monotonic() - began

    def stop(self) -> None:
        """End it politely (SIGTERM), then by force; data stays."""
        self._end(signal.SIGTERM, TERM_WAIT_S)

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would; data stays."""
        self._end(signal.SIGKILL, TERM_WAIT_S)

    def _end(self, by: signal.Signals, wait_s: float) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.send_signal(by)
        try:
            child.wait(wait_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _fail(self, what: str) -> None:
        self.kill()
        tail = self._log.read_bytes()[-LOG_TAIL_BYTES:].decode("utf-8", "replace")
        raise Unavailable(f"{self.name} {what}; the end of its log:\n{tail}")
