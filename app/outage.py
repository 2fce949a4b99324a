"""Redis away, where that must not hold scores up (RISKWIRE_REDIS_AWAY=degrade).

A read that is not answered within the budget is done without, and so is every later one, at once,
until Redis answers again: entities that are in memory go on as ever, the others' features have
their defaults, and their scores say `degraded` (`app.lacking`). Somebody asks Redis now and then;
when it answers, what lacks something is claimed again, and its records make the right state
silently. Nothing is owned meanwhile that was not owned before: that needs Redis.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from app.backoff import Backoff
from app.errors import StoreUnavailable
from app.ports import StateStore

log = structlog.get_logger("riskwire.outside")
NAME = "Redis"
_AGAIN_S, _ASK_S = 0.02, 0.2


class Outage:
    """Reads within a budget; one event loop. `returned` is called when Redis is back."""

    def __init__(self, store: StateStore, backoff: Backoff, budget_s: float) -> None:
        """`backoff` knows of what is away, for readiness."""
        self._store, self._backoff, self._budget_s = store, backoff, budget_s
        self._asking: asyncio.Task[None] | None = None
        self.returned: Callable[[], None] = lambda: None

    @property
    def is_away(self) -> bool:
        """Whether Redis did not answer, and has not since."""
        return self._asking is not None and not self._asking.done()

    async def fetch(self, keys: Sequence[bytes]) -> list[bytes | None] | None:
        """See `StateStore.fetch`; None where Redis is away."""
        if self.is_away:
            return None
        end_s, why = time.monotonic() + self._budget_s, "no answer in time"
        while (left_s := end_s - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(left_s):
                    return await self._store.fetch(keys)
            except (StoreUnavailable, TimeoutError) as error:
                why = str(error) or why
                await asyncio.sleep(_AGAIN_S)
        self._begin(why)
        return None

    async def room(self, flush: Callable[[], Awaitable[None]]) -> bool:
        """Flush to make room in the state; False where Redis went away over it."""
        flushing = asyncio.ensure_future(flush())
        while not flushing.done():
            await asyncio.wait([flushing], timeout=self._budget_s)
            if self.is_away or NAME in self._backoff.away:
                flushing.cancel()
                await asyncio.gather(flushing, return_exceptions=True)
                self._begin(self._backoff.away.get(NAME, "nothing can be written"))
                return False
        flushing.result()
        return True

    def _begin(self, why: str) -> None:
        if not self.is_away:
            log.warning("Redis is away; what is not in memory has default features", error=why)
            self._backoff.away[NAME] = why
            self._asking = asyncio.create_task(self._ask())

    async def _ask(self) -> None:
        while True:
            await asyncio.sleep(_ASK_S)
            try:
                await self._store.fetch([b""])
            except StoreUnavailable as error:
                self._backoff.away[NAME] = str(error)
            else:
                break
        self._backoff.away.pop(NAME, None)
        log.info("Redis is back; what was left out is made up for")
        self.returned()

    async def close(self) -> None:
        """Ask no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
