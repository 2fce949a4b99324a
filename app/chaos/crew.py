"""The workers of a campaign, as child processes that are started again whenever they end.

A worker has a number, which is its worker id and its way to the servers; whoever runs under it at a
time is a `Member`. What partitions a member reads is taken from its log, as is why it ended, if it
did so by itself.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.chaos.crash import REACHED
from app.chaos.stage import Stage
from app.demo.worker import environment

STOP_S_MAX = 10.0
AGAIN_S = 0.3
"""An orchestrator starts a worker again after a moment."""
TAIL_BYTES, WORDS_MAX = 20_000, 300


class Member:
    """One worker process; `mine` names the crash point that it is to die at.

    `is_counted`: that it has ended is known to the campaign.
    """

    def __init__(self, number: int, command: list[str], env: dict[str, str], log: Path) -> None:
        self.number, self.log = number, log
        self.mine = self.intent = ""
        self.is_frozen = self.is_counted = False
        self.ended_s = self.asked_s = 0.0  # by time.time and time.monotonic
        self.stop_s = 0.0
        self._shown = False
        self._partitions: set[int] = set()
        self._read = 0
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, process_group=0
            )
        self.started_s = time.monotonic()
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        self.process.wait()
        now_s = time.monotonic()
        self.stop_s = now_s - self.asked_s if self.asked_s else 0.0
        self.ended_s = time.time()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self.ended_s > 0

    @property
    def partitions(self) -> set[int]:
        """What it reads now, as far as it has said."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            lines = log.readlines()
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._read += len(line)
            if b"partitions are read" in line:
                starts = json.loads(line)["starts"]
                self._partitions |= {int(at.rpartition("-")[2]) for at in starts}
            elif b"partitions given up" in line:
                self._partitions -= set(json.loads(line)["partitions"])
        return set(self._partitions)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it is gone."""
        if not self.has_ended:
            self.process.send_signal(number)

    def show_threads(self) -> None:
        """Let it write into its log where each thread is, once."""
        if not self._shown:
            self._shown = True
            self.send(signal.SIGUSR1)

    def last_words(self) -> str:
        """Why it ended, by its log."""
        text = self.log.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace")
        found = ""
        for line in text.splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if why := str(event.get("exception") or "").strip().splitlines():
                    found = f"{event['event']}: {why[-1]}"
        return (found or text)[-WORDS_MAX:]

    @property
    def reached(self) -> bool:
        """Whether it died at its crash point."""
        return REACHED.encode() in self.log.read_bytes()[-TAIL_BYTES:]


class Crew:
    """All members; `say` is told what happens to them."""

    def __init__(self, stage: Stage, directory: Path, say: Callable[[str], None]) -> None:
        self._stage, self._directory, self._say = stage, directory, say
        self.members: dict[int, Member] = {}
        self._started = 0

    def start(self, number: int, mine: tuple[str, int] | None = None) -> Member:
        """Start a worker under a number; `mine` is a crash point and the call that counts."""
        self._started += 1
        program = ["app.chaos.crash", *map(str, mine or ())]
        env = {**os.environ, **environment(self._stage.settings_of(number))}
        log = self._directory / f"worker-{number}-{self._started:03d}.log"
        member = Member(number, [sys.executable, "-P", "-m", *program], env, log)
        member.mine = mine[0] if mine else ""
        self.members[number] = member
        return member

    def kill(self, member: Member, why: str) -> None:
        """SIGKILL."""
        member.intent = why
        member.send(signal.SIGKILL)

    def stop(self, member: Member, why: str) -> None:
        """SIGTERM: it has to leave cleanly."""
        member.intent, member.asked_s = why, time.monotonic()
        member.send(signal.SIGTERM)

    def freeze(self, member: Member) -> None:
        """SIGSTOP: it does not know what happens meanwhile."""
        member.is_frozen = True
        member.send(signal.SIGSTOP)

    def thaw(self, member: Member) -> None:
        """SIGCONT."""
        member.is_frozen = False
        member.send(signal.SIGCONT)

    def free(self, wanted: int) -> Member | None:
        """The member of that number that works undisturbed, else another one that does.

        Not the one that only joins for a while.
        """
        stays = range(len(self._stage.ways) - 1)
        numbers = sorted(
            self.members.keys() & set(stays), key=lambda number: (number != wanted, number)
        )
        for number in numbers:
            member = self.members[number]
            idle = not (member.has_ended or member.intent or member.mine or member.is_frozen)
            if idle and member.partitions:
                return member
        return None

    def end_all(self) -> None:
        """Kill what is left."""
        for member in self.members.values():
            if not member.has_ended:
                member.send(signal.SIGKILL)
                member.process.wait(STOP_S_MAX)
