"""The shipped model: the same bits in every batch, and the skill that its card claims."""

import numpy as np
import pytest

from app.adapters.onnx import OnnxScorer, load_scorer
from app.score import score
from features.aggregate import DAY_US, aggregate
from features.vectorize import vectorize
from models.card import card
from models.manifest import SHIPPED
from models.simulate import Population

BATCH_MAX = 2048
START_US = 20_500 * DAY_US + DAY_US // 2


@pytest.fixture(scope="module")
def scorer() -> OnnxScorer:
    """The shipped model on the CPU."""
    return load_scorer(None, "CPUExecutionProvider")


@pytest.fixture(scope="module")
def matrix() -> np.ndarray:
    """Vectors of a batch of simulated payments and of an absurd one."""
    population = Population(11, 500, 800)
    past = population.as_history(population.history(START_US - 28 * DAY_US, START_US))
    profiles = aggregate(past, START_US)
    now = population.as_history(population.stream(START_US, BATCH_MAX, 500.0))
    found = vectorize(
        now.event_time_us,
        now.amount_minor,
        now.channel,
        now.country,
        profiles.customers[now.customer],
        profiles.terminals[now.terminal],
    )
    found[77] = 1e30
    return found


def test_a_row_scores_the_same_bits_in_every_batch(scorer: OnnxScorer, matrix: np.ndarray) -> None:
    """For every batch size from 1 to 2048, at the front and at the back, no score changes a bit."""
    whole = score(matrix, scorer).view(np.uint32)
    for n in range(1, BATCH_MAX + 1):
        front = score(matrix[:n], scorer).view(np.uint32)
        back = score(matrix[BATCH_MAX - n :], scorer).view(np.uint32)
        assert np.array_equal(front, whole[:n]), n
        assert np.array_equal(back, whole[BATCH_MAX - n :]), n


def test_a_row_scores_the_same_bits_at_every_place(scorer: OnnxScorer, matrix: np.ndarray) -> None:
    """Another order of the rows gives the same scores in that order."""
    order = np.random.default_rng(2).permutation(BATCH_MAX)
    shuffled = score(np.ascontiguousarray(matrix[order]), scorer)
    assert shuffled.tobytes() == score(matrix, scorer)[order].tobytes()


def test_an_absurd_vector_still_has_a_score(scorer: OnnxScorer) -> None:
    """Values far outside of the training data give a probability, not NaN."""
    width = len(scorer.reference)
    absurd = np.full((2, width), 3e38, np.float32) * np.array([[1], [-1]], np.float32)
    assert ((score(absurd, scorer) >= 0) & (score(absurd, scorer) <= 1)).all()


def test_it_has_the_skill_that_it_was_shipped_for(scorer: OnnxScorer) -> None:
    """On held-out weeks it ranks frauds high, on people it never saw too, and alerts few."""
    metrics = scorer.manifest.metrics
    assert metrics["auc"] >= 0.9
    assert metrics["second_population_auc"] >= 0.9
    assert 0.005 <= metrics["review_share"] <= 0.02
    assert metrics["decline_precision"] >= 0.8


def test_alerts_are_few_on_fresh_traffic(scorer: OnnxScorer, matrix: np.ndarray) -> None:
    """Traffic that no one trained on gives alerts of the order of one per cent."""
    share = float((score(matrix, scorer) >= np.float32(scorer.policy.review)).mean())
    assert 0.002 < share < 0.04


def test_a_usual_payment_is_approved(scorer: OnnxScorer) -> None:
    """The reference vector, against which reasons are measured, is far from an alert."""
    assert score(scorer.reference[np.newaxis], scorer)[0] < scorer.policy.review / 5


def test_the_card_is_the_manifests() -> None:
    """The card beside the model was written from this manifest."""
    shown = (SHIPPED / "CARD.md").read_text("utf-8")
    assert shown == card(load_scorer(None, "CPUExecutionProvider").manifest)
