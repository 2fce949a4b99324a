"""Going on from a model's bytes: what is suspicious has moved, and the model follows."""

import numpy as np
import pytest

from models import trees
from models.finetune import Rows, family_of, finetune
from models.fit import FAMILIES, Fitted, Scores, fit
from tests.models.frauds import rows

DRIFT = -90.0
SEED = 2


@pytest.fixture(scope="module", params=FAMILIES)
def old(request: pytest.FixtureRequest) -> Fitted:
    """A model of each family, of a time when only high amounts were suspicious."""
    return fit(request.param, *rows(0, 10_000), seed=1)


@pytest.fixture(scope="module")
def recent() -> Rows:
    """Rows of a time when lower amounts are."""
    return rows(1, 10_000, DRIFT)


@pytest.fixture(scope="module")
def holdout() -> Rows:
    """Later rows of that time."""
    return rows(2, 10_000, DRIFT)


def test_the_family_is_read_from_the_graph(old: Fitted) -> None:
    """No name beside the file is needed."""
    assert family_of(old.onnx) == old.family


def test_the_model_follows_a_drift(old: Fitted, recent: Rows, holdout: Rows) -> None:
    """On held-out rows of the new time the new model is better, and twice made it is the same."""
    found = finetune(old.onnx, recent, holdout, SEED)
    assert found.family == old.family
    assert found.new_ap > found.old_ap + 0.02
    assert finetune(old.onnx, recent, holdout, SEED) == found


def test_trees_keep_the_old_ones_in_front(recent: Rows, holdout: Rows) -> None:
    """Added rounds come behind the old ensemble, whose arrays are unchanged."""
    for family in ("lightgbm", "xgboost"):
        old = fit(family, *rows(0, 10_000), seed=1).onnx
        before = trees.read_trees(old)
        after = trees.read_trees(finetune(old, recent, holdout, SEED).onnx)
        n = len(before.feature)
        assert len(after.roots) > len(before.roots)
        for name in ("feature", "value", "cover", "yes", "no"):
            assert np.array_equal(getattr(after, name)[:n], getattr(before, name)), name


def test_a_model_that_cannot_gain_is_given_back(old: Fitted, holdout: Rows) -> None:
    """Where the latest recent rows contradict the others, the bytes stay as they are."""
    matrix, _ = rows(3, 10_000)
    usual = Scores(old.onnx)(matrix) > np.float32(0.5)
    told = np.where(np.arange(10_000) < 8000, ~usual, usual).astype(np.int8)
    found = finetune(old.onnx, (matrix, told), holdout, SEED)
    assert found.onnx == old.onnx
    assert found.old_ap == found.new_ap
