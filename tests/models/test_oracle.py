"""The oracle sees no label before its time, knows the mechanisms, and means what it says."""

import dataclasses

import numpy as np
import pytest

from models import handbook, metrics, oracle, protocol
from models.handbook import LARGE_MINOR, Payments, World, simulate
from models.protocol import DAY_US, FOLDS, days_of

WORLD = World(4, customers=400, terminals=500, days=90, radius=9.0)


@pytest.fixture(scope="module")
def payments() -> Payments:
    """A small world's payments."""
    return simulate(WORLD)[0]


def cut(payments: Payments, row: int, age_us: int) -> Payments:
    """The same payments with the labels of all that are not so old at a row turned round."""
    young = payments.event_time_us > payments.event_time_us[row] - age_us
    return dataclasses.replace(payments, fraud=np.where(young, 1 - payments.fraud, payments.fraud))


@pytest.mark.parametrize("recent_amounts", [False, True])
def test_no_label_counts_before_the_delay(payments: Payments, *, recent_amounts: bool) -> None:
    """Turning the labels of the last 7 days round changes nothing; of 8 days, it does."""
    before = oracle.scores(WORLD, payments, recent_amounts=recent_amounts)
    row = len(payments) - 50
    week = oracle.scores(WORLD, cut(payments, row, 7 * DAY_US), recent_amounts=recent_amounts)
    assert week[row] == before[row]
    longer = oracle.scores(WORLD, cut(payments, row, 40 * DAY_US), recent_amounts=recent_amounts)
    assert longer[row:].tolist() != before[row:].tolist()


def test_recent_amounts_count_only_where_they_may(payments: Payments) -> None:
    """Yesterday's amount of the customer is for the ceiling alone."""
    row = next(row for row in range(len(payments) - 100, len(payments)) if not payments.fraud[row])
    same = np.flatnonzero(payments.customer[:row] == payments.customer[row])
    changed = payments.amount_minor.copy()
    changed[same[-1]] = 21_999
    assert payments.event_time_us[row] - payments.event_time_us[same[-1]] < 7 * DAY_US
    other = dataclasses.replace(payments, amount_minor=changed)
    assert oracle.scores(WORLD, other)[row] == oracle.scores(WORLD, payments)[row]
    ceilings = [oracle.scores(WORLD, one, recent_amounts=True)[row] for one in (payments, other)]
    assert ceilings[0] != ceilings[1]


def test_a_large_amount_is_fraud(payments: Payments) -> None:
    """The first mechanism is certain."""
    large = payments.amount_minor > LARGE_MINOR
    assert large.any()
    assert (oracle.scores(WORLD, payments)[large] == 1).all()


def test_probabilities_are_what_comes(payments: Payments) -> None:
    """Of payments with a probability of p, about p are frauds."""
    world = World(5, customers=1000, terminals=2000, days=80)
    payments, _ = simulate(world)
    late = days_of(payments.event_time_us, world.start_us) >= 30
    scores, fraud = oracle.scores(world, payments)[late], payments.fraud[late]
    edges = np.array([0.02, 0.2, 0.5, 0.9, 0.99])
    bins = np.digitize(scores, edges)
    for k in np.unique(bins):
        inside = bins == k
        deviation = np.sqrt(max(scores[inside].mean(), 1e-3) / inside.sum())
        assert abs(scores[inside].mean() - fraud[inside].mean()) < 0.03 + 4 * deviation


def test_a_terminal_is_held_bad_for_its_28_days() -> None:
    """Labelled frauds of usual amounts tell on a terminal until the window has run out."""
    world = dataclasses.replace(WORLD, terminals=10_000, customers=5_000)
    days = np.array([1, 2, 3, 4, 7, 13, 26, 36])
    customer = np.arange(len(days), dtype=np.int32)
    made = Payments(
        WORLD.start_us + days * DAY_US + DAY_US // 2,
        customer,
        np.zeros(len(days), np.int32),
        np.rint(100 * handbook.profiles_of(world)[0][customer, 2]).astype(np.int64),
        (days < 30).astype(np.int8),
        np.zeros(len(days), np.int8),
    )
    scores = dict(zip(days.tolist(), oracle.scores(world, made).tolist(), strict=True))
    assert scores[7] < 0.01, "no label is a week old"
    assert scores[13] > 0.9
    assert scores[26] > 0.9
    assert scores[36] < 0.01, "drawn on day 1 at the latest"


def test_the_oracle_of_world_0_is_the_measured_one() -> None:
    """The figures of our notes: average precision .75 and card precision .312 over four folds."""
    world = World()
    payments, _ = simulate(world)
    day = days_of(payments.event_time_us, world.start_us)
    known = oracle.scores(world, payments)
    skills = []
    for fold in FOLDS:
        rows = protocol.judged_rows(day, payments.customer, payments.fraud, fold)
        columns = (day[rows], payments.customer[rows], payments.fraud[rows], known[rows])
        skills.append(metrics.skill(*columns))
    found = metrics.mean(skills)
    assert found.average_precision == pytest.approx(0.7486, abs=5e-4)
    assert found.card_precision == pytest.approx(0.312, abs=5e-4)
    assert found.auc == pytest.approx(0.879, abs=1e-3)
