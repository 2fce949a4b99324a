"""The simulator of the Fraud Detection Handbook, exact: the same payments and labels for a seed.

In: a `World`. Out: its payments in columns and the counts that identify them; `write_parquet` and
`read_parquet` keep them. Written from the published parameters of the book (Le Borgne, Siblini,
Lebichot, Bontempi, 2022, chapter 3): customers and terminals lie on a square, a customer pays at
terminals nearby, and three scenarios make frauds: amounts above 220, terminals compromised for 28
days, customers compromised for 14. The book draws from `numpy.random` and `random`; so do we,
number by number, in a compiled loop. World S shifts every seed, and S = 0 is the book's own.
Amounts are counted in cents here, which is what the book's rounding to two decimals leaves.

Extra scenarios of our own are applied last and only where asked for: `card-testing` (small payments
on a stolen card, then a large one; and, honest, the repeats of a declined payment) and `drift` (in
the last third customers spend more or less than before).

Raises ConfigError for impossible sizes, where a file cannot be written or read, and where the
`train` extra is missing. No clock; the same seed gives the same columns.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path
from typing import Any, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from app.errors import ConfigError
from models.mersenne import (
    Float64s,
    Int64s,
    below,
    new_state,
    normal,
    poisson,
    seed_numpy,
    seed_python,
    uniform,
)

Int8s = NDArray[np.int8]
Int32s = NDArray[np.int32]

DAY_S, DAY_US, SECOND_US, MINUTE_US = 86_400, 86_400_000_000, 1_000_000, 60_000_000
FILE_NAME = "transactions.parquet"
GROUP_DAYS = 7

# The book's parameters.
SIDE = 100.0
MEAN_AMOUNT, PAYMENTS_A_DAY = (5.0, 100.0), (0.0, 4.0)
NOON_S, NOON_DEVIATION_S = 43_200.0, 20_000.0
SEEDS_OF_PROFILES, SEEDS_OF_CUSTOMERS = 1_000, 100_000
LARGE_MINOR = 22_000
TERMINALS_A_DAY, TERMINAL_DAYS = 2, 28
CUSTOMERS_A_DAY, CUSTOMER_DAYS, FRAUD_FACTOR = 3, 14, 5

CARD_TESTING, DRIFT = "card-testing", "drift"
EXTRAS = (CARD_TESTING, DRIFT)
NO_FRAUD, LARGE_AMOUNT, BAD_TERMINAL, BAD_CUSTOMER, TESTED_CARD = range(5)

SEED_MAX = 2**32 - 1  # of RandomState
DAYS_MAX = 20_000  # seconds since the start are int32
CHUNK_CUSTOMERS = 1_000
CUSTOMER_DAYS_A_BURST = 2_500
PAYMENTS_A_RETRY = 500
BURST_ROOM_US = 15 * MINUTE_US


@dataclass(frozen=True, slots=True)
class World:
    """What is simulated; raises ConfigError if it cannot be."""

    seed: int = 0
    customers: int = 5000
    terminals: int = 10_000
    days: int = 183
    start: date = date(2018, 4, 1)
    radius: float = 5.0
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = {
            "customers": (self.customers, CUSTOMERS_A_DAY, 2**31 - 1),
            "terminals": (self.terminals, TERMINALS_A_DAY, 2**31 - 1),
            "days": (self.days, 1, DAYS_MAX),
        }
        for name, (value, least, most) in sizes.items():
            if not least <= value <= most:
                raise ConfigError(f"{name} must be {least} to {most:,}, not {value:,}")
        if self.seed < 0 or SEEDS_OF_CUSTOMERS * self.seed + self.customers - 1 > SEED_MAX:
            most = (SEED_MAX + 1 - self.customers) // SEEDS_OF_CUSTOMERS
            raise ConfigError(f"seed must be 0 to {most:,}, not {self.seed:,}")
        if self.start.toordinal() + self.days > date.max.toordinal():
            raise ConfigError(f"{self.days} days from {self.start} on lead beyond the year 9999")
        if not self.radius > 0:
            raise ConfigError(f"radius must be above 0, not {self.radius}")
        if unknown := [name for name in self.extra if name not in EXTRAS]:
            raise ConfigError(f"extra scenario {unknown[0]!r} is not one of: {', '.join(EXTRAS)}")

    @property
    def start_us(self) -> int:
        """The start, midnight UTC, in microseconds since 1970."""
        return (self.start - date(1970, 1, 1)).days * DAY_US


@dataclass(frozen=True, slots=True, eq=False)
class Payments:
    """n payments in event-time order, ties in customer order; a transaction's id is its place.

    `event_time_us` int64; `customer` and `terminal` int32; `amount_minor` int64, cents; `fraud`
    int8, 0 or 1; `scenario` int8, NO_FRAUD or the last scenario that marked it.
    """

    event_time_us: Int64s
    customer: Int32s
    terminal: Int32s
    amount_minor: Int64s
    fraud: Int8s
    scenario: Int8s

    def __len__(self) -> int:
        return len(self.event_time_us)

    def take(self, rows: slice | Int64s) -> Self:
        """These rows; a slice gives views."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class Counts:
    """What a simulation made; `new_frauds` and `final_scenarios` by scenario from 1 on.

    A payment that several scenarios mark is new to the first and carries the label of the last.
    """

    transactions: int
    frauds: int
    new_frauds: tuple[int, ...]
    final_scenarios: tuple[int, ...]


