"""One virtual clock and one scheduler: what runs next is drawn from the seed.

A task is a greenlet that belongs to a process. It runs until it waits, by `park`, `sleep` or
`pause`; time passes only while all tasks wait. A process can be killed, so that none of its tasks
runs again, or frozen, so that none runs until it is thawed. What happens outside of processes (the
broker's own deeds, answers on their way) are callbacks at a time, which may not wait.
"""

import asyncio
import heapq
import random
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import greenlet

STEPS_MAX = 400_000
"""More than any sound run takes: beyond it somebody turns in a circle."""


class Stuck(Exception):  # noqa: N818 -- a finding, not a fault of the simulation
    """Tasks run and run, and nothing ends."""


class Process:
    """What is killed or frozen as a whole: a worker from start to end."""

    def __init__(self, world: "World", name: str) -> None:
        """Alive."""
        self.world, self.name = world, name
        self.is_dead = self.is_frozen = False
        self.cut = False
        """Whether the network between it and Kafka is cut."""
        self.silences = 0
        """How often it fell silent, so that who counts the time knows which silence it was."""
        self.doom = 0
        """If > 0: it is killed when so many of its tasks' steps have been done."""
        self.asleep: list[Task] = []
        self.watchers: list[Callable[[], None]] = []
        """They are told when it falls silent and when it is heard again."""

    @property
    def is_silent(self) -> bool:
        """Whether its heartbeats do not arrive."""
        return self.is_dead or self.is_frozen or self.cut

    def kill(self) -> None:
        """As by SIGKILL: nothing of it runs any more."""
        if not self.is_dead:
            self._change(is_dead=True)

    def freeze(self) -> None:
        """As by SIGSTOP."""
        self._change(is_frozen=True)

    def thaw(self) -> None:
        """As by SIGCONT."""
        self._change(is_frozen=False)
        self.world.ready += self.asleep
        self.asleep = []

    def cut_off(self, *, cut: bool) -> None:
        """Cut the network between it and Kafka, or mend it."""
        self._change(cut=cut)

    def _change(self, **flags: bool) -> None:
        was_silent = self.is_silent
        self.__dict__ |= flags
        self.world.note(self.name, "is", *(f"{k}={v}" for k, v in flags.items()))
        if self.is_silent != was_silent:
            self.silences += self.is_silent
            for tell in self.watchers:
                tell()


