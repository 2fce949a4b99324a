"""Past transactions into the online store, and a look at what lies there.

In: a history from a file or from the simulator. Out: profiles in Redis, written by the same code
and under the same keys that the worker reads. Running it again writes the same profiles again.
Raises ConfigError for a history that cannot be used, StoreUnavailable where Redis is away.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from app.adapters.redis import RedisStore
from app.config import Settings
from app.errors import ConfigError
from app.history import read_history
from features import profile
from features.aggregate import DAY_US, History, aggregate
from features.profile import LAYOUTS, Entity, Layout
from models.simulate import Population

CHUNK_PROFILES = 5_000

T = TypeVar("T")
Progressed = Callable[[int, int], None]


class Written(NamedTuple):
    """What a backfill did."""

    transactions: int
    customers: int
    terminals: int


def simulated(population: Population, days: int, as_of_us: int) -> History:
    """Return the population's payments of the days before `as_of_us`."""
    return population.as_history(population.history(as_of_us - days * DAY_US, as_of_us))


async def backfill(
    store: RedisStore,
    history: History,
    as_of_us: int,
    on_progress: Progressed = lambda _done, _total: None,
) -> Written:
    """Write the profiles as they stood at `as_of_us`; an entity without history gets none."""
    profiles = aggregate(history, as_of_us)
    pairs = [
        *_pairs("customer", history.customer_tokens, profiles.customers),
        *_pairs("terminal", history.terminal_tokens, profiles.terminals),
    ]
    for start in range(0, len(pairs), CHUNK_PROFILES):
        on_progress(start, len(pairs))
        await store.write(pairs[start : start + CHUNK_PROFILES])
    on_progress(len(pairs), len(pairs))
    known = [int((rows[:, 0] > 0).sum()) for rows in (profiles.customers, profiles.terminals)]
    return Written(len(history), *known)


def run(settings: Settings, path: Path | None, seed: int, days: int) -> None:
    """Backfill from a file, or simulated history where there is none, with a progress bar."""
    if path is None:
        as_of_us = time.time_ns() // 1000
        history = simulated(Population(seed), days, as_of_us)
    else:
        history = read_history(path)
        as_of_us = int(history.event_time_us[-1]) + 1
    began = time.monotonic()
    columns = (TextColumn("writing profiles"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("")
        written = asyncio.run(
            _with_store(
                settings,
                lambda store: backfill(
                    store,
                    history,
                    as_of_us,
                    lambda done, total: progress.update(bar, completed=done, total=total),
                ),
            )
        )
    Console().print(
        f"{written.transactions:,} transactions gave {written.customers:,} customer and"
        f" {written.terminals:,} terminal profiles in {time.monotonic() - began:.1f} s",
        highlight=False,
    )


def show(settings: Settings, entity: str, token: str, *, as_json: bool) -> int:
    """Print a profile as the worker reads it; 1 where there is none or it is damaged."""
    if entity not in LAYOUTS:
        raise ConfigError(f"{entity!r} is no entity; there are {', '.join(LAYOUTS)}")
    layout = LAYOUTS["customer" if entity == "customer" else "terminal"]
    key = profile.key(layout.entity, token.encode())
    [blob] = asyncio.run(_with_store(settings, lambda store: store.fetch([key])))
    rows, damaged = profile.decode(layout, [blob])
    state = "missing" if blob is None else "damaged" if damaged else "found"
    values = dict(zip((c.name for c in layout.columns), rows[0].tolist(), strict=True))
    if as_json:
        print(json.dumps({"key": key.decode(), "state": state, "profile": values}))  # noqa: T201
    else:
        _print_profile(layout, token, state, values)
    return 0 if state == "found" else 1


def _print_profile(layout: Layout, token: str, state: str, values: dict[str, float]) -> None:
    note = "" if state == "found" else f" ({state}: the defaults are used)"
    table = Table("column", "value", "meaning", title=f"{layout.entity} {token}{note}")
    for column in layout.columns:
        table.add_row(column.name, f"{values[column.name]:.6g}", column.doc)
    Console().print(table)


def _pairs(
    entity: Entity, tokens: Sequence[bytes], rows: np.typing.NDArray[np.float32]
) -> list[tuple[bytes, bytes]]:
    seen = np.flatnonzero(rows[:, 0] > 0)  # the first column of both layouts is `known`
    blobs = profile.encode(LAYOUTS[entity], rows[seen])
    return [(profile.key(entity, tokens[i]), b) for i, b in zip(seen.tolist(), blobs, strict=True)]


async def _with_store(settings: Settings, use: Callable[[RedisStore], Awaitable[T]]) -> T:
    store = RedisStore(settings.redis_url, settings.redis_timeout_ms)
    try:
        return await use(store)
    finally:
        await store.close()
