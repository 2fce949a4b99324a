"""The folds and their test sets are the book's, to the last payment."""

import numpy as np
import pytest

from models import protocol
from models.handbook import Payments, World, simulate
from models.protocol import DAY_US, FOLDS, Fold, between, days_of

CHAPTER_3 = FOLDS[-1]


@pytest.fixture(scope="module")
def payments() -> Payments:
    """The book's own world; what is drawn on the last test day reaches 14 days further."""
    return simulate(World(days=150))[0]


def test_folds_are_the_books_dates() -> None:
    """The training weeks start on 15, 8 and 1 August and 25 July 2018, two weeks before a test."""
    first = np.datetime64("2018-04-01")
    starts = [str(first + fold.book_train.start) for fold in FOLDS]
    assert starts == ["2018-08-15", "2018-08-08", "2018-08-01", "2018-07-25"]
    assert [str(first + fold.test.start) for fold in FOLDS][-1] == "2018-08-08"
    assert all(len(fold.test) == len(fold.book_train) == 7 for fold in FOLDS)


def test_ours_learn_from_four_weeks_that_end_where_the_books_week_ends() -> None:
    """No training day is nearer to the test week than the label delay."""
    for fold in FOLDS:
        assert fold.train.stop == fold.book_train.stop == fold.test.start - 7
        assert len(fold.train) == 28


def test_labels_of_a_validation_week_are_known_when_the_test_week_begins() -> None:
    """The validation fold's test week ends a label delay before the fold's own begins."""
    for fold in FOLDS:
        assert fold.validation.test.stop + 7 == fold.test.start


def test_the_split_of_chapter_3_has_the_books_counts(payments: Payments) -> None:
    """67,240 payments with 598 frauds are learnt from, 58,264 with 385 are judged."""
    day = days_of(payments.event_time_us, World().start_us)
    train = between(day, CHAPTER_3.book_train)
    assert (train.stop - train.start, payments.fraud[train].sum()) == (67_240, 598)
    rows = protocol.judged_rows(day, payments.customer, payments.fraud, CHAPTER_3)
    assert (len(rows), payments.fraud[rows].sum()) == (58_264, 385)
    assert (np.diff(rows) > 0).all()


def test_a_victim_leaves_from_the_day_its_label_is_known() -> None:
    """A fraud 8 days before a test day removes its customer from that day on, one of 7 does not.

    Frauds of the training week remove from the first day on, earlier ones never.
    """
    fold = Fold(0, 10)
    test = fold.test
    day = np.array([9, 10, 17, *(np.repeat(list(test), 4))])
    customer = np.array([0, 1, 2, *([0, 1, 2, 3] * 7)], np.int32)
    fraud = np.zeros(len(day), np.int8)
    fraud[:3] = 1
    rows = protocol.judged_rows(day, customer, fraud, fold)
    kept = {who: [int(d) for d in day[rows][customer[rows] == who]] for who in range(4)}
    assert kept == {0: list(test), 1: [], 2: [24], 3: list(test)}
    assert test.start == 24


def test_days_count_from_the_worlds_start() -> None:
    """A payment just before midnight is still of its day."""
    start_us = World().start_us
    times = start_us + np.array([0, DAY_US - 1, DAY_US])
    assert days_of(times, start_us).tolist() == [0, 0, 1]
