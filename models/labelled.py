"""Labelled payments with their vectors, from a simulated world or a file, and their split by time.

`of_world` and `of_file` give the same columns, vectors by the kernel of the stream with the timing
that a model is shipped for. A split keeps a label delay between what is learnt from, the week on
which thresholds are picked, and the days that are tested on, so that each label was known when the
next part began. Days are counted from the first one. ConfigError for what is too short or has no
frauds.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.errors import ConfigError
from features.contract import DAY_US, LIVE, Timing
from features.offline import Log, vectors
from models import oracle, protocol
from models.finetune import Rows
from models.handbook import World, simulate
from models.protocol import DELAY_DAYS, FOLDS, TEST_DAYS, VALIDATION_SHIFT_DAYS, WEEK_DAYS, Fold

Int8s = NDArray[np.int8]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

WARM_UP_DAYS = 37
"""Until then the windows of a month, a week late, are not filled."""
HOLDOUT_DAYS = 14
HANDBOOK, FILE = "handbook", "file"
TUNING_FOLDS = 4
TUNING_STOP = FOLDS[-1].validation.test.stop
"""On this day of a world the search for parameters ends: its labels are known before any test."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """n payments in event-time order with what became of them.

    `day` int64, `customer` int32, `amount_minor` int64; `fraud` int8, -1 where it is not known;
    `matrix` float32 (n, WIDTH). `source` says where they are from. `oracle` is the probability
    that one who knows the mechanisms would give, float64 (n,), None for a file.
    """

    source: dict[str, str | int | float]
    start_us: int
    day: Int64s
    customer: Int32s
    amount_minor: Int64s
    fraud: Int8s
    matrix: Float32s
    oracle: Float64s | None

    def rows(self, days: range) -> Int64s:
        """The labelled rows of some days, int64, in order."""
        found = protocol.between(self.day, days)
        labelled: Int64s = found.start + np.flatnonzero(self.fraud[found] >= 0)
        return labelled

    def judged(self, days: range) -> Int64s:
        """The rows of a test: in a world a week's, without the victims that are known by then.

        A bank blocks a stolen card; the simulator's go on paying.
        """
        if self.oracle is None:
            return self.rows(days)
        fold = Fold(0, days.start - VALIDATION_SHIFT_DAYS)
        return protocol.judged_rows(self.day, self.customer, self.fraud, fold)

    def at(self, rows: Int64s) -> Rows:
        """Vectors and truth of some rows."""
        return self.matrix[rows], self.fraud[rows]

    def date(self, day: int) -> str:
        """A day by its date."""
        at = EPOCH + timedelta(microseconds=self.start_us + day * DAY_US)
        return at.date().isoformat()


class Split(NamedTuple):
    """Days to learn from, to pick thresholds on, and to test on."""

    train: range
    validation: range
    test: range

    def check(self, data: Labelled) -> None:
        """Raise ConfigError unless each part has frauds and others."""
        parts = {
            "learn from": data.rows(self.train),
            "pick thresholds on": data.judged(self.validation),
            "test on": data.judged(self.test),
        }
        for (name, rows), days in zip(parts.items(), self, strict=True):
            if len(np.unique(data.fraud[rows])) < 2:
                raise ConfigError(
                    f"{len(rows):,} labelled payments of days {days.start} to {days.stop} to"
                    f" {name}: frauds and others are needed. Give more data or more holdout days"
                )


def of_world(world: World, timing: Timing = LIVE) -> Labelled:
    """A simulated world; every label is known a week after its payment."""
    payments, _ = simulate(world)
    matrix = vectors(
        Log.of(
            payments.customer, payments.terminal, payments.event_time_us, payments.amount_minor,
            payments.fraud, timing=timing,
        ),
        timing,
    )  # fmt: skip
    return Labelled(
        {"data": HANDBOOK, "seed": world.seed, "customers": world.customers,
         "terminals": world.terminals, "days": world.days, "radius": world.radius},
        world.start_us,
        protocol.days_of(payments.event_time_us, world.start_us),
        payments.customer, payments.amount_minor, payments.fraud, matrix,
        oracle.scores(world, payments),
    )  # fmt: skip


def of_file(path: Path, timing: Timing = LIVE) -> Labelled:
    """A labelled history by `app.history`; features need all payments of the time, labelled or not.

    Raises ConfigError for a file that cannot be read or in which no outcome is known.
    """
    from app.history import read_history  # noqa: PLC0415 -- a file is read by few

    log = read_history(path, timing).log
    if (log.fraud < 0).all():
        raise ConfigError(f"{path}: no outcome is known; `fraud` has 1 or 0 where one is")
    start_us = int(log.event_time_us[0]) // DAY_US * DAY_US
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return Labelled(
        {"data": FILE, "file": path.name, "file_sha256": digest},
        start_us,
        protocol.days_of(log.event_time_us, start_us),
        log.customer, log.amount_minor, log.fraud, vectors(log, timing), None,
    )  # fmt: skip


def split_world(stop: int = FOLDS[0].train.stop, days: int = protocol.TRAIN_DAYS) -> Split:
    """Learn from some days up to `stop`; validate and test on weeks of which no label leaks."""
    validation = stop + DELAY_DAYS
    test = validation + VALIDATION_SHIFT_DAYS
    return Split(
        range(stop - days, stop),
        range(validation, validation + TEST_DAYS),
        range(test, test + TEST_DAYS),
    )


def split_file(data: Labelled, holdout_days: int, first: int = WARM_UP_DAYS) -> Split:
    """Hold the last days out, half for thresholds and half as test; learn until a week before them.

    Raises ConfigError where nothing is left to learn from.
    """
    end = int(data.day[-1]) + 1
    start = end - holdout_days
    middle, stop = end - holdout_days // 2, start - DELAY_DAYS
    if stop <= first:
        raise ConfigError(
            f"{end} days are too few: {first} go ahead of what is learnt from, {DELAY_DAYS} lie"
            f" between, {holdout_days} are held out"
        )
    split = Split(range(first, stop), range(start, middle), range(middle, end))
    split.check(data)
    return split


def tuning_folds(
    data: Labelled, stop: int, say: Callable[[str], None] = lambda _: None
) -> list[tuple[Float32s, Int8s, Float32s, Int8s]]:
    """Prequential folds up to `stop`: TUNING_FOLDS weeks, each with what was known a week before.

    As many as there are days for, the latest first; raises ConfigError if there is none.
    """
    folds = []
    for k in range(TUNING_FOLDS):
        fold = Fold(k, stop - (k + 1) * WEEK_DAYS - VALIDATION_SHIFT_DAYS)
        learnt = data.rows(range(max(fold.train.start, WARM_UP_DAYS), fold.train.stop))
        judged = data.judged(fold.test)
        if min(len(np.unique(data.fraud[rows])) for rows in (learnt, judged)) < 2:
            break
        say(f"learn until day {fold.train.stop}, judge days {fold.test.start} to {fold.test.stop}")
        folds.append((*data.at(learnt), *data.at(judged)))
    if not folds:
        raise ConfigError("too few days, or no frauds among them, to validate parameters on")
    return folds
