"""Labelled payments: the same from a world and its file, and splits through which nothing leaks."""

from pathlib import Path

import numpy as np
import pytest

from app.errors import ConfigError
from features import offline
from features.contract import LIVE, REPLAY
from models.handbook import World, simulate, write_parquet
from models.labelled import (
    FILE,
    TUNING_FOLDS,
    TUNING_STOP,
    WARM_UP_DAYS,
    Labelled,
    Split,
    of_file,
    of_world,
    split_file,
    split_world,
    tuning_folds,
)
from models.protocol import DELAY_DAYS, FOLDS, between, judged_rows

WORLD = World(3, customers=150, terminals=2000, days=124, radius=8.0)


@pytest.fixture(scope="module")
def data() -> Labelled:
    """A small world's payments."""
    return of_world(WORLD)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file."""
    return write_parquet(simulate(WORLD)[0], tmp_path_factory.mktemp("history"))


@pytest.fixture(scope="module")
def from_file(path: Path) -> Labelled:
    """The same payments by way of the file."""
    return of_file(path)


def test_live_and_replay_timing_give_the_same_vectors(data: Labelled) -> None:
    """Labels in time and records in order: how late others may be changes no number."""
    assert of_world(WORLD, REPLAY).matrix.tobytes() == data.matrix.tobytes()


def test_a_file_gives_what_its_world_gives(data: Labelled, from_file: Labelled) -> None:
    """Vectors, days, truth and money; only the numbers of the customers are others."""
    assert from_file.matrix.tobytes() == data.matrix.tobytes()
    for name in ("day", "fraud", "amount_minor"):
        assert np.array_equal(getattr(from_file, name), getattr(data, name)), name
    assert from_file.date(0) == data.date(0) == "2018-04-01"
    assert from_file.source["data"] == FILE
    assert len(str(from_file.source["file_sha256"])) == 64


def test_short_chunks_make_no_difference(
    data: Labelled, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file and from a world, with either timing: the same numbers for logs in order."""
    monkeypatch.setattr(offline, "ROWS_AT_ONCE", 200)
    live, replay = of_world(WORLD, LIVE), of_world(WORLD, REPLAY)
    assert live.matrix.tobytes() == replay.matrix.tobytes()
    assert of_file(path, REPLAY).matrix.tobytes() == live.matrix.tobytes()
    assert len(live.matrix) == len(data.matrix)


def test_a_worlds_known_victims_are_not_judged(data: Labelled, from_file: Labelled) -> None:
    """As in the book's protocol; in a file everything labelled is."""
    days = FOLDS[-1].validation.test
    judged = data.judged(days)
    fold = FOLDS[-1].validation
    assert np.array_equal(judged, judged_rows(data.day, data.customer, data.fraud, fold))
    everything = np.arange(len(data.day))[between(data.day, days)]
    assert len(judged) < len(everything)
    assert np.array_equal(from_file.judged(days), everything)


def test_rows_without_an_outcome_are_left_out(from_file: Labelled) -> None:
    """They made the features, and neither teach nor judge."""
    fraud = from_file.fraud.copy()
    fraud[::2] = -1
    half = Labelled(
        from_file.source, from_file.start_us, from_file.day, from_file.customer,
        from_file.amount_minor, fraud, from_file.matrix, None,
    )  # fmt: skip
    days = range(50, 60)
    rows = between(from_file.day, days)
    expected = np.arange(rows.start, rows.stop)
    assert np.array_equal(half.rows(days), expected[expected % 2 == 1])


def test_a_worlds_split_is_the_protocols() -> None:
    """The days of the latest fold, its test week for thresholds, and a week after it to test on."""
    split = split_world()
    assert (split.train, split.validation) == (FOLDS[0].train, FOLDS[0].test)
    assert split.test == range(164, 171)


def test_a_files_split_holds_the_last_days_out(from_file: Labelled) -> None:
    """A label delay between, a warm-up before."""
    split = split_file(from_file, 20)
    assert split == Split(range(WARM_UP_DAYS, 97), range(104, 114), range(114, 124))
    assert split_file(from_file, 20, first=80).train == range(80, 97)


@pytest.mark.parametrize("holdout_days", [80, 1000])
def test_too_few_days_are_refused(from_file: Labelled, holdout_days: int) -> None:
    """With the sum of what is needed."""
    with pytest.raises(ConfigError, match="are too few: 37 go ahead"):
        split_file(from_file, holdout_days)


def test_days_without_frauds_are_refused(data: Labelled) -> None:
    """Nothing can be learnt from them, nor measured on them."""
    fraud = np.where(data.day < 100, data.fraud, 0).astype(np.int8)
    honest = Labelled(
        data.source, data.start_us, data.day, data.customer, data.amount_minor, fraud,
        data.matrix, None,
    )  # fmt: skip
    with pytest.raises(ConfigError, match="to pick thresholds on: frauds and others are needed"):
        split_file(honest, 14)


def test_parameters_are_searched_before_any_test(data: Labelled) -> None:
    """Four weeks, all labels known when the first test week begins."""
    told: list[str] = []
    folds = tuning_folds(data, TUNING_STOP, told.append)
    assert min(fold.test.start for fold in FOLDS) >= TUNING_STOP + DELAY_DAYS
    assert len(folds) == TUNING_FOLDS
    assert told[0] == "learn until day 108, judge days 115 to 122"
    for k, (matrix, fraud, later, truth) in enumerate(folds):
        stop = TUNING_STOP - 7 * k
        learnt = data.rows(range(max(WARM_UP_DAYS, stop - 42), stop - 14))
        assert np.array_equal(matrix, data.matrix[learnt])
        assert np.array_equal(fraud, data.fraud[learnt])
        assert len(later) == len(truth) == len(data.judged(range(stop - 7, stop)))


def test_folds_end_where_the_days_do(data: Labelled) -> None:
    """Few days, few folds; none is an error."""
    assert len(tuning_folds(data, 63)) == 2
    with pytest.raises(ConfigError, match="too few days"):
        tuning_folds(data, 45)


def test_a_file_without_outcomes_is_refused(tmp_path: Path) -> None:
    """A column that is empty everywhere teaches nothing."""
    path = tmp_path / "history.csv"
    path.write_text("customer_id,terminal_id,event_time,amount_minor,fraud\nc,t,1,100,\n")
    with pytest.raises(ConfigError, match="no outcome is known"):
        of_file(path)
