"""The benchmark through Kafka, small: online and offline are the same, bit for bit."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from app.demo.cluster import Kafka
from app.errors import RiskwireError
from app.replay import compare, replay
from models.evaluate import Data, prepare
from models.handbook import World

SMALL = World(5, customers=90, terminals=600, radius=9.0)


@pytest.fixture(scope="module")
def data() -> Data:
    """A small world with its offline vectors."""
    return prepare(SMALL)


@pytest.mark.parametrize(
    ("partitions", "batches", "kills"), [(1, [17, 2048], [0.5]), (4, [311, 64, 2048], [])]
)
def test_vectors_and_scores_through_kafka_are_the_offline_ones(
    data: Data,
    kafka: Kafka,
    tmp_path: Path,
    partitions: int,
    batches: list[int],
    kills: list[float],
) -> None:
    """With outcomes in time, restarts, a kill -9 in each week and other batch sizes each week."""
    heard, offline = replay(
        data, "lightgbm", partitions, kafka.bootstrap, tmp_path, Console(quiet=True),
        batches=batches, kills=kills,
    )  # fmt: skip
    compare(data, heard, offline)
    assert not np.isnan(heard.score).any()
    heard.vector_hash[7] ^= np.uint64(1)
    with pytest.raises(RiskwireError, match="of transaction 7"):
        compare(data, heard, offline)
