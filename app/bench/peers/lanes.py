"""The lanes of `riskwire bench peers`: what each is, how its program starts, and its environment.

Every peer has a program here and, unless Riskwire's own environment has all it needs, a lock in
`requirements/`, which is installed into an environment of its own in the user's cache at first use.
Raises Unavailable where that cannot be made, and ConfigError where Java or Maven lacks.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import app
import schemas
from app.bench.peers import java
from app.errors import Unavailable

HERE = Path(__file__).parent
INSTALL_TIMEOUT_S = 1800
Start = Callable[[Sequence[str]], list[str]]
"""A lane's command for these arguments; see `app.bench.lanes.lane`."""


def own(module: str, *more: str) -> Start:
    """A program that Riskwire's environment runs."""
    return lambda arguments: [sys.executable, "-P", "-m", module, *arguments, *more]


def peer(name: str, *more: str) -> Start:
    """A program of this folder in its own environment; made now if it is not there."""
    program = ("-P", "-W", "ignore", "-m", f"app.bench.peers.{name}")
    return lambda arguments: [str(environment(name)), *program, *arguments, *more]


def jvm(variant: str, *more: str) -> Start:
    """A program of `java/`; built now if it is not there."""
    return lambda arguments: java.command(variant, [*arguments, *more])


@dataclass(frozen=True, slots=True)
class Lane:
    """How a lane starts, and which share of the records it is given.

    `warm_share` of these is not metered. `everything`: it does Riskwire's work and not the
    peers', and writes RiskScores.
    """

    start: Start
    share: float
    warm_share: float = 0.1
    everything: bool = False


_RISKWIRE, _PEERS = "app.bench.lanes.riskwire", "app.bench.peers"
_PACKED, _LOOP, _FAUST = f"{_PEERS}.packed", f"{_PEERS}.loop", f"{_PEERS}.faust"
_ONCE = ("--delivery", "exactly_once")
_JIT_SHARE = 1 / 3
"""A JVM compiles that long, which does not count."""
LANES: dict[str, Lane] = {
    "riskwire_once": Lane(own(_RISKWIRE, *_ONCE), 1.0, everything=True),
    "riskwire": Lane(own(_RISKWIRE), 1.0, everything=True),
    "packed_once": Lane(own(_PACKED, *_ONCE), 1.0),
    "packed": Lane(own(_PACKED), 1.0),
    "packed_fetch": Lane(own(_PACKED, "--variant", "fetch"), 0.5),
    "loop": Lane(own(_LOOP), 0.2),
    "loop_1024": Lane(own(_LOOP, "--batch", "1024"), 0.2),
    "java_poll": Lane(jvm("poll"), 1.0, _JIT_SHARE),
    "java_poll_2048": Lane(jvm("poll", "--batch", "2048"), 1.0, _JIT_SHARE),
    "java_poll_owned": Lane(jvm("poll-owned", "--batch", "2048"), 1.0, _JIT_SHARE),
    "streams_eos": Lane(jvm("streams-eos"), 1.0, _JIT_SHARE),
    "streams_eos_safe": Lane(jvm("streams-eos-safe"), 1.0, _JIT_SHARE),
    "streams_batch": Lane(jvm("streams-batch"), 1.0, _JIT_SHARE),
    "streams_event": Lane(jvm("streams-event"), 0.05, _JIT_SHARE),
    "pathway": Lane(peer("pathway"), 0.2),
    "bytewax": Lane(peer("bytewax", "--batch", "1024"), 0.2),
    "bytewax_collect": Lane(peer("bytewax", "--variant", "collect"), 0.2),
    "quix_sink": Lane(peer("quix", "--variant", "sink", "--batch", "1024"), 0.1),
    "quix": Lane(peer("quix"), 0.02),
    "faust_direct": Lane(own(_FAUST, "--variant", "direct"), 0.05),
    "faust_take": Lane(own(_FAUST, "--variant", "take"), 0.02),
    "faust": Lane(own(_FAUST), 0.01),
}


def environment(name: str) -> Path:
    """The interpreter of a peer's environment, which is installed if its lock is another."""
    lock = HERE / "requirements" / f"{name}.txt"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = cache / "riskwire" / "peers" / name
    python, stamp = place / "bin" / "python", place / "lock.sha256"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        shutil.rmtree(place, ignore_errors=True)
        installing = ("-m", "pip", "install", "--require-hashes", "-r", str(lock))
        for command in ([sys.executable, "-m", "venv", str(place)], [str(python), *installing]):
            done = subprocess.run(
                command, capture_output=True, check=False, text=True, timeout=INSTALL_TIMEOUT_S
            )
            if done.returncode:
                raise Unavailable(f"no environment for {name}:\n{done.stderr[-2000:]}")
        stamp.write_text(digest)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place)}))
    for package in (app, schemas):  # that much of Riskwire, and nothing that it needs
        link = site / package.__name__
        link.unlink(missing_ok=True)
        link.symlink_to(package.__path__[0])
    return python
