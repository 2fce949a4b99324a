"""What stands in for `threading`, `time` and asyncio's loop while a world runs.

The names in the worker's modules are replaced for the time of a simulation (`installed`): the code
itself is the one that runs in production. Whatever would wait lets the world's scheduler choose
who goes on; what would take a lock gives it the choice too.
"""

# ruff: noqa: ARG002, D102, FBT001, FBT002, SLF001 -- the methods of threading and asyncio

import asyncio
import concurrent.futures
import importlib
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

from app.simulation.world import Process, Task, World

EPOCH_US = 1_800_000_000_000_000
MODULES = (
    "intake",
    "ledger",
    "transactions",
    "delivery",
    "ownership",
    "worker",
    "backoff",
    "rewrite",
    "snapshots",
)
LOOP_PAUSES = 0.1


class _Now:
    world: World | None = None


def world() -> World:
    """The world that runs now."""
    assert _Now.world is not None, "nothing is installed"  # noqa: S101 -- our own order
    return _Now.world


def _us(timeout_s: float | None) -> int | None:
    return None if timeout_s is None or timeout_s < 0 else int(timeout_s * 1e6)


class _Waiters:
    """Tasks that wait for something."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    def wait(self, timeout_us: int | None) -> bool:
        its = world()
        if its.current is None:
            return False  # the world is being closed
        task = its.current
        self._tasks.append(task)
        woken = its.park(timeout_us)
        if not woken and task in self._tasks:
            self._tasks.remove(task)
        return woken

    def wake(self, count: int | None = None) -> None:
        its = world()
        for _ in range(len(self._tasks) if count is None else min(count, len(self._tasks))):
            its.wake(self._tasks.pop(0))

    def until(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until a condition holds, which whoever wakes may have made true."""
        its, timeout_us = world(), _us(timeout_s)
        end_us = None if timeout_us is None else its.now_us + timeout_us
        while not condition():
            left = None if end_us is None else end_us - its.now_us
            if its.current is None or (left is not None and left <= 0):
                return False
            self.wait(left)
        return True


class Semaphore:
    """See `threading.Semaphore`."""

    def __init__(self, value: int = 1) -> None:
        self._value, self._waiters = value, _Waiters()

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        world().maybe_pause()
        if not self._waiters.until(lambda: self._value > 0, timeout if blocking else 0):
            return False
        self._value -= 1
        return True

    def release(self) -> None:
        self._value += 1
        self._waiters.wake(1)

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Lock(Semaphore):
    """See `threading.Lock`."""


class Event:
    """See `threading.Event`."""

    def __init__(self) -> None:
        self._is_set, self._waiters = False, _Waiters()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        self._waiters.wake()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, timeout: float | None = None) -> bool:
        return self._waiters.until(self.is_set, timeout)


class Condition(Lock):
    """See `threading.Condition`; its lock is its own."""

    def __init__(self) -> None:
        super().__init__()
        self._notified = _Waiters()

    def wait(self, timeout: float | None = None) -> bool:
        self.release()
        woken = self._notified.wait(_us(timeout))
        self._waiters.until(lambda: self._value > 0, None)
        self._value -= 1
        return woken

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        its, timeout_us = world(), _us(timeout)
        end_us = None if timeout_us is None else its.now_us + timeout_us
        while not predicate():
            left_us = None if end_us is None else end_us - its.now_us
            if its.current is None or (left_us is not None and left_us <= 0):
                return False
            self.wait(None if left_us is None else left_us / 1e6)
        return True

    def notify(self, n: int = 1) -> None:
        self._notified.wake(n)

    def notify_all(self) -> None:
        self._notified.wake()


class Thread:
    """See `threading.Thread`; belongs to the process of who makes it."""

    def __init__(self, target: Callable[[], None], name: str, **_: object) -> None:
        self._target, self._name = target, name
        its = world().current
        assert its is not None, "made by a task"  # noqa: S101 -- our own order
        self._process = its.process
        self._task: Task | None = None
        self._over = _Waiters()

    @property
    def ident(self) -> int | None:
        return None if self._task is None else 1

    def start(self) -> None:
        self._task = world().spawn(self._process, self._target, self._name)
        self._task.after.append(self._over.wake)

    def is_alive(self) -> bool:
        return self._task is not None and not self._task.is_over

    def join(self, timeout: float | None = None) -> None:
        self._over.until(lambda: not self.is_alive(), timeout)


class Future(concurrent.futures.Future[Any]):
    """See `concurrent.futures.Future`; waiting for it is waiting in the world."""

    def __init__(self) -> None:
        super().__init__()
        self._over = _Waiters()
        self.add_done_callback(lambda _: self._over.wake())

    def result(self, timeout: float | None = None) -> Any:
        if not self._over.until(self.done, timeout):
            raise TimeoutError
        return super().result(0)


