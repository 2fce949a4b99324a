"""The four families on a small problem: repeatable, skilled, and the same in and out of ONNX."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from app.errors import ModelError
from models.descent import Course, descend, untrained
from models.fit import (
    DEFAULTS,
    FAMILIES,
    TOLERANCE,
    Family,
    Fitted,
    Scores,
    check_export,
    fit,
    in_pieces,
    standardised,
)
from tests.models.frauds import WIDTH, rows

LEAST_SKILL = 0.5


@pytest.fixture(scope="module", params=FAMILIES)
def fitted(request: pytest.FixtureRequest) -> Fitted:
    """Each family with its defaults."""
    return fit(request.param, *rows(0, 20_000), seed=3)


def test_a_seed_gives_the_same_bytes(fitted: Fitted) -> None:
    """Fitting again gives the same file."""
    assert fit(fitted.family, *rows(0, 20_000), seed=3).onnx == fitted.onnx


def test_it_finds_frauds_on_rows_that_it_never_saw(fitted: Fitted) -> None:
    """Average precision is far above the share of frauds."""
    matrix, fraud = rows(1, 20_000)
    found = average_precision_score(fraud, Scores(fitted.onnx)(matrix))
    assert fraud.mean() < 0.03
    assert found > LEAST_SKILL


def test_the_export_scores_as_the_library_on_unseen_rows(fitted: Fitted) -> None:
    """The raw scores agree within the tolerance, and the scores are their logistic function."""
    matrix, _ = rows(2, 20_000)
    scores = Scores(fitted.onnx)
    check_export(scores.raw(matrix), fitted.raw(matrix))
    share = 1 / (1 + np.exp(-scores.raw(matrix).astype(np.float64)))
    assert np.abs(scores(matrix) - share).max() < 1e-6


def test_an_absurd_row_has_a_score(fitted: Fitted) -> None:
    """The largest and the least float32 in every feature give a probability."""
    absurd = np.full((2, WIDTH), 3e38, np.float32) * np.array([[1], [-1]], np.float32)
    found = Scores(fitted.onnx)(absurd)
    assert ((found >= 0) & (found <= 1)).all()


def test_it_says_what_it_was_made_with(fitted: Fitted) -> None:
    """All parameters and the libraries' versions."""
    assert fitted.params == DEFAULTS[fitted.family]
    assert "onnx" in fitted.libraries


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_heard_and_strange_ones_refused(family: Family) -> None:
    """A family's own parameter changes the model; another name is named in the error."""
    few = "epochs" if "epochs" in DEFAULTS[family] else "rounds"
    small = fit(family, *rows(0, 2000), seed=3, params={few: 2.0})
    assert small.params == DEFAULTS[family] | {few: 2}
    assert isinstance(small.params[few], int)
    with pytest.raises(ModelError, match=rf"{family} has no depht: it has .*{few}"):
        fit(family, *rows(0, 2000), seed=3, params={"depht": 2})


def test_one_row_that_differs_is_refused() -> None:
    """The check is of raw scores: absolute up to one, relative above, and NaN never passes."""
    native = np.linspace(-9, 9, 50)
    within = native + np.where(np.abs(native) < 1, 0.9, 0.9 * np.abs(native)) * TOLERANCE
    check_export(within.astype(np.float64), native)
    for wrong in (native[17] + 9 * TOLERANCE, np.nan):
        off = native.copy()
        off[17] = wrong
        with pytest.raises(ModelError, match="differs"):
            check_export(off, native)


def test_pieces_follow_a_feature_from_end_to_end() -> None:
    """The pieces of a feature are -1 below, 1 above; their sum rises with it; a flag is one."""
    matrix, fraud = rows(4, 5000)
    encoding = in_pieces(matrix, fraud, 8)
    assert encoding.spread is not None
    assert encoding.spread.shape == (WIDTH, len(encoding.mean))
    assert (encoding.spread.sum(axis=0) == 1).all()
    assert encoding.spread.sum(axis=1)[4] == 1
    sums = encoding.normalise(matrix) @ encoding.spread.T
    for k in range(WIDTH):
        order = np.argsort(matrix[:, k])
        assert (np.diff(sums[order, k]) > -1e-4).all()
    for end, value in ((matrix.min(axis=0), -1), (matrix.max(axis=0), 1)):
        assert np.allclose(encoding.normalise(end[np.newaxis]), value, atol=1e-3)


def test_a_constant_feature_is_harmless() -> None:
    """A feature with one value gives no piece, no division by zero, and a finite score."""
    matrix, fraud = rows(5, 2000)
    matrix[:, 3] = 7
    encoding = in_pieces(matrix, fraud, 8)
    assert encoding.spread is not None
    assert encoding.spread[3].sum() == 0
    assert np.isfinite(standardised(matrix).normalise(matrix)).all()
    assert np.isfinite(fit("mlp", matrix, fraud, 0, {"epochs": 1}).raw(matrix)).all()


def test_a_course_that_only_loses_gives_the_net_back() -> None:
    """With rows to validate on whose truth is the other way round, the first net is kept."""
    matrix, fraud = rows(6, 2000)
    net = untrained(standardised(matrix), (4,), float(fraud.mean()), 1)
    start = replace(net, biases=[net.biases[0], np.full(1, 2, np.float32)])
    kept = descend(start, matrix, fraud, Course(5, 256, 1e-2, 0.0), 1, (matrix, 1 - fraud))
    assert all(map(np.array_equal, kept.weights, start.weights))
    learnt = descend(start, matrix, fraud, Course(5, 256, 1e-2, 0.0), 1, (matrix, fraud))
    assert not np.array_equal(learnt.weights[0], start.weights[0])