class Task:
    """A thread, or an event loop."""

    def __init__(self, process: Process, run: Callable[[], None], name: str) -> None:
        """It begins when the scheduler first picks it."""
        self.process, self.name = process, name
        self.loop: asyncio.AbstractEventLoop | None = None
        self.turn, self.waits, self.woken = 0, False, False
        self.is_over = False
        self.after: list[Callable[[], None]] = []
        self._run = run
        self.greenlet = greenlet.greenlet(self._whole, process.world.main)

    def _whole(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 -- what escapes a thread is a finding
            self.process.world.fault(f"{self.process.name}: {self.name} ended by {error!r}", error)
        self.is_over = True
        for tell in self.after:
            tell()


class World:
    """The clock, the tasks, and the record of what happened."""

    def __init__(self, seed: int) -> None:
        """Time 0, nothing runs."""
        self.seed, self.random = seed, random.Random(seed)  # noqa: S311 -- to be drawn again
        self.now_us = 0
        self.ready: list[Task] = []
        self.trace: list[tuple[Any, ...]] = []
        self.faults: list[str] = []
        self.errors: list[BaseException] = []
        self.steps = 0
        self.current: Task | None = None
        self._timers: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self._tasks: list[Task] = []
        self.coroutines: list[Coroutine[Any, Any, Any]] = []
        """They are closed in the end, also those that nobody came to begin."""
        self.main = greenlet.getcurrent()

    def note(self, who: str, what: str, *more: Any) -> None:
        """Remember what happened; the trace of a seed is always the same."""
        self.trace.append((self.now_us, who, what, *more))

    def fault(self, what: str, error: BaseException | None = None) -> None:
        """Remember that something is not as it must be."""
        self.note("FAULT", what)
        self.faults.append(what)
        if error is not None:
            self.errors.append(error)

    def chance(self, share: float) -> bool:
        """True in this share of the cases."""
        return share > 0 and self.random.random() < share

    def between(self, low: int, high: int) -> int:
        """A number of these, both included; small ones are as likely as large ones are."""
        return low + int(self.random.random() * (high - low + 1))

    def spawn(self, process: Process, run: Callable[[], None], name: str) -> Task:
        """Let a task of a process begin soon."""
        task = Task(process, run, name)
        self._tasks.append(task)
        self.ready.append(task)
        return task

    def at(self, when_us: int, call: Callable[..., None], *arguments: Any) -> None:
        """Call at a time."""
        self._count += 1
        heapq.heappush(self._timers, (when_us, self._count, call, arguments))

    def after(self, us: int, call: Callable[..., None], *arguments: Any) -> None:
        """Call in so many µs."""
        self.at(self.now_us + us, call, *arguments)

    def pause(self) -> None:
        """Let others run first, perhaps."""
        task = self._mine()
        self.ready.append(task)
        self.main.switch()

    def maybe_pause(self) -> None:
        """A point at which the scheduler may switch; nothing outside of tasks."""
        if self.current is not None and self.random.random() < 0.15:
            self.pause()

    def sleep(self, us: int) -> None:
        """Wait for so long."""
        self.park(max(us, 0))

    def park(self, timeout_us: int | None = None) -> bool:
        """Wait until `wake`, or that time is over; whether it was woken."""
        task = self._mine()
        task.turn += 1
        task.waits, task.woken = True, False
        if timeout_us is not None:
            self.after(timeout_us, self._expire, task, task.turn)
        self.main.switch()
        return task.woken

    def wake(self, task: Task) -> None:
        """Let a task that waits go on."""
        if task.waits:
            task.waits, task.woken = False, True
            self.ready.append(task)

    def _expire(self, task: Task, turn: int) -> None:
        if task.waits and task.turn == turn:
            task.waits = False
            self.ready.append(task)

    def _mine(self) -> Task:
        assert self.current is not None, "only tasks wait"  # noqa: S101 -- our own order
        return self.current

    def run(self, until: Callable[[], bool], end_us: int) -> bool:
        """Run until that holds, asked whenever time passes; False if the end comes before."""
        while not until():
            while self.ready:
                self._step()
            if not self._timers or self._timers[0][0] > end_us:
                return until()
            self.now_us, _, call, arguments = heapq.heappop(self._timers)
            call(*arguments)
        return True

    def _step(self) -> None:
        ready = self.ready
        i = int(self.random.random() * len(ready)) if len(ready) > 1 else 0
        ready[i], ready[-1] = ready[-1], ready[i]
        task = ready.pop()
        process = task.process
        if process.is_dead:
            return
        if process.is_frozen:
            process.asleep.append(task)
            return
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Stuck(f"{STEPS_MAX} steps, and {self.now_us} us are over")
        if process.doom:
            process.doom -= 1
            if not process.doom:
                process.kill()
                return
        self.current = task
        asyncio._set_running_loop(task.loop)  # noqa: SLF001 -- of this thread, by task
        task.greenlet.switch()
        asyncio._set_running_loop(None)  # noqa: SLF001
        self.current = None

    def close(self) -> None:
        """Let go of all tasks; what their code does meanwhile goes nowhere."""
        for task in self._tasks:
            if not task.greenlet.dead and task.greenlet:
                self.current = None
                try:
                    task.greenlet.throw(greenlet.GreenletExit)
                except BaseException as error:  # noqa: BLE001 -- it is over anyway
                    self.note("close", repr(error))
        for coroutine in self.coroutines:
            with suppress(RuntimeError):  # it would wait for something on its way out
                coroutine.close()
        self.coroutines.clear()
        self._tasks.clear()
        self.ready.clear()
        self._timers.clear()
