"""The feature contract: names, order, defaults, and the id that stands for them."""

import numpy as np
import pytest

from features.contract import (
    CONTRACT_ID,
    DAY_US,
    FEATURES,
    LIVE,
    NAMES,
    REPLAY,
    WIDTH,
    Timing,
    contract_id,
    defaults,
)
from features.offline import Log, vectors
from features.xxh64 import vector_hash
from models import manifest

BOOKS_INPUTS = 15


def test_the_id_changes_on_purpose_only() -> None:
    """Whoever changes a feature, its default or a bound sees it here, and trains a new model."""
    assert CONTRACT_ID == contract_id(LIVE) == "38612756536e6d01"
    assert contract_id(REPLAY) != CONTRACT_ID


def test_the_kernel_computes_what_it_did() -> None:
    """Other numbers for the same log need another KERNEL_VERSION, and so another contract."""
    n = 4000
    i = np.arange(n)
    log = Log.of(
        (i**3 % 23).astype(np.int32),
        (i**2 % 31).astype(np.int32),
        17_622 * DAY_US + i * (200 * DAY_US // n) - i % 7 * 50_000_000,
        i**4 % 100_019,
        (i**2 % 5 == 1).astype(np.int8),
    )
    assert int(np.bitwise_xor.reduce(vector_hash(vectors(log, LIVE)))) == 0xAA8A79C464D3D49C


def test_the_shipped_model_follows_the_contract() -> None:
    """The model in the package was trained on the features that the package computes."""
    shipped = manifest.read().manifest
    assert shipped.feature_contract_id == CONTRACT_ID
    assert shipped.timing == LIVE
    assert shipped.features == NAMES


def test_features_are_told_apart() -> None:
    """Names are unique and no feature lacks its documentation, unit or reason code."""
    assert len(set(NAMES)) == WIDTH == len(FEATURES)
    assert all(f.doc and f.unit and f.reason == f.reason.upper() for f in FEATURES)


def test_the_books_inputs_come_first() -> None:
    """The check of the protocol trains on these columns only."""
    assert "amount_over" not in " ".join(NAMES[:BOOKS_INPUTS])
    assert NAMES[BOOKS_INPUTS].startswith("amount_over")


def test_what_crosses_partitions_is_delayed() -> None:
    """A terminal is fed by every partition: nothing of it may be read fresh."""
    assert all(f.delay_days == 7 for f in FEATURES if f.entity == "terminal")


def test_defaults_stand_in_the_features_order() -> None:
    """Each at its feature's place."""
    assert defaults().tolist() == [np.float32(f.default) for f in FEATURES]


@pytest.mark.parametrize(("lateness_us", "skew_us"), [(-1, 5), (5, 5), (0, 8 * DAY_US)])
def test_impossible_timings_are_refused(lateness_us: int, skew_us: int) -> None:
    """Lateness below the skew, the skew within the label delay."""
    with pytest.raises(ValueError, match="lateness"):
        Timing(lateness_us, skew_us)
