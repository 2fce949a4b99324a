"""A campaign: traffic, faults as the seed has them, and then the verdict.

The load and the faults wait for each other, so that faults always meet traffic, and each comes at
its place in the stream. Afterwards all is healed, the workers finish what is left and are stopped,
and what lies in Kafka and Redis is checked.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from app.adapters.topics import lag
from app.adapters.traffic import send
from app.chaos.crew import AGAIN_S, STOP_S_MAX, Crew, Member
from app.chaos.faults import Faults
from app.chaos.load import Load
from app.chaos.reader import Reader
from app.chaos.schedule import Fault, Tier, draw
from app.chaos.stage import Stage, staged
from app.chaos.verdict import LEAVE_S_MAX, TAKEOVER_S_MAX, Verdict
from app.demo.worker import environment
from app.errors import Unavailable
from verify import CannotDecide, CannotReach
from verify import Settings as Evidence
from verify import run as verify
from verify.watch import Watch, read

TICK_S = 0.02
READY_S_MAX, WAIT_S_MAX, DRAIN_S_MAX = 120.0, 90.0, 120.0
QUIET_S, SLOW_S = 1.0, 4.0
MOVED_RECORDS = 300
"""So much comes out between one fault that stops workers and the next."""
STOPPING = frozenset({"kill", "point", "zombie", "rebalance", "broker"})
AHEAD_S = 2.0
"""So far may the traffic run ahead of the next fault."""
BACKLOG_S = 15.0
"""So much of it may wait for workers: a fault is to meet traffic, not to make a mountain of it."""
MAY_END = ("StateError", "BrokerUnavailable")
"""A worker whose partitions another has claimed ends, and one whose transaction never does."""


@dataclass(slots=True)
class Takeover:
    """A worker died, and its partitions are to go on."""

    what: str
    died_s: float
    left: set[int]
    alone: bool


class Campaign:
    """Runs one campaign on a stage."""

    def __init__(
        self, tier: Tier, seed: int, stage: Stage, directory: Path, say: Callable[[str], None]
    ) -> None:
        self.tier, self.stage = tier, stage
        self.verdict = Verdict(seed, tier)
        self._began_s, self._print = time.monotonic(), say
        self.load = Load(tier, seed)
        self.crew = Crew(stage, directory, self._say)
        self.faults = Faults(stage, self.crew, self._say, self._fail)
        self.reader = Reader(stage.settings)
        quiet = {"RISKWIRE_KAFKA_OPTIONS": '{"log_level": "0"}'}
        self._environment = environment(stage.settings) | quiet
        self._seen = directory / "seen.txt"
        self._watch = Watch(Evidence.of(self._environment), self._seen)
        self._due: list[Fault] = draw(tier, seed)[::-1]
        self._next_at = self._due[-1].at
        self._waits_since_s = self._well_since_s = 0.0
        self._moved_to = 0
        self._takeovers: list[Takeover] = []
        self._stop = threading.Event()
        self._restarts: set[int] = set()

    def _say(self, text: str) -> None:
        at_s = time.monotonic() - self._began_s
        self._print(
            f"{at_s:7.1f} s {self.load.sent:>8,} sent {self.reader.counted:>8,} out  {text}"
        )

    def _fail(self, text: str) -> None:
        self.verdict.violations.append(text)
        self._say(f"VIOLATION: {text}")

    def run(self) -> Verdict:
        """Run it to its end."""
        self._watch.start()
        for number in range(self.tier.workers):
            self.crew.start(number)
        self._wait_for(self._all_read, READY_S_MAX, "the workers read all partitions")
        self._say(f"the workers read; {len(self._due)} faults are to come")
        senders = [self._send("transactions"), self._send("labels")]
        while not self._is_over(senders):
            self._turn()
            self._next_fault()
            time.sleep(TICK_S)
        self._stop.set()
        for each in senders:
            each.join()
        self._drain()
        self._check()
        self.verdict.transactions = self.load.sent
        self.verdict.provoked = self.faults.provoked
        self.verdict.seconds = time.monotonic() - self._began_s
        return self.verdict

    def _send(self, role: Literal["transactions", "labels"]) -> threading.Thread:
        load = self.load
        records = (
            load.transactions(self._may_go, self._is_at_work)
            if role == "transactions"
            else load.outcomes(self._may_go)
        )

        def run() -> None:
            try:
                send(self.stage.settings, records, role=role)
            except Exception as error:  # noqa: BLE001 -- the campaign says it
                self._fail(f"{role} could not be sent: {error!r}")

        thread = threading.Thread(target=run, name=f"riskwire-{role}", daemon=True)
        thread.start()
        return thread

    def _may_go(self) -> bool:
        if self._stop.is_set() or not self._due:
            return True
        if self.load.sent - self.reader.counted > BACKLOG_S * self.tier.rate_per_s:
            return False
        if self.faults.mines or any(takeover.alone for takeover in self._takeovers):
            return True
        return self.load.sent < self._next_at + AHEAD_S * self.tier.rate_per_s

    def _is_at_work(self) -> bool:
        """Whether faults are to come, or wait for what only traffic brings."""
        undone = self._due or self.faults.mines or self._takeovers
        return bool(undone) and not self._stop.is_set()

    def _is_over(self, senders: Sequence[threading.Thread]) -> bool:
        """Whether all is sent and every fault done, or the campaign cannot go on."""
        if not any(each.is_alive() for each in senders):
            return True
        stuck = self._waits_since_s and time.monotonic() > self._waits_since_s + WAIT_S_MAX
        if stuck:
            self._fail(f"'{self._due[-1]}' cannot be done in {WAIT_S_MAX:.0f} s: no worker works")
        if self.reader.has_ended:
            self._fail(f"the outputs could not be read: {self.reader.error!r}")
            return True
        return bool(stuck)

    # Faults.

    def _next_fault(self) -> None:
        if not self._due or self.load.sent < self._next_at:
            return
        fault = self._due[-1]
        hindered = any(t.alone for t in self._takeovers) or any(
            mine.alone for mine in self.faults.mines.values()
        )
        moves = self.reader.counted >= min(self._moved_to, self.load.sent)
        hindered |= fault.kind in STOPPING and not moves
        if not hindered and (not fault.alone or self._is_well()) and self.faults.do(fault):
            self._due.pop()
            self._waits_since_s = 0.0
            if fault.kind in STOPPING:
                self._moved_to = self.reader.counted + MOVED_RECORDS
            if self._due:
                # Those that had to wait do not come all at once.
                distance = (self._due[-1].at - fault.at) // 2
                self._next_at = max(self._due[-1].at, self.load.sent + distance)
            self.verdict.faults[fault.kind] += 1
            self._say(str(fault) + (", alone" if fault.alone else ""))
        elif not self._waits_since_s:
            self._waits_since_s = time.monotonic()

    def _is_well(self) -> bool:
        """Whether all is as it should be, and has been for a moment."""
        late = self.load.sent - self.reader.counted > self.tier.rate_per_s
        if late or not self.faults.is_quiet or self._takeovers or not self._all_read():
            self._well_since_s = time.monotonic()
        return time.monotonic() > self._well_since_s + QUIET_S

    def _all_read(self) -> bool:
        members = [self.crew.members.get(number) for number in range(self.tier.workers)]
        if any(m is None or m.has_ended or m.intent for m in members) or self._restarts:
            return False
        read = [member.partitions for member in members if member is not None]
        return all(read) and set().union(*read) == set(range(self.tier.partitions))

    # What happens meanwhile.

    def _turn(self) -> None:
        self.faults.turn()
        for number, member in list(self.crew.members.items()):
            if member.asked_s and time.monotonic() > member.asked_s + SLOW_S:
                member.show_threads()
            if member.has_ended and not member.is_counted:
                member.is_counted = True
                self._ended(number, member)
        now_s = time.time()
        for takeover in list(self._takeovers):
            takeover.left = {
                p for p in takeover.left if self.reader.made_ms[p] <= 1000 * takeover.died_s
            }
            if not takeover.left:
                self._takeovers.remove(takeover)
                took_s = now_s - takeover.died_s
                self.verdict.takeovers.append((took_s, takeover.what, takeover.alone))
                self._say(f"taken over after {took_s:.1f} s: {takeover.what}")
                if takeover.alone and took_s > TAKEOVER_S_MAX:
                    self.verdict.late.append(f"takeover took {took_s:.1f} s: {takeover.what}")

    def _ended(self, number: int, member: Member) -> None:
        mine = self.faults.went_off(member)
        partitions = member.partitions
        if mine is not None:
            self.verdict.points[mine.point.name] += 1
            what = f"worker {number} at '{mine.point.name}'"
            self._died(member, partitions, what, alone=mine.alone)
        elif member.intent in {"roll", "leave"}:
            self._left(member)
        elif member.intent:
            self._died(member, partitions, f"worker {number}", alone=member.intent == "alone")
        else:
            words = f"worker {number}, status {member.process.returncode}: {member.last_words()}"
            self.verdict.ended.append(words)
            self._say(f"ended by itself: {words}")
            if member.process.returncode and not any(why in words for why in MAY_END):
                self._fail(words)
        if member.intent == "leave" or number >= self.tier.workers:
            del self.crew.members[number]
            return
        self._restarts.add(number)
        self.faults.later(AGAIN_S, lambda: self._again(number))

    def _again(self, number: int) -> None:
        self._restarts.discard(number)
        self.crew.start(number, self.faults.lay(number))

    def _died(self, member: Member, partitions: set[int], what: str, *, alone: bool) -> None:
        text = f"{what}, partitions {sorted(partitions)}"
        self._say(f"dead: {text}")
        if partitions:
            self._takeovers.append(Takeover(text, member.ended_s, partitions, alone))

    def _left(self, member: Member) -> None:
        undisturbed = self.faults.is_quiet
        self.verdict.leaves.append((member.stop_s, undisturbed))
        status = member.process.returncode
        self._say(f"worker {member.number} left in {member.stop_s:.2f} s, status {status}")
        if undisturbed and member.stop_s > LEAVE_S_MAX:
            self.verdict.late.append(f"worker {member.number} left in {member.stop_s:.2f} s")

    # The end.

    def _drain(self) -> None:
        """Heal all, let the workers finish what there is, and stop them one after the other."""
        for way in self.stage.ways:
            way.heal()
        self._say("all is sent and healed; the workers finish")
        if not self._wait_for(self._is_drained, DRAIN_S_MAX, "the workers finish what was sent"):
            for member in self.crew.members.values():
                member.show_threads()
        for number in sorted(self.crew.members):
            member = self.crew.members[number]
            self.crew.stop(member, "leave")
            self._wait_for(
                partial(getattr, member, "has_ended"), STOP_S_MAX, f"worker {number} ends"
            )
        self._turn()

    def _is_drained(self) -> bool:
        settings = self.stage.settings
        if not (self.faults.is_quiet and self._all_read()):
            return False
        try:
            topics = (settings.topic("transactions"), settings.topic("labels"))
            return not any(sum(lag(settings, topic).values()) for topic in topics)
        except Unavailable:
            return False

    def _check(self) -> None:
        began_s = time.monotonic()
        wanted, reached = self.verdict.faults["point"], sum(self.verdict.points.values())
        if reached < wanted:
            self._fail(f"{wanted - reached} of {wanted} crash points were not reached")
        self._watch.stop()
        self.reader.stop()
        settings = self.stage.settings
        try:
            self.verdict.report = verify(
                settings.bootstrap_servers,
                settings.redis_url.get_secret_value(),
                environ=self._environment,
                drained=True,
                seen=read(self._seen),
            )
        except (CannotDecide, CannotReach) as error:
            self._fail(f"the checker cannot judge: {error}")
        self._say(f"checked in {time.monotonic() - began_s:.1f} s")

    def close(self) -> None:
        """End what still runs."""
        self._stop.set()
        self.crew.end_all()
        self._watch.stop()
        self.reader.stop()

    def _wait_for(self, met: Callable[[], bool], seconds: float, what: str) -> bool:
        """Go on meanwhile; a violation where it does not come in time."""
        until_s = time.monotonic() + seconds
        while not met():
            if time.monotonic() > until_s:
                self._fail(f"{seconds:.0f} s were not enough until {what}")
                return False
            self._turn()
            time.sleep(10 * TICK_S)
        return True


def run(
    tier: Tier, seed: int, transport: str, say: Callable[[str], None], logs: Path | None = None
) -> Verdict:
    """Run a campaign on servers of its own; `logs` is where the logs of all processes stay."""
    with tempfile.TemporaryDirectory(prefix="riskwire-chaos-") as place:
        directory = logs or Path(place)
        directory.mkdir(parents=True, exist_ok=True)
        with staged(tier, transport, directory) as stage:
            campaign = Campaign(tier, seed, stage, directory, say)
            try:
                return campaign.run()
            finally:
                campaign.close()