def simulate(world: World) -> tuple[Payments, Counts]:
    """The world's payments, and their counts: three scenarios, four with `card-testing`."""
    payments = _draw(world)
    new = list(_label(world, payments))
    if CARD_TESTING in world.extra:
        payments = _test_cards(world, payments)
        new.append(int((payments.scenario == TESTED_CARD).sum()))
    if DRIFT in world.extra:
        _drift(world, payments)
    final = np.bincount(payments.scenario, minlength=len(new) + 1)[1:]
    frauds = int(payments.fraud.sum(dtype=np.int64))
    return payments, Counts(len(payments), frauds, tuple(new), tuple(final.tolist()))


def _draw(world: World) -> Payments:
    """All payments, none marked, in order of time."""
    profiles, places = profiles_of(world)
    chunks = [
        _draw_chunk(world, first, profiles[first : first + CHUNK_CUSTOMERS], places)
        for first in range(0, world.customers, CHUNK_CUSTOMERS)
    ]
    second, customer, terminal, amount = (
        np.concatenate([chunk[column] for chunk in chunks]) for column in range(4)
    )
    del chunks
    order = np.argsort(second, kind="stable")
    event_time_us = world.start_us + second[order].astype(np.int64) * SECOND_US
    unmarked = np.zeros((2, len(order)), np.int8)
    return Payments(event_time_us, customer[order], terminal[order], amount[order], *unmarked)


def profiles_of(world: World) -> tuple[Float64s, Float64s]:
    """Customers: x, y, mean amount, payments a day, float64 (c, 4). Terminals: x, y, (t, 2)."""
    low, high = zip((0.0, SIDE), (0.0, SIDE), MEAN_AMOUNT, PAYMENTS_A_DAY, strict=True)
    seed = SEEDS_OF_PROFILES * world.seed
    customers = _numpy(seed).uniform(low, high, (world.customers, 4))
    return customers, _numpy(seed + 1).uniform(0.0, SIDE, (world.terminals, 2))


def _numpy(seed: int) -> np.random.RandomState:
    return np.random.RandomState(seed)


def _draw_chunk(
    world: World, first: int, profiles: Float64s, places: Float64s
) -> tuple[Int32s, Int32s, Int32s, Int64s]:
    """Second since the start, customer, terminal and cents of some customers' payments."""
    seed = SEEDS_OF_CUSTOMERS * world.seed + first
    counts = np.empty(len(profiles), np.int64)
    room = round(1.02 * world.days * float(profiles[:, 3].sum()))
    while True:
        second, terminal = np.empty((2, room), np.int32)
        amount = np.empty(room, np.int64)
        n = _pay(seed, profiles, places, world.radius, world.days, counts, second, terminal, amount)
        if n <= room:
            break
        room = n
    customer = np.repeat(np.arange(first, first + len(profiles), dtype=np.int32), counts)
    return second[:n], customer, terminal[:n], amount[:n]


@njit(nogil=True, cache=True)
def _pay(
    seed: int,
    profiles: Float64s,
    places: Float64s,
    radius: float,
    days: int,
    counts: Int64s,
    second: Int32s,
    terminal: Int32s,
    amount: Int64s,
) -> int:
    """Draw each customer's payments as the book does; fill `counts` and the columns.

    Returns how many payments there are; what has no room in the columns is counted only. Numba's
    cache on disk knows the date of this file only: after a change to `mersenne`, touch this one.
    """
    numpy_state, python_state, spare = new_state(), new_state(), np.empty(1)
    near = np.empty(len(places), np.int32)
    n = 0
    for i in range(len(profiles)):
        x, y, mean, per_day = profiles[i]
        counts[i] = -n
        near_n = _near(x, y, places, radius, near)
        seed_numpy(numpy_state, seed + i)
        seed_python(python_state, seed + i)
        spare[0] = np.nan
        # Nobody sees the draws of a customer without terminals.
        for day in range(days if near_n else 0):
            for _ in range(poisson(numpy_state, per_day)):
                at = int(normal(numpy_state, spare, NOON_S, NOON_DEVIATION_S))
                if not 0 < at < DAY_S:
                    continue
                value = normal(numpy_state, spare, mean, mean / 2)
                if value < 0:
                    value = uniform(numpy_state, 0.0, 2 * mean)
                place = near[below(python_state, near_n)]
                if n < len(second):
                    second[n] = day * DAY_S + at
                    terminal[n] = place
                    amount[n] = int(np.rint(value * 100))
                n += 1
        counts[i] += n
    return n


