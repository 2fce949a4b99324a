"""`python -m app.chaos.crash [POINT N]`: a worker that kills itself when it passes a point.

The functions that the point names are wrapped here, in this process alone, before the worker
starts; at the N-th call it says so on standard error and sends itself SIGKILL. It fails at once
where the production code has no such function any more. SIGUSR1 shows where each thread is.
"""

import faulthandler
import functools
import importlib
import inspect
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from app.chaos.points import POINTS, Place

REACHED = "crash point reached"


def found(place: Place) -> tuple[Any, str]:
    """What holds a place's function, and its name there; raises ImportError or AttributeError."""
    owner: Any = importlib.import_module(place.module)
    *classes, name = place.name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    getattr(owner, name)
    return owner, name


class Mine:
    """Kills this process at the N-th call of what it wraps."""

    def __init__(self, nth: int, end: Callable[[], None]) -> None:
        self._left, self._end = nth, end
        self.is_armed = False

    def lay(self, place: Place) -> None:
        """Wrap a place; raises AttributeError or ImportError where it is not there."""
        owner, name = found(place)
        setattr(owner, name, self._wrapped(getattr(owner, name), place))

    def _wrapped(self, function: Any, place: Place) -> Any:
        if inspect.iscoroutinefunction(function):
            return self._wrapped_coroutine(function, place)

        # No `wraps`: what C calls has no name to copy.
        def call(*arguments: Any, **named: Any) -> Any:
            if not place.after:
                self._count(place, arguments, None)
            result = function(*arguments, **named)
            if place.after:
                self._count(place, arguments, result)
            return result

        return call

    def _wrapped_coroutine(self, function: Callable[..., Awaitable[Any]], place: Place) -> Any:
        @functools.wraps(function)
        async def call(*arguments: Any, **named: Any) -> Any:
            if not place.after:
                self._count(place, arguments, None)
            result = await function(*arguments, **named)
            if place.after:
                self._count(place, arguments, result)
            return result

        return call

    def _count(self, place: Place, arguments: tuple[Any, ...], result: Any) -> None:
        if self.is_armed and place.counts(arguments, result):
            self._left -= 1
            if self._left == 0:
                self._end()


def lay(name: str, nth: int) -> None:
    """Lay a mine at a point, which is armed when the worker begins to run."""

    def end() -> None:
        os.write(2, f"{REACHED}: {name}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    mine = Mine(nth, end)
    [point] = [point for point in POINTS if point.name == name]
    for place in point.places:
        mine.lay(place)
    wiring: Any = importlib.import_module("app.wiring")
    run_app = wiring.run_app

    def armed(*arguments: Any) -> int:
        mine.is_armed = True  # not by what only warms up
        return int(run_app(*arguments))

    wiring.run_app = armed


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # what holds again when the process ends
    faulthandler.register(signal.SIGUSR1)
    if len(sys.argv) > 1:
        lay(sys.argv[1], int(sys.argv[2]))
    sys.argv = ["riskwire", "worker"]
    importlib.import_module("app.cli").main()
