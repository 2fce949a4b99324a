"""The simulator: the book's counts, its procedure in plain loops, our extras and the file."""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import date
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from app.errors import ConfigError
from models import handbook
from models.handbook import (
    CARD_TESTING,
    DAY_US,
    DRIFT,
    EXTRAS,
    TESTED_CARD,
    Counts,
    Payments,
    World,
    read_parquet,
    simulate,
    write_parquet,
)

COLUMNS = tuple(field.name for field in fields(Payments))
SMALL = World(seed=3, customers=60, terminals=400, days=40)
EMPTY = World(customers=3, terminals=2, days=1, radius=1e-9)

Row = list[float]  # second, customer, terminal, amount, fraud, scenario


def same(a: Payments, b: Payments) -> bool:
    """Whether two simulations are equal in every column."""
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COLUMNS)


def legacy(seed: int) -> np.random.RandomState:
    """NumPy's generator as the book uses it."""
    return np.random.RandomState(seed)


def in_plain_loops(world: World) -> tuple[list[Row], list[int]]:
    """The payments and the new frauds of each scenario, by the modules that the book draws from."""
    rows = sorted(drawn_in_plain_loops(world), key=itemgetter(0))
    days = [int(row[0]) // 86_400 for row in rows]
    new = [0, 0, 0]

    def mark(row: Row, scenario: int) -> None:
        new[scenario - 1] += row[4] == 0
        row[4:] = 1, scenario

    for row in rows:
        if row[3] > 220:
            mark(row, 1)
    for day in range(max(days, default=0)):
        bad = legacy(1000 * world.seed + day).choice(world.terminals, size=2, replace=False)
        for row, on in zip(rows, days, strict=True):
            if row[2] in bad and day <= on < day + 28:
                mark(row, 2)
    for day in range(max(days, default=0)):
        seed = 1000 * world.seed + day
        bad = legacy(seed).choice(world.customers, size=3, replace=False)
        theirs = [i for i, on in enumerate(days) if day <= on < day + 14 and rows[i][1] in bad]
        random.seed(seed)
        for i in random.sample(theirs, int(len(theirs) / 3)):
            rows[i][3] *= 5
            mark(rows[i], 3)
    return rows, new


def drawn_in_plain_loops(world: World) -> Iterator[Row]:
    """The payments in the order of their customers."""
    uniform = legacy(1000 * world.seed).uniform
    profiles = [
        (uniform(0, 100), uniform(0, 100), uniform(5, 100), uniform(0, 4))
        for _ in range(world.customers)
    ]
    uniform = legacy(1000 * world.seed + 1).uniform
    places = np.array([(uniform(0, 100), uniform(0, 100)) for _ in range(world.terminals)])
    for customer, (x, y, mean, per_day) in enumerate(profiles):
        distance = np.sqrt(np.sum(np.square(np.array((x, y)) - places), axis=1))
        near = np.flatnonzero(distance < world.radius).tolist()
        draw = legacy(100_000 * world.seed + customer)
        random.seed(100_000 * world.seed + customer)
        for day in range(world.days):
            for _ in range(draw.poisson(per_day)):
                second = int(draw.normal(86_400 / 2, 20_000))
                if 0 < second < 86_400:
                    amount = draw.normal(mean, mean / 2)
                    if amount < 0:
                        amount = draw.uniform(0, 2 * mean)
                    if near:
                        place = random.choice(near)  # noqa: S311 -- the book's generator
                        yield [86_400 * day + second, customer, place, np.round(amount, 2), 0, 0]


def test_seed_0_is_the_set_of_the_book() -> None:
    """Transactions, frauds and scenarios as published, and the first rows."""
    payments, counts = simulate(World())
    assert counts == Counts(1_754_155, 14_681, (978, 9_099, 4_604), (973, 9_077, 4_631))
    assert len(payments) == counts.transactions
    first = payments.take(slice(0, 5))
    start_us = 1_522_540_800_000_000  # 2018-04-01
    assert ((first.event_time_us - start_us) / 1e6).tolist() == [31, 130, 476, 569, 634]
    assert (first.customer[0], first.terminal[0], first.amount_minor[0]) == (596, 3156, 5716)
    later = np.diff(payments.event_time_us)
    assert later.min() == 0
    assert (np.diff(payments.customer)[later == 0] >= 0).all()
    assert payments.event_time_us[-1] < start_us + 183 * DAY_US


@pytest.mark.parametrize(
    "world",
    [
        SMALL,
        World(seed=0, customers=40, terminals=300, days=20, start=date(2024, 2, 20)),
        World(seed=11, customers=30, terminals=50, days=45, radius=8.0),
        World(seed=42_949, customers=5, terminals=900, days=33),
        World(seed=1, customers=1_003, terminals=200, days=2),
        World(seed=2, customers=3, terminals=2, days=60, radius=70.0),
        World(seed=5, customers=20, terminals=100, days=1),
        EMPTY,
    ],
    ids=str,
)
def test_every_row_is_what_the_plain_loops_give(world: World) -> None:
    """For any seed, size and length; customers without terminals among them."""
    payments, counts = simulate(world)
    rows, new = in_plain_loops(world)
    expected = np.array(rows).reshape(-1, 6).T
    assert np.array_equal(payments.event_time_us, world.start_us + expected[0] * 1_000_000)
    assert np.array_equal(payments.customer, expected[1])
    assert np.array_equal(payments.terminal, expected[2])
    assert np.array_equal(payments.amount_minor, np.rint(expected[3] * 100))
    assert np.array_equal(payments.fraud, expected[4])
    assert np.array_equal(payments.scenario, expected[5])
    final = tuple(int((expected[5] == scenario).sum()) for scenario in (1, 2, 3))
    assert counts == Counts(len(rows), sum(new), tuple(new), final)


def test_columns_too_short_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of payments is a guess only, and the chunks of customers are no seam."""
    payments, counts = simulate(SMALL)
    monkeypatch.setattr(handbook, "round", lambda _guess: 7, raising=False)
    monkeypatch.setattr(handbook, "CHUNK_CUSTOMERS", 11)
    again, counts_again = simulate(SMALL)
    assert same(payments, again)
    assert counts == counts_again


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: World(customers=2), "customers must be 3"),
        (lambda: World(terminals=1), "terminals must be 2"),
        (lambda: World(days=0), "days must be 1"),
        (lambda: World(days=10**6), "days must be 1"),
        (lambda: World(seed=-1), "seed must be 0 to 42,949"),
        (lambda: World(seed=42_950), "seed must be 0 to 42,949"),
        (lambda: World(radius=float("nan")), "radius"),
        (lambda: World(start=date(9999, 12, 1)), "9999"),
        (lambda: World(extra=("storm",)), "storm.*card-testing, drift"),
    ],
)
def test_an_impossible_world_is_refused(make: Callable[[], World], says: str) -> None:
    """The message names the option and what it may be."""
    with pytest.raises(ConfigError, match=says):
        make()


def test_card_testing_adds_bursts_and_honest_repeats() -> None:
    """The book's payments stay as they are; the bursts are a fourth scenario."""
    plain, counts = simulate(SMALL)
    payments, with_extra = simulate(World(3, 60, 400, 40, extra=(CARD_TESTING,)))
    tested = payments.scenario == TESTED_CARD
    assert with_extra.new_frauds == (*counts.new_frauds, tested.sum())
    assert with_extra.final_scenarios == (*counts.final_scenarios, tested.sum())
    assert with_extra.frauds == counts.frauds + tested.sum()
    assert with_extra.transactions == len(payments) > counts.transactions + tested.sum()
    assert payments.fraud[tested].all()
    assert 0.1 < (payments.amount_minor[tested] >= 15_000).mean() < 0.3
    assert (np.diff(payments.event_time_us) >= 0).all()
    old = set(zip(*(getattr(plain, name).tolist() for name in COLUMNS), strict=True))
    assert old <= set(zip(*(getattr(payments, name).tolist() for name in COLUMNS), strict=True))
    repeats = len(payments) - len(plain) - int(tested.sum())
    honest = payments.take(np.flatnonzero(~tested))
    bought = {*zip(honest.customer, honest.terminal, honest.amount_minor, strict=True)}
    assert 0 < repeats <= len(honest) - len(bought)
    assert honest.fraud.sum() == plain.fraud.sum()


def test_a_burst_stays_on_one_card_and_one_terminal() -> None:
    """Small payments within minutes, and the large one last."""
    payments, _ = simulate(World(3, 60, 400, 40, extra=(CARD_TESTING,)))
    bursts = payments.take(np.flatnonzero(payments.scenario == TESTED_CARD))
    for terminal in np.unique(bursts.terminal):
        one = bursts.take(np.flatnonzero(bursts.terminal == terminal))
        large = one.amount_minor >= 15_000
        assert large[-1]
        if large.sum() == 1:
            assert 4 <= len(one) <= 8
            assert len(set(one.customer.tolist())) == 1
            assert np.ptp(one.event_time_us) <= 7 * 90 * 1_000_000


def test_drift_changes_amounts_in_the_last_third_only() -> None:
    """Each customer's amounts by one factor from half to double; no count changes."""
    plain, counts = simulate(SMALL)
    payments, with_extra = simulate(World(3, 60, 400, 40, extra=(DRIFT,)))
    assert counts == with_extra
    late = payments.event_time_us >= SMALL.start_us + 40 * DAY_US * 2 // 3
    changed = payments.amount_minor != plain.amount_minor
    assert not changed[~late].any()
    assert changed[late].mean() > 0.9
    big = late & (plain.amount_minor > 5_000)
    ratio = payments.amount_minor[big] / plain.amount_minor[big]
    assert 0.5 <= ratio.min() < 0.7
    assert 1.4 < ratio.max() <= 2.0
    for customer in np.unique(payments.customer[big]):
        assert np.ptp(ratio[payments.customer[big] == customer]) < 1e-3


def test_extras_are_a_function_of_the_seed_and_work_where_nobody_pays() -> None:
    """Twice the same, in any order of names; an empty world stays empty."""
    first, counts = simulate(World(3, 60, 400, 40, extra=EXTRAS))
    second, counts_again = simulate(World(3, 60, 400, 40, extra=EXTRAS[::-1]))
    assert same(first, second)
    assert counts == counts_again
    assert simulate(World(0, 3, 2, 1, radius=1e-9, extra=EXTRAS))[1] == Counts(
        0, 0, (0, 0, 0, 0), (0, 0, 0, 0)
    )


def test_a_file_keeps_everything(tmp_path: Path) -> None:
    """Columns and types of the contract, a row group a week, and the same payments back."""
    payments, _ = simulate(SMALL)
    path = write_parquet(payments, tmp_path / "new" / "directory")
    assert path == tmp_path / "new" / "directory" / "transactions.parquet"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    file = parquet.ParquetFile(path)
    assert [(field.name, str(field.type)) for field in file.schema_arrow] == [
        ("transaction_id", "string"),
        ("event_time", "timestamp[us, tz=UTC]"),
        ("customer_id", "string"),
        ("terminal_id", "string"),
        ("amount_minor", "int64"),
        ("fraud", "bool"),
        ("scenario", "int8"),
    ]
    assert file.metadata.num_row_groups == 6
    last = file.read().slice(len(payments) - 1).to_pylist()[0]
    assert last["transaction_id"] == str(len(payments) - 1)
    assert last["customer_id"] == str(payments.customer[-1])
    assert last["event_time"].timestamp() * 1e6 == payments.event_time_us[-1]
    back = read_parquet(path)
    assert same(payments, back)
    assert all(getattr(back, n).dtype == getattr(payments, n).dtype for n in COLUMNS)
    assert all(getattr(back, n).flags.writeable for n in COLUMNS)


def test_an_empty_simulation_is_a_file_too(tmp_path: Path) -> None:
    """No rows, all columns."""
    assert len(read_parquet(write_parquet(simulate(EMPTY)[0], tmp_path))) == 0


def test_what_cannot_be_written_or_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in place of a directory, no file, another file, a part of a file, no pyarrow."""
    payments, _ = simulate(SMALL)
    (tmp_path / "file").write_text("not Parquet")
    with pytest.raises(ConfigError, match="as a directory"):
        write_parquet(payments, tmp_path / "file")
    for name in ("none", "file"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_parquet(tmp_path / name)
    parquet.write_table(pa.table({"amount": [1]}), tmp_path / "other")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_parquet(tmp_path / "other")
    whole = parquet.read_table(write_parquet(payments, tmp_path))
    parquet.write_table(whole.slice(5), tmp_path / "some")
    with pytest.raises(ConfigError, match="gaps"):
        read_parquet(tmp_path / "some")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'riskwire\[train\]'"):
        write_parquet(payments, tmp_path)
