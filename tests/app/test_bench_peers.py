"""What makes a peer's figures count: all of its scores are there, once, and right."""

import io
import sys

import fastavro
import numpy as np
import pytest
from rich.console import Console

import schemas
from app.bench.lanes.lane import task
from app.bench.load import load
from app.bench.peers import packed, run, work
from app.bench.peers.lanes import LANES
from app.bench.peers.peer import SCORE, Work, keys
from app.demo import traffic
from app.errors import ConfigError, Unavailable
from app.records import Int64s
from models.handbook import Payments
from tests.app.builders import T0, transactions

N = 400


@pytest.fixture(scope="module")
def coming() -> Payments:
    """A small load."""
    return load(N).coming


@pytest.fixture(scope="module")
def wanted(coming: Payments) -> work.Expected:
    """What its scores must be."""
    with work.model_file() as model:
        return work.expected(coming, model)


def found(wanted: work.Expected, numbers: Int64s) -> work.Found:
    """The right scores of these payments."""
    partition, customer = (
        column[numbers].astype(np.int64) for column in (wanted.partition, wanted.customer)
    )
    times = np.full(len(numbers), T0)
    return work.Found(partition, customer, numbers, wanted.score[numbers], times, times)


def test_right_scores_pass_in_any_order(wanted: work.Expected) -> None:
    """Peers with threads may mix them."""
    work.check(found(wanted, np.random.default_rng(0).permutation(N)), wanted)


def test_lost_doubled_and_misplaced_scores_are_refused(wanted: work.Expected) -> None:
    """One that is missing, one that is there twice, one in another partition."""
    every = np.arange(N)
    with pytest.raises(Unavailable, match="1 are lost and 0 doubled"):
        work.check(found(wanted, every[1:]), wanted)
    with pytest.raises(Unavailable, match="1 are lost and 1 doubled"):
        work.check(found(wanted, np.append(every[1:], 7)), wanted)
    elsewhere = found(wanted, every)
    elsewhere.partition[3] = (elsewhere.partition[3] + 1) % 4
    with pytest.raises(Unavailable, match="partitions"):
        work.check(elsewhere, wanted)


def test_wrong_scores_and_keys_are_refused(wanted: work.Expected) -> None:
    """A score that is off by more than the tolerance, or no number; another customer's key."""
    for wrong in (1e-5, np.nan):
        off = found(wanted, np.arange(N))
        off.score[5] += np.float32(wrong)
        with pytest.raises(Unavailable, match="wrong"):
            work.check(off, wanted)
        work.check(off, wanted, scores=False)
    other = found(wanted, np.arange(N))
    other.key[5] += 1
    with pytest.raises(Unavailable, match="key"):
        work.check(other, wanted)


def test_a_peer_that_has_the_vectors_scores_right(coming: Payments) -> None:
    """The Python peers' work gives the scores that are expected, also where Redis has no vector."""
    customers, terminals = work.vectors()
    assert not customers[:: work.WITHOUT].any()
    few = coming.take(np.arange(100))
    few.customer[:50] = 0
    arguments = ["--bootstrap", "x:1", "--topic", "t", "--group", "g", "--n", "1"]
    with work.model_file() as model:
        peer = Work(task([*arguments, "--redis", "redis://x:1/0", "--model", str(model)]))
        right = work.expected(few, model).score
    header = schemas.load("transaction").single_object_header
    rows = [peer.decode(value) for _, value in traffic.encoded(few, "tx", 0, header)]
    sides = {"c": customers, "t": terminals}
    vectors = [sides[key[0]][int(key[2:])] for key in keys(rows)]
    blobs = [vector.tobytes() if vector.any() else None for vector in vectors]
    assert np.abs(np.array(peer.scores(blobs)) - right).max() <= work.TOLERANCE


def test_packed_scores_are_fastavros_byte_for_byte() -> None:
    """The compiled encoder writes what fastavro does."""
    rows = [
        {"transaction_id": f"tx{10**k}", "customer_id": f"{k}", "event_time_us": T0 + 10**k}
        for k in range(9)
    ]
    columns, scores = transactions(rows), np.linspace(0, 1, 9, dtype=np.float32)
    out = packed.encoded("scores", columns, scores, T0 + 5)
    for k, row in enumerate(rows):
        value = io.BytesIO()
        times = {"event_time": row["event_time_us"], "emitted": T0 + 5}
        record = {**row, **times, "score": float(scores[k])}
        fastavro.schemaless_writer(value, SCORE, record)
        assert out.values[k] == value.getvalue()
        assert out.keys[k] == f"{k}".encode()


def test_the_table_shows_every_lane() -> None:
    """Medians, ratios to ours, and blanks where no latency was measured."""
    fast, slow = {"tx_per_s": 900.0, "cpu_us_per_tx": 2.0}, {"tx_per_s": 3.0, "cpu_us_per_tx": 9.0}
    where = {"cpu": "a", "cores": 2, "kafka": "k", "redis": "r"}
    report = run.summary({"packed": [fast] * 3, "faust": [slow, slow]}, where)
    assert report["ratios"] == {"packed": {"packed": 1.0, "faust": 300.0}}
    out = io.StringIO()
    run.show(report, Console(file=out, width=160))
    assert "300.00 x" in out.getvalue()


def test_an_unknown_lane_is_an_operators_mistake() -> None:
    """It is said before anything is started."""
    with pytest.raises(ConfigError, match="no such lane: storm"):
        run.run(lanes=["storm"])


def test_lanes_of_our_own_run_in_our_interpreter() -> None:
    """A lane's command is its program, what it is told, and what it adds."""
    command = LANES["loop_1024"].start(["--n", "1"])
    assert command[0] == sys.executable
    assert command[-5:] == ["app.bench.peers.loop", "--n", "1", "--batch", "1024"]
