"""Shedding: when a level is entered and left, what a batch costs there, what goes out and stays."""

import itertools
from typing import Any

import numpy as np
import pytest

from app.adapters.memory import MemoryStore
from app.bench.stages import Level
from app.decide import Policy
from app.emit import Route
from app.pipeline import Parts
from app.records import RecordBatch
from app.shed import FULL, RULE, WITHOUT_TERMINAL, Shedding
from features.contract import DAY_US, FEATURES, defaults
from tests.app.builders import T0
from tests.app.test_pipeline import batch, parts, run, timeless, value

SECOND = 1_000_000
CARRYING = Route("scores", "alerts", "dead-letters", score_features=True)


def log(n: int = 200) -> RecordBatch:
    """Payments of 40 days, some late, at few terminals."""
    rng = np.random.default_rng(3)
    t = T0 - 40 * DAY_US + np.sort(rng.integers(0, 40 * DAY_US, n))
    t -= rng.integers(0, 20 * SECOND, n)
    return batch([value(i, event_time=int(t[i]), amount_minor=200 * i) for i in range(n)])


def at_level(level: int, amount_minor: int = 20_000, **changes: Any) -> Parts:
    """A pipeline that sheds at that level."""
    shedding = Level(1, amount_minor, level)
    return parts(shedding=shedding, route=CARRYING, policy=Policy(1e-6, 0.9), **changes)


def test_levels_by_age_do_not_flap() -> None:
    """Entered at once at the deadline and at twice of it, left at half of that, one at a time."""
    shedding = Shedding(after_us=SECOND)
    ages = [0.9, 1.0, 0.9, 0.51, 0.49, 0.99, 2.0, 1.5, 1.01, 0.99, 0.6, 0.4, 9.0, 0.1, 0.1, 0.1]
    levels = [0, 1, 1, 1, 0, 0, 2, 2, 2, 1, 1, 0, 2, 1, 0, 0]
    assert [shedding.at(int(age * SECOND)) for age in ages] == levels


def test_nothing_is_shed_unless_asked_for() -> None:
    """The default: however old records are, they are scored in full."""
    assert {Shedding().at(age * SECOND) for age in (0, 1, 10_000)} == {FULL}


@pytest.mark.parametrize("level", [WITHOUT_TERMINAL, RULE])
def test_the_state_does_not_depend_on_the_level(level: int) -> None:
    """What is written to Redis after a shed log is, byte for byte, what it is after a full one."""
    records = log()
    images = []
    for each in (FULL, level):
        with_ = at_level(each)
        for first in range(0, len(records), 50):
            run(records.take(np.arange(first, first + 50)), with_)
        frozen = with_.enrich.live.freeze()
        images.append([(image.after, sorted(image.pairs)) for image in frozen])
    assert images[0] == images[1]
    assert sum(len(pairs) for _, pairs in images[0]) > 7


def test_levels_alternate_without_a_trace() -> None:
    """Scores in full after shed ones have the vectors that they would have had anyway."""
    records = log()
    plain, mixed = at_level(FULL), at_level(FULL)
    for first, level in zip(range(0, 200, 25), itertools.cycle((1, 0, 2, 0)), strict=False):
        part = records.take(np.arange(first, first + 25))
        one = timeless(run(part, plain))
        mixed.shedding.level = level
        two = timeless(run(part, mixed))
        if level == FULL:
            assert one == two


def test_what_a_shed_score_and_its_alert_say() -> None:
    """The level; terminals' features (and at the last level customers') are their defaults."""
    plain = defaults()
    for level, without in ((1, {"terminal"}), (2, {"terminal", "customer"})):
        processed = run(log(), at_level(level))
        rows, _ = timeless(processed)
        scores = [row[3] for row in rows if row[0] == "scores"]
        alerts = [row[3] for row in rows if row[0] == "alerts"]
        assert {each["shed"] for each in scores + alerts} == {level} == {processed.shed}
        assert all(alert["reasons"] == [] for alert in alerts)
        known = np.array([f.entity not in without for f in FEATURES])
        matrix = np.array([score["features"] for score in scores], np.float32)
        assert (matrix[:, ~known] == plain[~known]).all()
        assert (matrix[:, known] != plain[known]).any(axis=0).sum() >= (8 if level == 1 else 1)


def test_the_rule_is_about_the_amount_alone() -> None:
    """At the last level the model is not asked; large amounts have the least score of a review."""

    class Unasked:
        """A model that must not be asked."""

        model_id, feature_contract_id, provider = "m", "c", "p"

        def score_many(self, matrix: object) -> None:  # noqa: ARG002 -- see there
            """See `Scorer.score_many`."""
            raise AssertionError("the model was asked")

    rows, _ = timeless(run(log(), at_level(RULE, scorer=Unasked())))
    scores = [row[3] for row in rows if row[0] == "scores"]
    for score in scores:
        reviewed = 200 * int(score["transaction_id"][1:]) >= 20_000
        assert score["decision"] == ("REVIEW" if reviewed else "APPROVE")
        assert score["score"] == (np.float32(1e-6) if reviewed else 0)
        assert score["provider"] == "rule"
    assert sum(row[0] == "alerts" for row in rows) == 100


def test_no_terminal_of_another_partition_is_read() -> None:
    """Below the full level only what the state needs is fetched: own customers, own shares."""
    one = batch([value(i) for i in range(20)], 1)
    for level, shares, metas in ((FULL, 6, 2), (WITHOUT_TERMINAL, 3, 1)):
        with_ = at_level(level)
        run(one, with_)
        store = with_.enrich.store
        assert isinstance(store, MemoryStore)
        assert len(store.fetches[0]) == 7 + shares + metas


def test_the_age_of_what_waits_decides() -> None:
    """Records that wait at another partition count too, records answered before do not."""
    with_ = parts(shedding=Shedding(4_000))
    records = batch([value(i) for i in range(4)], 1)
    with_.ages.polled(records, {})
    assert run(records, with_).shed == RULE  # 9 ms old by the clock of `parts`
    with_.ages.scored(records)
    with_.shedding.level = FULL
    later = batch([value(i) for i in range(4)], 1, 4)
    with_.ages.polled(later, {("transactions", 0): 8})
    assert run(later, with_).shed == FULL
