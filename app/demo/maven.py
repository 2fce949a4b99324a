"""Jars from Maven Central, fetched or built once, safe against two processes that do so at once.

Raises ConfigError where Maven is missing or fails.
"""

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from app.errors import ConfigError

TIMEOUT_S = 600


def once(place: Path, what: str, lay: Callable[[Path], object], goals: Sequence[str]) -> Path:
    """`place`, after Maven has put `what` there by these goals of the project that `lay` lays."""
    if (place / ".complete").exists():
        return place
    maven = shutil.which("mvn")
    if maven is None:
        raise ConfigError(f"Maven is missing, needed once for {what} (Debian: maven)")
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / ".complete").exists():
            with tempfile.TemporaryDirectory() as project:
                lay(Path(project))
                _run([maven, "-q", "-B", *goals], project, what)
            (place / ".complete").touch()
    return place


def _run(command: list[str], project: str, what: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=project, capture_output=True, check=False, text=True, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"Maven did not fetch {what} in {TIMEOUT_S} s") from None
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[:5])
        raise ConfigError(f"Maven could not fetch {what}:\n{said}")
