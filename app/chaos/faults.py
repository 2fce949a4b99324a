"""How each kind of fault is done to a running campaign, and undone.

A fault may have to wait, for a worker that works or for a server that is being hurt already: `do`
says then that it was not done. What it begins ends later by a timer of the campaign. `busy` names
what is hurt at the time.
"""

import heapq
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from app.chaos.crew import Crew, Member
from app.chaos.points import POINTS, Point
from app.chaos.schedule import Fault
from app.chaos.stage import Stage

HELD_S_MAX, JOIN_S_MAX = 60.0, 30.0
OLDER_S = 4.0
PROVOKE_S, REACH_S_MAX = 15.0, 75.0
SETTLED_S = 1.0


@dataclass(slots=True)
class Mine:
    """A crash point that a worker is to die at."""

    point: Point
    nth: int
    number: int
    alone: bool
    laid_s: float = 0.0
    read_s: float = 0.0
    provoked_s: float = 0.0


class Faults:
    """Does faults; `say` is told of each, `fail` of what must not be."""

    def __init__(
        self, stage: Stage, crew: Crew, say: Callable[[str], None], fail: Callable[[str], None]
    ) -> None:
        self._stage, self._crew, self._say, self._fail = stage, crew, say, fail
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self.busy: set[str] = set()
        self.mines: dict[int, Mine] = {}
        self.provoked = 0

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        """Do this after a while."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._numbers), work))

    def turn(self) -> None:
        """Do what is due."""
        while self._timers and self._timers[0][0] <= time.monotonic():
            heapq.heappop(self._timers)[2]()
        self._look_at_mines()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is hurt and nothing is to come."""
        return not (self._timers or self.busy or self.mines)

    def do(self, fault: Fault) -> bool:
        """Do a fault, unless it cannot be done yet."""
        how: dict[str, Callable[[Fault], bool]] = {
            "kill": self._kill,
            "point": self._point,
            "zombie": self._zombie,
            "rebalance": self._rebalance,
            "broker": self._broker,
            "network": self._network,
            "held": self._hold,
            "redis": self._redis,
            "loss": self._lose,
        }
        return how[fault.kind](fault)

    def _kill(self, fault: Fault) -> bool:
        member = self._crew.free(fault.target)
        if member is not None:
            self._crew.kill(member, "alone" if fault.alone else "kill")
        return member is not None

    def _zombie(self, fault: Fault) -> bool:
        member = self._crew.free(fault.target)
        if member is None or not self._take("zombie"):
            return False
        self._crew.freeze(member)

        def thaw() -> None:
            self._crew.thaw(member)
            self._say(f"worker {member.number} goes on after {fault.seconds:.1f} s")
            self.busy.discard("zombie")

        self.later(fault.seconds, thaw)
        return True

    def _rebalance(self, fault: Fault) -> bool:
        if fault.what == "rolling":
            member = self._crew.free(fault.target)
            if member is not None:
                self._crew.stop(member, "roll")
            return member is not None
        if not self._take("join"):
            return False
        member = self._crew.start(len(self._stage.ways) - 1)
        until_s = time.monotonic() + JOIN_S_MAX

        def look() -> None:
            if member.has_ended:
                self.busy.discard("join")
            elif member.partitions or time.monotonic() > until_s:
                self.later(fault.seconds, leave)
            else:
                self.later(0.2, look)

        def leave() -> None:
            self._crew.stop(member, "leave")
            self.busy.discard("join")

        look()
        return True

    def _broker(self, fault: Fault) -> bool:
        if not self._take("broker"):
            return False
        broker = self._stage.brokers[fault.target]
        self._aside("broker", broker.kill, fault.seconds, broker.start)
        return True

    def _redis(self, fault: Fault) -> bool:
        if not self._take("redis"):
            return False
        redis = self._stage.redis
        if fault.what == "SIGSTOP":
            pid = redis.pid
            os.kill(pid, signal.SIGSTOP)
            self._aside("redis", lambda: None, fault.seconds, partial(os.kill, pid, signal.SIGCONT))
        else:
            self._aside("redis", redis.kill, fault.seconds, redis.start)
        return True

    def _lose(self, fault: Fault) -> bool:
        if not self._take("redis"):
            return False
        stage, empty = self._stage, fault.what == "emptied"
        if fault.what == "flushed":
            stage.flush_redis()
            self.busy.discard("redis")
            return True

        def go_back() -> None:
            stage.redis.kill()
            stage.put_back(empty=empty)

        def begin() -> None:
            self._aside("redis", go_back, fault.seconds, stage.redis.start)

        if not empty:
            stage.keep_redis()
        self.later(0.0 if empty else OLDER_S, begin)
        return True

    def _aside(
        self, name: str, hurt: Callable[[], object], seconds: float, mend: Callable[[], object]
    ) -> None:
        """Hurt a server, and mend it after a while, on a thread: starting takes its time."""

        def run() -> None:
            try:
                hurt()
                time.sleep(seconds)
                mend()
                self._say(f"{name} is back")
            except Exception as error:  # noqa: BLE001 -- the campaign says it
                self._fail(f"{name} could not be mended: {error}")
            self.busy.discard(name)

        threading.Thread(target=run, daemon=True).start()

    def _network(self, fault: Fault) -> bool:
        to, _, what = fault.what.partition(" ")
        name = f"way {fault.target} to {to}"
        if not self._take(name):
            return False
        proxies = self._stage.ways[fault.target].proxies(to)
        for proxy in proxies:
            match what:
                case "cut":
                    proxy.cut()
                case "black hole":
                    proxy.black_hole()
                case "delay":
                    proxy.delay(fault.amount)
                case "throttle":
                    proxy.throttle(fault.amount)

        def heal() -> None:
            for proxy in proxies:
                proxy.heal()
            self.busy.discard(name)

        self.later(fault.seconds, heal)
        return True

    def _hold(self, fault: Fault) -> bool:
        """Hold the next EndTxn of whichever worker, and let it go when that one has gone on."""
        if self._crew.free(fault.target) is None or not self._take("held"):
            return False
        proxies = [proxy for way in self._stage.ways for proxy in way.brokers]
        until_s = time.monotonic() + HELD_S_MAX
        for proxy in proxies:
            proxy.hold_end_txn()

        def look() -> None:
            holding = [proxy for proxy in proxies if proxy.held]
            if not holding and time.monotonic() < until_s:
                self.later(0.02, look)
                return
            for proxy in proxies:
                proxy.hold_end_txn(0)
            if not holding:
                self._fail("no EndTxn came to be held")
            if "hang up" in fault.what:
                for proxy in holding:
                    proxy.hang_up()  # the sender sends it again
            self.later(fault.seconds, release)

        def release() -> None:
            count = sum(proxy.held for proxy in proxies)
            for proxy in proxies:
                proxy.release(0)
            self._say(f"{count} held EndTxn released after {fault.seconds:.1f} s")
            self.busy.discard("held")

        look()
        return True

    def _take(self, name: str) -> bool:
        if name in self.busy:
            return False
        self.busy.add(name)
        return True

    # Crash points: the worker's forerunner ends, and who follows is to die.

    def _point(self, fault: Fault) -> bool:
        member = self._crew.free(fault.target)
        if member is None or member.number in self.mines:
            return False
        [point] = [point for point in POINTS if point.name == fault.what]
        self.mines[member.number] = Mine(point, int(fault.amount), member.number, fault.alone)
        if point.begins:
            self._crew.kill(member, "provoked")
            self.provoked += 1
        else:
            self._crew.stop(member, "roll")
        return True

    def lay(self, number: int) -> tuple[str, int] | None:
        """The mine for a worker that starts now, if there is one for it."""
        mine = self.mines.get(number)
        if mine is None:
            return None
        if not mine.laid_s:
            mine.laid_s = time.monotonic()
        mine.read_s = mine.provoked_s = 0.0
        return mine.point.name, mine.nth

    def went_off(self, member: Member) -> Mine | None:
        """The mine that ended this member; None where something else did."""
        if not (member.mine and member.reached):
            return None
        return self.mines.pop(member.number, None)

    def _look_at_mines(self) -> None:
        now_s = time.monotonic()
        for number, mine in list(self.mines.items()):
            member = self._crew.members[number]
            if not mine.laid_s or not member.mine or member.has_ended:
                continue
            if now_s > mine.laid_s + REACH_S_MAX:
                self._fail(f"crash point '{mine.point.name}' was never reached")
                del self.mines[number]
                self._crew.kill(member, "gave up")
                continue
            mine.read_s = mine.read_s or (now_s if member.partitions else 0.0)
            settled = mine.read_s and now_s > mine.read_s + SETTLED_S
            if mine.point.leaves and settled and not member.asked_s:
                member.asked_s = now_s
                member.send(signal.SIGTERM)
            due = now_s > max(member.started_s, mine.provoked_s) + PROVOKE_S
            if mine.point.begins and due and (other := self._crew.free(number + 1)) is not None:
                # What it got was given up well: now it gets what was not.
                mine.provoked_s = now_s
                self._say(f"worker {other.number} is killed, so that '{mine.point.name}' is passed")
                self._crew.kill(other, "provoked")
                self.provoked += 1
