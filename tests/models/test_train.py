"""Training at a small size: repeatable to the byte, checked, and of some skill."""

import numpy as np
import pytest

from app.errors import ModelError
from features.contract import CONTRACT_ID, FEATURES, NAMES, WIDTH, defaults
from models.card import card
from models.manifest import Manifest
from models.train import (
    EXPORT_TOLERANCE,
    UNKNOWN_SHARE,
    Plan,
    Sample,
    check_export,
    forget,
    measure,
    pick_thresholds,
    train,
)

SMALL = Plan(
    customers=600,
    terminals=800,
    train_days=12,
    validation_days=4,
    test_days=6,
    epochs=8,
    batch=256,
)


@pytest.fixture(scope="module")
def trained() -> tuple[Manifest, bytes]:
    """A small model."""
    return train(1, SMALL)


def test_a_seed_gives_the_same_bytes(trained: tuple[Manifest, bytes]) -> None:
    """Training again with the seed gives the same model and the same manifest."""
    assert train(1, SMALL) == trained


def test_a_small_model_has_skill(trained: tuple[Manifest, bytes]) -> None:
    """Even a small training run separates frauds from the rest, on people never seen too."""
    manifest, _ = trained
    assert manifest.metrics["auc"] > 0.75
    assert manifest.metrics["second_population_auc"] > 0.7


def test_the_manifest_says_how_it_was_made(trained: tuple[Manifest, bytes]) -> None:
    """Contract, features, seed and library versions are in it, and the card shows them."""
    manifest, _ = trained
    assert (manifest.feature_contract_id, manifest.features) == (CONTRACT_ID, NAMES)
    assert manifest.training["seed"] == 1
    assert manifest.golden.scores == tuple(sorted(manifest.golden.scores))
    text = card(manifest)
    for shown in (manifest.model_id, manifest.sha256, CONTRACT_ID, "simulated", "--seed 1"):
        assert shown in text


def test_an_export_that_differs_is_refused() -> None:
    """One row that scores otherwise than in the fitted net stops the training."""
    scores = np.linspace(0, 1, 50).astype(np.float32)
    check_export(scores, scores + EXPORT_TOLERANCE / 2)
    off = scores.copy()
    off[17] += 2 * EXPORT_TOLERANCE
    with pytest.raises(ModelError, match="differs"):
        check_export(scores, off)


def test_thresholds_follow_the_budget_and_the_precision() -> None:
    """Review takes the top per cent; decline reaches down while nine of ten are frauds."""
    scores = np.linspace(1, 0, 2000, dtype=np.float32)
    fraud = np.zeros(2000, np.int8)
    fraud[:9] = 1
    found = pick_thresholds(fraud, scores)
    assert found.review == scores[19]
    assert found.decline == scores[9]
    assert measure(fraud, scores, found)["review_share"] == 0.01
    assert measure(fraud, scores, found)["decline_precision"] == 0.9


def test_without_precision_only_the_highest_score_is_declined() -> None:
    """A model that never reaches the precision declines next to nothing."""
    scores = np.linspace(1, 0, 1000, dtype=np.float32)
    found = pick_thresholds(np.zeros(1000, np.int8), scores)
    assert found.decline == scores[0]
    assert found.decline >= found.review


def test_forgetting_gives_whole_entities_their_defaults() -> None:
    """A row loses all columns of its customer or terminal, and never those of the payment."""
    sample = Sample(np.full((5000, WIDTH), 7, np.float32), np.zeros(5000, np.int8))
    forget(sample, np.random.default_rng(0))
    changed = sample.matrix != 7
    for source in ("customer", "terminal"):
        columns = [f.source == source for f in FEATURES]
        rows = changed[:, columns].any(axis=1)
        assert changed[rows][:, columns].all()
        assert (sample.matrix[rows][:, columns] == defaults()[columns]).all()
        assert 0.5 * UNKNOWN_SHARE < rows.mean() < 2 * UNKNOWN_SHARE
    assert not changed[:, [f.source == "transaction" for f in FEATURES]].any()