class Loop:
    """An event loop in a task; asyncio's own tasks, locks and queues run on it.

    It has what these ask for of `asyncio.AbstractEventLoop`, and `is_itself` is it by that name.
    """

    def __init__(self, process: Process) -> None:
        self._process, self._world = process, process.world
        self._ready: deque[asyncio.Handle] = deque()
        self._task: Task | None = None
        self.is_itself = cast("asyncio.AbstractEventLoop", self)

    def begin(self, main: Coroutine[Any, Any, None]) -> None:
        """Let the loop run until this is done."""
        self._world.coroutines.append(main)
        self._task = self._world.spawn(self._process, lambda: self._run(main), "loop")
        self._task.loop = self.is_itself

    def _run(self, main: Coroutine[Any, Any, None]) -> None:
        whole = self.create_task(main)
        while not whole.done():
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled():
                    handle._run()
                if self._world.random.random() < LOOP_PAUSES:
                    self._world.pause()
            if not whole.done():
                self._world.park()
        whole.result()

    def time(self) -> float:
        return self._world.now_us / 1e6

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self.is_itself)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> Any:
        return asyncio.Task(coro, loop=self.is_itself)

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self.is_itself, context)
        self._ready.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = self.call_soon(callback, *args, context=context)
        self._awake()
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:
        handle = asyncio.TimerHandle(when, callback, args, self.is_itself, context)
        self._world.at(max(int(when * 1e6), self._world.now_us), self._fire, handle)
        return handle

    def _fire(self, handle: asyncio.Handle) -> None:
        if not self._process.is_dead and not handle.cancelled():
            self._ready.append(handle)
            self._awake()

    def _awake(self) -> None:
        if self._task is not None:
            self._world.wake(self._task)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing: a timer that was cancelled does nothing when its time comes."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """What nobody awaited any more is of no interest, unless it is an exception."""
        error = context.get("exception")
        if isinstance(error, Exception) and not self._process.is_dead:
            self._world.note(self._process.name, "nobody heard of", repr(error))


async def _to_thread(call: Callable[..., Any], *arguments: Any) -> Any:
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def set_result(value: Any, error: BaseException | None) -> None:
        if not done.done():
            if error is None:
                done.set_result(value)
            else:
                done.set_exception(error)

    def run() -> None:
        try:
            value = call(*arguments)
        except Exception as error:  # noqa: BLE001 -- whoever awaits it has it
            loop.call_soon_threadsafe(set_result, None, error)
        else:
            loop.call_soon_threadsafe(set_result, value, None)

    its = world()
    assert its.current is not None  # noqa: S101 -- only tasks run loops
    its.spawn(its.current.process, run, getattr(call, "__name__", "thread"))
    return await done


def _run_coroutine_threadsafe(
    work: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop
) -> Future:
    future = Future()
    world().coroutines.append(work)

    def begin() -> None:
        chain: Any = asyncio.futures
        chain._chain_future(loop.create_task(work), future)

    loop.call_soon_threadsafe(begin)
    return future


class _Asyncio:
    to_thread = staticmethod(_to_thread)
    run_coroutine_threadsafe = staticmethod(_run_coroutine_threadsafe)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


class _Log:
    """A logger whose lines go into the trace."""

    def __getattr__(self, level: str) -> Callable[..., None]:
        def write(event: str, **more: Any) -> None:
            its = world()
            who = its.current.process.name if its.current else ""
            its.note(who, event, *(f"{k}={v}" for k, v in more.items()))

        return write


def _monotonic() -> float:
    return world().now_us / 1e6


def _sleep(seconds: float) -> None:
    if world().current is not None:
        world().sleep(int(seconds * 1e6))


def now_us() -> int:
    """The wall clock of the world that runs, in µs."""
    return EPOCH_US + world().now_us


def _uuid4() -> SimpleNamespace:
    return SimpleNamespace(hex=f"{world().random.getrandbits(128):032x}")


REPLACED: dict[str, Any] = {
    "asyncio": _Asyncio(),
    "log": _Log(),
    "random": SimpleNamespace(uniform=lambda a, b: a + (b - a) * world().random.random()),
    "threading": SimpleNamespace(
        Thread=Thread, Event=Event, Condition=Condition, Lock=Lock, Semaphore=Semaphore
    ),
    "time": SimpleNamespace(
        monotonic=_monotonic,
        perf_counter=_monotonic,
        sleep=_sleep,
        time_ns=lambda: 1000 * now_us(),
    ),
    "uuid": SimpleNamespace(uuid4=_uuid4),
}


@contextmanager
def installed(its: World, modules: Sequence[str] = MODULES) -> Iterator[None]:
    """Let the worker's modules run in this world."""
    before: list[tuple[Any, str, Any]] = []
    for module in (importlib.import_module(f"app.{name}") for name in modules):
        for name, value in REPLACED.items():
            if hasattr(module, name):
                before.append((module, name, getattr(module, name)))
                setattr(module, name, value)
    _Now.world = its
    try:
        yield
    finally:
        its.close()
        _Now.world = None
        for module, name, value in reversed(before):
            setattr(module, name, value)