@njit(nogil=True, cache=True)
def _near(x: float, y: float, places: Float64s, radius: float, near: Int32s) -> int:
    """Write the terminals closer than `radius`, in their order; how many."""
    n = 0
    for j in range(len(places)):
        dx, dy = x - places[j, 0], y - places[j, 1]
        if np.sqrt(dx * dx + dy * dy) < radius:
            near[n] = j
            n += 1
    return n


def _label(world: World, payments: Payments) -> Iterator[int]:
    """Mark and change the payments by the book's scenarios; give how many each marks first."""
    if not len(payments):
        yield from (0, 0, 0)
        return
    yield _mark(payments, np.flatnonzero(payments.amount_minor > LARGE_MINOR), LARGE_AMOUNT)
    last_day = int(payments.event_time_us[-1] - world.start_us) // DAY_US
    ends = world.start_us + np.arange(last_day + CUSTOMER_DAYS + 1) * DAY_US
    first_row = np.searchsorted(payments.event_time_us, ends)
    # As in the book, the last day with a payment brings no new terminals and customers.
    seeds = [SEEDS_OF_PROFILES * world.seed + day for day in range(last_day)]
    yield _bad_terminals(payments, first_row, seeds, world.terminals)
    yield _bad_customers(payments, first_row, seeds, world.customers)


def _mark(payments: Payments, rows: Int64s, scenario: int) -> int:
    """Mark these rows as frauds of a scenario; how many were none before."""
    new = len(rows) - int(payments.fraud[rows].sum(dtype=np.int64))
    payments.fraud[rows] = 1
    payments.scenario[rows] = scenario
    return new


def _bad_terminals(payments: Payments, first_row: Int64s, seeds: list[int], terminals: int) -> int:
    """Every day two terminals turn bad: what is paid there in the 28 days from then on is fraud."""
    since = np.full(terminals, -TERMINAL_DAYS)
    new = 0
    for day in range(len(seeds) + 1):
        if day < len(seeds):
            since[_numpy(seeds[day]).choice(terminals, TERMINALS_A_DAY, replace=False)] = day
        first, end = first_row[day : day + 2]
        bad = since[payments.terminal[first:end]] > day - TERMINAL_DAYS
        new += _mark(payments, first + np.flatnonzero(bad), BAD_TERMINAL)
    return new


