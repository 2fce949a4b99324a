"""The simulated payments: the same for a seed, in order, valid, and with fraud in them."""

import io
from itertools import pairwise

import fastavro
import numpy as np
import pytest

import schemas
from features.aggregate import DAY_US
from models.simulate import (
    CATEGORIES,
    COMPROMISED,
    COUNTRIES,
    LEGIT,
    LOOKALIKE,
    STOLEN,
    Payments,
    Population,
)

START_US = 20_100 * DAY_US + 5 * DAY_US // 24
COLUMNS = Payments.__dataclass_fields__


@pytest.fixture(scope="module")
def population() -> Population:
    """A small population."""
    return Population(3, customers=400, terminals=600)


def same(a: Payments, b: Payments) -> bool:
    """Whether two simulations are equal in every column."""
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COLUMNS)


def test_a_seed_decides_everything(population: Population) -> None:
    """Two populations of a seed do the same; another seed does something else."""
    twin, other = Population(3, 400, 600), Population(4, 400, 600)
    stop_us = START_US + 3 * DAY_US
    assert same(population.history(START_US, stop_us), twin.history(START_US, stop_us))
    assert same(population.stream(START_US, 500, 100.0), twin.stream(START_US, 500, 100.0))
    assert not same(population.stream(START_US, 500, 100.0), other.stream(START_US, 500, 100.0))


def test_history_lies_between_its_instants_and_in_order(population: Population) -> None:
    """Event times ascend within the asked span, which needs not be whole days."""
    stop_us = START_US + 2 * DAY_US + DAY_US // 3
    time_us = population.history(START_US, stop_us).event_time_us
    assert START_US <= time_us[0] < time_us[-1] < stop_us
    assert (np.diff(time_us) >= 0).all()


def test_traffic_is_natural(population: Population) -> None:
    """A month has its payments on every day alike, and fewer by night than by day."""
    payments = population.history(START_US, START_US + 28 * DAY_US)
    per_day = np.bincount((payments.event_time_us - START_US) // DAY_US)
    assert per_day.min() > 0.8 * per_day.mean()
    hour = payments.event_time_us // (DAY_US // 24) % 24
    assert 0.02 < np.mean(hour < 6) < 0.15


def test_a_stream_keeps_its_rate(population: Population) -> None:
    """A stream has exactly the asked number of payments, evenly spaced from its start."""
    stream = population.stream(START_US, 1000, 250.0)
    assert len(stream) == 1000
    assert stream.event_time_us[0] == START_US
    assert set(np.diff(stream.event_time_us).tolist()) == {4000}
    assert len(population.stream(START_US, 0, 1.0)) == 0


def test_customers_stay_themselves_in_a_stream(population: Population) -> None:
    """A stream's usual amounts are those of the history: profiles of one serve the other."""
    history = population.history(START_US - 28 * DAY_US, START_US)
    stream = population.stream(START_US, 20_000, 1.0)
    means = [
        np.bincount(p.customer[legit], np.log(p.amount_minor[legit]), 400)
        / np.maximum(np.bincount(p.customer[legit], minlength=400), 1)
        for p in (history, stream)
        for legit in [p.scenario == LEGIT]
    ]
    active = (means[0] > 0) & (means[1] > 0)
    assert np.corrcoef(means[0][active], means[1][active])[0, 1] > 0.8


def test_fraud_is_rare_and_of_every_kind() -> None:
    """About half a per cent of the payments are frauds, and no kind is missing."""
    payments = Population(0).history(START_US, START_US + 20 * DAY_US)
    share = np.bincount(payments.scenario, minlength=4) / len(payments)
    assert 0.003 < payments.fraud.mean() < 0.012
    assert all(share[kind] > 1e-4 for kind in (STOLEN, COMPROMISED, LOOKALIKE))


def test_stolen_cards_come_in_bursts(population: Population) -> None:
    """The frauds of a few hours fall on few customers, as with a stolen card."""
    stream = population.stream(START_US, 60_000, 10.0)
    stolen = stream.customer[stream.scenario == STOLEN]
    assert len(stolen) > 5 * len(np.unique(stolen))


def test_records_follow_the_schema(population: Population) -> None:
    """Every record can be written by the Transaction schema and read back as it was."""
    parsed = schemas.load("transaction").parsed
    records = list(population.records(population.stream(START_US, 300, 50.0), "x"))
    assert len({record["transaction_id"] for record in records}) == 300
    for record in records:
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, parsed, record, strict=True)
        buffer.seek(0)
        back = fastavro.schemaless_reader(buffer, parsed, None)
        assert isinstance(back, dict)
        assert {**back, "event_time": record["event_time"]} == record
    assert all(50 <= int(str(record["amount_minor"])) <= 10**12 for record in records)


def test_history_for_the_profiles_is_the_same_payments(population: Population) -> None:
    """`as_history` keeps the rows and gives country codes that the kernel understands."""
    payments = population.stream(START_US, 200, 10.0)
    history = population.as_history(payments)
    text = [COUNTRIES[c].encode() for c in payments.country]
    assert [int(c).to_bytes(2, "big") for c in history.country] == text
    assert np.array_equal(history.fraud, payments.fraud)
    assert payments.merchant_category.max() < len(CATEGORIES)


def test_too_small_a_population_is_refused() -> None:
    """Sizes from which nothing sensible can be drawn are refused."""
    for customers, terminals in pairwise((5, 300, 100)):
        with pytest.raises(ValueError, match="at least"):
            Population(0, customers, terminals)
