"""The shipped model: the same bits in every batch, explained, and of the skill on its card."""

import numpy as np
import pytest
from numpy.typing import NDArray

from app.adapters.onnx import CPU, OnnxScorer, load_scorer
from app.score import score
from features.contract import CONTRACT_ID, LIVE, NAMES
from models.card import CARD_FILE, card
from models.handbook import World
from models.labelled import of_world
from models.manifest import SHIPPED, read

Float32s = NDArray[np.float32]

BATCH_MAX = 2048
ABSURD = 77
FRESH = World(20_011, customers=400, terminals=4000, days=60, radius=6.0)
"""A world that nothing was trained or chosen on."""


@pytest.fixture(scope="module")
def scorer() -> OnnxScorer:
    """The shipped model on the CPU."""
    return load_scorer(None, CPU)


@pytest.fixture(scope="module")
def fresh() -> Float32s:
    """Vectors of the fresh world's last days."""
    return of_world(FRESH).matrix[-4 * BATCH_MAX :]


@pytest.fixture(scope="module")
def matrix(fresh: Float32s, scorer: OnnxScorer) -> Float32s:
    """A batch of them from the lowest to the highest score, shuffled, and an absurd one."""
    order = np.argsort(score(fresh, scorer), kind="stable")[:: len(fresh) // BATCH_MAX]
    found = np.ascontiguousarray(fresh[np.random.default_rng(1).permutation(order)])
    found[ABSURD] = 1e30
    return found


def test_a_row_scores_the_same_bits_in_every_batch(scorer: OnnxScorer, matrix: Float32s) -> None:
    """For every batch size from 1 to 2048, at the front and at the back, no score changes a bit."""
    whole = score(matrix, scorer).view(np.uint32)
    for n in range(1, BATCH_MAX + 1):
        front = score(matrix[:n], scorer).view(np.uint32)
        back = score(matrix[BATCH_MAX - n :], scorer).view(np.uint32)
        assert np.array_equal(front, whole[:n]), n
        assert np.array_equal(back, whole[BATCH_MAX - n :]), n


def test_a_row_scores_the_same_bits_at_every_place(scorer: OnnxScorer, matrix: Float32s) -> None:
    """Another order of the rows gives the same scores in that order."""
    order = np.random.default_rng(2).permutation(BATCH_MAX)
    shuffled = score(np.ascontiguousarray(matrix[order]), scorer)
    assert shuffled.tobytes() == score(matrix, scorer)[order].tobytes()


def test_an_absurd_vector_still_has_a_score(scorer: OnnxScorer) -> None:
    """Values far outside of the training data give a probability, not NaN."""
    absurd = np.full((2, len(NAMES)), 3e38, np.float32) * np.array([[1], [-1]], np.float32)
    assert ((score(absurd, scorer) >= 0) & (score(absurd, scorer) <= 1)).all()


def test_it_reads_the_running_contract(scorer: OnnxScorer) -> None:
    """The stream's own features, with the stream's timing."""
    manifest = scorer.manifest
    assert (manifest.feature_contract_id, manifest.features) == (CONTRACT_ID, NAMES)
    assert scorer.timing == LIVE


def test_its_golden_scores_are_its_own_to_the_bit(scorer: OnnxScorer) -> None:
    """On this kind of machine; several of them are alerts, and one is far from it."""
    golden = scorer.manifest.golden
    found = score(np.array(golden.vectors, np.float32), scorer)
    assert found == pytest.approx(golden.scores, abs=1e-6)
    alerts = [one for one in golden.scores if one >= scorer.policy.review]
    assert len(alerts) >= 4
    assert min(golden.scores) < scorer.policy.review / 5


def test_its_reasons_add_up_to_its_raw_score(scorer: OnnxScorer, fresh: Float32s) -> None:
    """Base and contributions of any row, in log-odds."""
    rows = fresh[:: len(fresh) // 500]
    total = scorer.explainer.base + scorer.explainer.contributions(rows).sum(axis=1)
    assert np.abs(total - scorer.raw(rows)).max() < 1e-4


def test_it_has_the_skill_that_it_was_shipped_for(scorer: OnnxScorer) -> None:
    """On a week held out and in a world that took no part, near the oracle and never above it."""
    metrics = scorer.manifest.metrics
    for world in ("", "second_world_"):
        assert metrics[world + "average_precision"] >= 0.73
        assert metrics[world + "average_precision"] < metrics[world + "oracle_average_precision"]
        assert metrics[world + "auc"] >= 0.86
        assert 80 <= metrics[world + "alerts_per_day"] <= 120
        assert metrics[world + "decline_precision"] >= 0.8


def test_alerts_are_few_on_fresh_payments(scorer: OnnxScorer, fresh: Float32s) -> None:
    """A small world has a larger share of frauds; still few of its payments are stopped."""
    share = float((score(fresh, scorer) >= np.float32(scorer.policy.review)).mean())
    assert 0.002 < share < 0.15


def test_a_usual_payment_is_approved(scorer: OnnxScorer) -> None:
    """The reference vector, against which reasons are measured, is far from an alert."""
    usual = scorer.manifest.reference_vector
    assert score(usual[np.newaxis], scorer)[0] < scorer.policy.review / 5


def test_it_is_small() -> None:
    """A wheel carries it."""
    shipped = read()
    assert len(shipped.model) + len(shipped.explainer) < 200_000


def test_the_card_is_the_manifests(scorer: OnnxScorer) -> None:
    """The card beside the model was written from this manifest."""
    assert (SHIPPED / CARD_FILE).read_text("utf-8") == card(scorer.manifest)