def _bad_customers(payments: Payments, first_row: Int64s, seeds: list[int], customers: int) -> int:
    """Every day three cards are stolen: a third of their next 14 days is fraud, five times as much.

    A payment may be drawn again on a later day and then costs 25 times as much, and so on.
    """
    new = 0
    for day, seed in enumerate(seeds):
        stolen = _numpy(seed).choice(customers, CUSTOMERS_A_DAY, replace=False)
        first, end = first_row[day], first_row[day + CUSTOMER_DAYS]
        rows = first + np.flatnonzero(np.isin(payments.customer[first:end], stolen))
        drawn = random.Random(seed)  # noqa: S311 -- the book's generator
        rows = rows[np.array(drawn.sample(range(len(rows)), len(rows) // 3), np.int64)]
        payments.amount_minor[rows] *= FRAUD_FACTOR
        new += _mark(payments, rows, BAD_CUSTOMER)
    return new


def _test_cards(world: World, payments: Payments) -> Payments:
    """Add thieves' small payments that end in a large one, and repeats of honest payments.

    A burst follows some payment, on the same card, at a terminal of the thief's. The repeats have
    the card, terminal and amount of the payment that they follow.
    """
    rng = np.random.default_rng([world.seed, TESTED_CARD])
    end_us = world.start_us + world.days * DAY_US - BURST_ROOM_US
    early = int(np.searchsorted(payments.event_time_us, end_us))
    if not early:
        return payments
    bursts = 1 + world.customers * world.days // CUSTOMER_DAYS_A_BURST
    stolen = rng.integers(0, early, bursts)
    small = rng.integers(3, 8, bursts)
    tests = _repeat(rng, payments, stolen, small + 1)
    tests.terminal[:] = np.repeat(rng.integers(0, world.terminals, bursts), small + 1)
    tests.amount_minor[:] = rng.integers(50, 300, len(tests))
    tests.amount_minor[np.cumsum(small + 1) - 1] = rng.integers(15_000, 50_000, bursts)
    tests.fraud[:], tests.scenario[:] = 1, TESTED_CARD

    declined = rng.integers(0, early, len(payments) // PAYMENTS_A_RETRY)
    declined = declined[payments.fraud[declined] == 0]
    retries = _repeat(rng, payments, declined, rng.integers(1, 4, len(declined)))
    parts = (payments, tests, retries)
    columns = [np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Payments)]
    together = Payments(*columns)
    return together.take(np.lexsort((together.customer, together.event_time_us)))


def _repeat(rng: np.random.Generator, payments: Payments, rows: Int64s, times: Int64s) -> Payments:
    """Each of `rows` so many times again, 10 to 90 seconds after one another; a copy."""
    again = payments.take(np.repeat(rows, times))
    gap = rng.integers(10, 91, len(again))
    so_far = np.concatenate(([0], np.cumsum(gap)))
    since = so_far[1:] - np.repeat(so_far[np.cumsum(times) - times], times)
    again.event_time_us[:] += since * SECOND_US
    return again


def _drift(world: World, payments: Payments) -> None:
    """Let each customer spend half to twice as much as before from two thirds of the time on."""
    rng = np.random.default_rng([world.seed, TESTED_CARD + 1])
    factor = 2 ** rng.uniform(-1.0, 1.0, world.customers)
    turn_us = world.start_us + world.days * DAY_US * 2 // 3
    late = payments.take(slice(int(np.searchsorted(payments.event_time_us, turn_us)), None))
    late.amount_minor[:] = np.rint(late.amount_minor * factor[late.customer])


def prepare(directory: Path) -> Path:
    """Make the directory and name the file in it; ConfigError if it cannot be or pyarrow is not."""
    _arrow()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot use {directory} as a directory: {error.strerror}") from error
    return directory / FILE_NAME


def write_parquet(payments: Payments, directory: Path) -> Path:
    """Write DIRECTORY/transactions.parquet, a row group for each week; it appears when complete."""
    path, (pa, parquet) = prepare(directory), _arrow()
    schema = _schema(pa)
    part = path.with_name(path.name + ".part")
    try:
        with parquet.ParquetWriter(part, schema) as writer:
            for first, end in _weeks(payments.event_time_us):
                rows = payments.take(slice(first, end))
                columns = [
                    pa.array(np.arange(first, end)).cast(pa.string()),
                    pa.array(rows.event_time_us).cast(schema.field("event_time").type),
                    pa.array(rows.customer).cast(pa.string()),
                    pa.array(rows.terminal).cast(pa.string()),
                    pa.array(rows.amount_minor),
                    pa.array(rows.fraud != 0),
                    pa.array(rows.scenario),
                ]
                writer.write_table(pa.Table.from_arrays(columns, schema=schema))
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def read_parquet(path: Path) -> Payments:
    """Read what `write_parquet` wrote; ConfigError for a file that is anything else."""
    pa, parquet = _arrow()
    try:
        schema = _schema(pa)
        table = parquet.read_table(path, columns=schema.names).cast(schema)
        ids, customer, terminal = (
            table[f"{name}_id"].cast(pa.int32()).to_numpy()
            for name in ("transaction", "customer", "terminal")
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as simulated payments: {error}") from error
    if not np.array_equal(ids, np.arange(len(ids))):
        raise ConfigError(f"{path} is not a whole simulation: its transaction ids have gaps")
    columns = (
        table["event_time"].cast(pa.int64()).to_numpy(),
        customer,
        terminal,
        table["amount_minor"].to_numpy(),
        table["fraud"].to_numpy().astype(np.int8),
        table["scenario"].to_numpy(),
    )
    # What Arrow gives without a copy cannot be written, which a compiled loop takes as a new type.
    return Payments(*(np.require(column, requirements="W") for column in columns))


def _schema(pa: Any) -> Any:
    types = {
        "transaction_id": pa.string(),
        "event_time": pa.timestamp("us", tz="UTC"),
        "customer_id": pa.string(),
        "terminal_id": pa.string(),
        "amount_minor": pa.int64(),
        "fraud": pa.bool_(),
        "scenario": pa.int8(),
    }
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in types.items()])


def _weeks(event_time_us: Int64s) -> Iterator[tuple[int, int]]:
    """First row and end of each week that has payments, weeks from the first payment's day on."""
    if not len(event_time_us):
        return
    week = (event_time_us // DAY_US - event_time_us[0] // DAY_US) // GROUP_DAYS
    firsts = np.searchsorted(week, np.unique(week)).tolist()
    yield from zip(firsts, [*firsts[1:], len(week)], strict=True)


def _arrow() -> tuple[Any, Any]:
    """Import pyarrow and its Parquet; most of Riskwire does without."""
    try:
        import pyarrow as pa  # noqa: PLC0415 -- see above
        from pyarrow import parquet  # noqa: PLC0415 -- see above
    except ImportError as error:
        advice = "Parquet needs pyarrow: pip install 'riskwire[train]'"
        raise ConfigError(advice) from error
    return pa, parquet
