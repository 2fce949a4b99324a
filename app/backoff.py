"""Waiting for something outside that is away: with growing pauses, and a clear log line.

Nothing is dropped meanwhile; the caller's batch waits. The pauses double up to a bound and carry
jitter, so that many workers do not come back at the same instant.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from app.errors import Unavailable

log = structlog.get_logger("riskwire.outside")
_FIRST_S, _LONGEST_S = 0.05, 5.0
_LOG_EVERY_S = 10.0
_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


class Backoff:
    """Repeats calls until they are answered; knows what is away now, for readiness."""

    def __init__(self) -> None:
        """Start with everything there."""
        self.away: dict[str, str] = {}
        self.longest_s = _LONGEST_S

    async def until_available(
        self,
        name: str,
        call: Callable[[_Argument], Awaitable[_Result]],
        argument: _Argument,
    ) -> _Result:
        """Await `call(argument)`, again and again while it raises Unavailable."""
        goes, comes = f"{name} is away; waiting", f"{name} is back"
        began = logged = time.monotonic()
        pause_s = _FIRST_S
        while True:
            try:
                result = await call(argument)
            except Unavailable as error:
                if name not in self.away or time.monotonic() - logged > _LOG_EVERY_S:
                    logged = time.monotonic()
                    waited_s = round(logged - began, 1)
                    log.warning(goes, error=str(error), waited_s=waited_s)
                self.away[name] = str(error)
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 -- jitter
                pause_s = min(2 * pause_s, self.longest_s)
            else:
                if self.away.pop(name, None):
                    log.info(comes, waited_s=round(time.monotonic() - began, 1))
                return result
