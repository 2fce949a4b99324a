"""The benchmark through Kafka, small: online and offline are the same, bit for bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from app.demo.cluster import Kafka
from app.errors import RiskwireError
from app.replay import compare, replay
from features.contract import REPLAY
from features.offline import vectors
from models.evaluate import Data, log_of, prepare
from models.handbook import World
from models.protocol import days_of

SMALL = World(5, customers=90, terminals=600, radius=9.0)
HOUR_US = 3_600_000_000


@pytest.fixture(scope="module")
def data() -> Data:
    """A small world with its offline vectors."""
    return prepare(SMALL)


@pytest.mark.parametrize(
    ("partitions", "workers", "seed", "kills"), [(1, 1, 1, [0.5]), (4, 2, 3, [0.3])]
)
def test_vectors_and_scores_through_kafka_are_the_offline_ones(
    data: Data,
    kafka: Kafka,
    tmp_path: Path,
    partitions: int,
    workers: int,
    seed: int,
    kills: list[float],
) -> None:
    """With restarts, a kill -9 in each week, random batch sizes and two workers that share."""
    batches = np.random.default_rng(seed).integers(1, 2049, 4).tolist()
    heard, offline = replay(
        data, "lightgbm", partitions, kafka.bootstrap, tmp_path, Console(quiet=True),
        workers=workers, batches=batches, kills=kills,
    )  # fmt: skip
    compare(data, heard, offline)
    assert not np.isnan(heard.score).any()
    heard.vector_hash[7] ^= np.uint64(1)
    with pytest.raises(RiskwireError, match="of transaction 7"):
        compare(data, heard, offline)


def test_a_log_out_of_order_through_kafka_gives_the_vectors_of_its_offline_run(
    data: Data, kafka: Kafka, tmp_path: Path
) -> None:
    """Late payments and outcomes, all within the lateness, in four partitions.

    Within the lateness a vector does not depend on how the log is divided, so the offline run of
    one partition is the one to compare with. Where payments of a customer overtake each other,
    vectors are others than in order, and a worker that sorted them by time would fail.
    """
    dense = _dense(data)
    order = _late_order(dense)
    late = _with_log(dense, order)
    t = late.payments.event_time_us
    behind_us = np.maximum.accumulate(t) - t
    assert np.count_nonzero(behind_us) > len(t) // 3
    assert behind_us.max() < REPLAY.lateness_us
    assert np.count_nonzero((late.matrix != dense.matrix[order]).any(axis=1)) > 200
    heard, offline = replay(
        late, "lightgbm", 4, kafka.bootstrap, tmp_path, Console(quiet=True),
        batches=[311, 64, 2048],
    )  # fmt: skip
    compare(late, heard, offline)


def _dense(data: Data) -> Data:
    """The same payments, each hour's within its first minute: close enough to overtake."""
    t = data.payments.event_time_us
    payments = replace(data.payments, event_time_us=t - t % HOUR_US + t % HOUR_US // 60)
    dense = replace(data, payments=payments)
    return _with_log(dense, np.arange(len(t)))


def _late_order(data: Data) -> NDArray[np.int64]:
    """Rows in an order in which each comes late by less than the lateness.

    A payment is never put behind one of the next day (the next hour even): days are weeks' edges.
    """
    t = data.payments.event_time_us
    late_us = np.random.default_rng(11).integers(0, REPLAY.lateness_us, len(t))
    return np.argsort(t + late_us, kind="stable")


def _with_log(data: Data, order: NDArray[np.int64]) -> Data:
    """The data with its payments in this order, as far as a replay looks at it."""
    payments = data.payments.take(order)
    day = days_of(payments.event_time_us, data.world.start_us)
    return replace(data, payments=payments, day=day, matrix=vectors(log_of(payments)))
