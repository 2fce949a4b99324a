"""The book's prequential protocol: which days are learnt from, and which payments are judged.

Four folds of a training week, a week's delay and a test week, as in chapters 5 to 7 of the Fraud
Detection Handbook. Our models learn from the four weeks that end where the book's week ends. Days
are counted from the world's start, so 115 is 25 July of the book's 2018. Columns come in event-time
order, as `models.handbook` gives them; nothing is drawn, nothing fails on values.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int8s = NDArray[np.int8]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]

DAY_US = 86_400_000_000
WEEK_DAYS = 7
BOOK_TRAIN_DAYS = DELAY_DAYS = TEST_DAYS = WEEK_DAYS
TRAIN_DAYS = 28
VALIDATION_SHIFT_DAYS = DELAY_DAYS + TEST_DAYS
"""So far back, every label of a validation week is known when the fold's test week begins."""

BOOK_STARTS = (136, 129, 122, 115)
"""First days of the book's training weeks: 15, 8 and 1 August, 25 July 2018."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One split by days; `number` counts from 0 in the book's order, the latest first."""

    number: int
    start: int

    @property
    def book_train(self) -> range:
        """The book's training week."""
        return range(self.start, self.start + BOOK_TRAIN_DAYS)

    @property
    def train(self) -> range:
        """What our models learn from: it ends where the book's week ends."""
        return range(self.book_train.stop - TRAIN_DAYS, self.book_train.stop)

    @property
    def test(self) -> range:
        """The week that is judged."""
        first = self.book_train.stop + DELAY_DAYS
        return range(first, first + TEST_DAYS)

    @property
    def validation(self) -> "Fold":
        """The earlier fold on whose test week this one's thresholds are picked."""
        return Fold(self.number, self.start - VALIDATION_SHIFT_DAYS)


FOLDS = tuple(Fold(number, start) for number, start in enumerate(BOOK_STARTS))
DAYS_MIN = max(fold.test.stop for fold in FOLDS)
"""A world needs so many days."""


def days_of(event_time_us: Int64s, start_us: int) -> Int64s:
    """Each payment's day, int64 (n,), the world's first day being 0."""
    day: Int64s = (event_time_us - start_us) // DAY_US
    return day


def between(day: Int64s, days: range) -> slice:
    """The rows of some days; `day` is in order."""
    first, stop = np.searchsorted(day, (days.start, days.stop)).tolist()
    return slice(first, stop)


def judged_rows(day: Int64s, customer: Int32s, fraud: Int8s, fold: Fold) -> Int64s:
    """The rows that are judged, int64 (n,), in order: the test week's without known victims.

    Customers defrauded in the book's training week are known from the start of the test week on.
    Each test day adds those of the day DELAY_DAYS + 1 before it. As in the book, nobody is known
    for what happened before the training week.
    """

    def victims(days: range) -> Int32s:
        rows = between(day, days)
        found: Int32s = customer[rows][fraud[rows] == 1]
        return found

    known = victims(fold.book_train)
    kept = []
    for today in fold.test:
        newly = today - DELAY_DAYS - 1
        known = np.union1d(known, victims(range(newly, newly + 1)))
        rows = between(day, range(today, today + 1))
        kept.append(rows.start + np.flatnonzero(~np.isin(customer[rows], known)))
    return np.concatenate(kept)
