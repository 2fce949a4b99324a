"""Contributions against brute force, against both tree libraries, and against the model's score."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from math import comb
from typing import Any

import lightgbm
import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from app.adapters.onnx import open_session
from app.errors import ModelError
from app.ports import Explainer
from models import export, trees
from models.explain import Net, Trees, from_npz, to_npz
from models.explain_onnx import explainer_of
from models.manifest import INPUT
from models.trees import LIGHTGBM, XGBOOST, Mode

Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]

WIDTH = 5
NODE_COLUMNS = (
    "treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids",
    "hitrates",
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A node of a tree; a leaf has no branches."""

    cover: float
    value: float = 0.0
    feature: int = 0
    threshold: float = 0.0
    branches: "tuple[Node, Node] | None" = None


def model_of(forest: list[Node], mode: Mode, base: float = 0.0) -> bytes:
    """An ONNX model of a sum of trees."""
    rows: list[list[float]] = []

    def add(node: Node) -> int:
        at = len(rows)
        rows.append([trees.LEAF, node.value, node.cover, trees.LEAF, trees.LEAF])
        if node.branches:
            children = [add(branch) for branch in node.branches]
            rows[at] = [node.feature, node.threshold, node.cover, *children]
        return at

    roots = np.array([add(tree) for tree in forest])
    feature, value, cover, yes, no = (np.array(column) for column in zip(*rows, strict=True))
    flat = trees.Trees(
        WIDTH, mode, base, roots, feature.astype(int), value.astype(np.float32),
        cover.astype(np.float32), yes.astype(int), no.astype(int),
    )  # fmt: skip
    return trees.to_onnx(flat, "test")


def raw_scores(model: bytes, rows: Float32s) -> Float32s:
    """What ONNX Runtime computes before the sigmoid."""
    session, _ = open_session(model, "CPUExecutionProvider")
    [raw] = session.run([export.RAW], {INPUT: rows})
    found: Float32s = raw.reshape(-1)
    return found


def explained(explainer: Explainer, rows: Float32s) -> Float64s:
    """The raw scores as base value plus contributions."""
    found: Float64s = explainer.base + explainer.contributions(rows).sum(axis=1)
    return found


def expectation(node: Node, mode: Mode, row: Float32s, known: set[int]) -> float:
    """A tree's value where only some features are known: the others go both ways, by cover."""
    if node.branches is None:
        return node.value
    if node.feature in known:
        value, threshold = row[node.feature], np.float32(node.threshold)
        yes = value <= threshold if mode == LIGHTGBM else value < threshold
        return expectation(node.branches[0 if yes else 1], mode, row, known)
    return sum(b.cover / node.cover * expectation(b, mode, row, known) for b in node.branches)


def shapley(worth: Callable[[set[int]], float], width: int) -> list[float]:
    """Each player's mean marginal worth over all orders of joining."""
    found = []
    for j in range(width):
        others = [k for k in range(width) if k != j]
        gains = [
            (worth({*group, j}) - worth(set(group))) / comb(width - 1, size) / width
            for size in range(width)
            for group in combinations(others, size)
        ]
        found.append(sum(gains))
    return found


STEPS = st.integers(0, 4).map(float)


@st.composite
def tree_of(draw: st.DrawFn, depth: int = 4) -> Node:
    """Small trees that split a feature again, and thresholds that rows hit exactly."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return Node(float(draw(st.integers(1, 9))), draw(st.integers(-8, 8)) / 8)
    below, rest = draw(tree_of(depth - 1)), draw(tree_of(depth - 1))
    feature = draw(st.integers(0, WIDTH - 1))
    return Node(below.cover + rest.cover, 0.0, feature, draw(STEPS), (below, rest))


@given(
    st.lists(tree_of(), min_size=1, max_size=3),
    st.sampled_from((LIGHTGBM, XGBOOST)),
    st.lists(STEPS, min_size=WIDTH, max_size=WIDTH),
)
def test_trees_are_shapley_values(forest: list[Node], mode: Mode, values: list[float]) -> None:
    """Contributions are the mean over all orders in which the features become known."""
    row = np.array(values, np.float32)
    explainer = explainer_of(model_of(forest, mode, base=0.5), np.zeros(WIDTH, np.float32))
    expected = np.zeros(WIDTH)
    for tree in forest:
        expected += shapley(partial(expectation, tree, mode, row), WIDTH)
    base = 0.5 + sum(expectation(tree, mode, row, set()) for tree in forest)
    assert explainer.base == pytest.approx(base, abs=1e-12)
    assert explainer.contributions(row[np.newaxis])[0] == pytest.approx(expected, abs=1e-12)


@pytest.fixture(scope="module")
def data() -> tuple[Float32s, NDArray[np.int64]]:
    """Rows whose label depends on features alone and together; some values are repeated."""
    rng = np.random.default_rng(7)
    rows = rng.normal(size=(3000, 16)).astype(np.float32)
    rows[:, 3] = np.round(rows[:, 3])
    logit = rows[:, 0] + 2 * rows[:, 1] * (rows[:, 2] > 0) - rows[:, 3] - 2
    return rows, (rng.random(len(rows)) < 1 / (1 + np.exp(-logit))).astype(np.int64)


def lightgbm_model(data: tuple[Float32s, NDArray[np.int64]]) -> tuple[bytes, Any]:
    """Thirty trees, some of them deep, and what LightGBM says about the rows."""
    rows, labels = data
    options = {
        "objective": "binary", "num_leaves": 31, "min_data_in_leaf": 5, "num_threads": 1,
        "boost_from_average": False, "max_bin": 1023, "verbose": -1,
    }  # fmt: skip
    booster = lightgbm.train(options, lightgbm.Dataset(rows, labels), 30)
    model = trees.to_onnx(trees.from_lightgbm(booster), "test")
    return model, booster.predict(rows, pred_contrib=True)


def xgboost_model(data: tuple[Float32s, NDArray[np.int64]]) -> tuple[bytes, Any]:
    """Thirty trees of depth 4 on a base score, and what XGBoost says about the rows."""
    rows, labels = data
    options = {
        "objective": "binary:logistic", "max_depth": 4, "tree_method": "exact", "nthread": 1,
        "base_score": 0.25,
    }  # fmt: skip
    matrix = xgboost.DMatrix(rows, labels)
    booster = xgboost.train(options, matrix, 30)
    model = trees.to_onnx(trees.from_xgboost(booster), "test")
    return model, booster.predict(matrix, pred_contribs=True)


@pytest.mark.parametrize(
    ("make", "tolerance", "deep"),
    [
        pytest.param(lightgbm_model, 1e-6, 9, id="lightgbm"),
        pytest.param(xgboost_model, 1e-5, 4, id="xgboost"),
    ],
)
def test_trees_are_the_librarys_contributions(
    make: Callable[..., tuple[bytes, Any]],
    tolerance: float,
    deep: int,
    data: tuple[Float32s, NDArray[np.int64]],
) -> None:
    """LightGBM's pred_contrib (double) and XGBoost's pred_contribs (float32) are met, base too."""
    rows, _ = data
    model, expected = make(data)
    explainer = explainer_of(model, np.zeros(rows.shape[1], np.float32))
    assert isinstance(explainer, Trees)
    assert np.diff(explainer.ends).max() >= deep
    assert explainer.contributions(rows) == pytest.approx(expected[:, :-1], abs=tolerance)
    assert explainer.base == pytest.approx(expected[0, -1], abs=tolerance)
    assert explained(explainer, rows) == pytest.approx(raw_scores(model, rows), abs=1e-5)


def net_of(sizes: tuple[int, ...], *, twice: bool = False) -> tuple[bytes, Float32s, Float32s]:
    """A random net's model, a reference and rows, some of which reach the clip.

    If `twice`, every feature feeds two inputs; sizes[0] counts inputs.
    """
    rng = np.random.default_rng(3)

    def draw(*shape: int) -> Float32s:
        return rng.normal(size=shape).astype(np.float32)

    width = sizes[0] // 2 if twice else sizes[0]
    spread = np.tile(np.eye(width, dtype=np.float32), 2) if twice else None
    weights = [draw(*shape) / np.float32(shape[0] ** 0.5) for shape in pairwise((*sizes, 1))]
    biases = [draw(weight.shape[1]) for weight in weights]
    scale = np.abs(draw(sizes[0])) + 1
    net = export.Net(draw(sizes[0]), scale, 3.0, weights, biases, spread)
    return export.to_onnx(net, "test"), draw(width), 2 * draw(20, width)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("sizes", [(4,), (4, 3), (6, 8, 8), (24, 64, 64, 32)])
def test_nets_add_up_to_the_models_raw_score(sizes: tuple[int, ...], *, twice: bool) -> None:
    """Base and contributions are what ONNX Runtime computes before the sigmoid, at any depth."""
    model, reference, rows = net_of(sizes, twice=twice)
    explainer = explainer_of(model, reference)
    assert explained(explainer, rows) == pytest.approx(raw_scores(model, rows), abs=1e-5)
    assert explainer.base == pytest.approx(raw_scores(model, reference[np.newaxis])[0], abs=1e-5)
    assert not explainer.contributions(reference[np.newaxis]).any()


def test_nets_are_integrated_gradients() -> None:
    """Contributions are the integral, found here by many small steps with numeric gradients."""
    model, reference, rows = net_of((4, 6, 5))
    explainer = explainer_of(model, reference)
    assert isinstance(explainer, Net)
    start, steps, small = explainer._normalise(reference), 2000, 1e-7
    for row, found in zip(rows[:3], explainer.contributions(rows[:3]), strict=True):
        way = explainer._normalise(row) - start
        places = start + np.outer((np.arange(steps) + 0.5) / steps, way)
        slopes = [
            np.mean([explainer._logit(p + small * unit) - explainer._logit(p) for p in places])
            for unit in np.eye(4)
        ]
        assert found == pytest.approx(np.array(slopes) / small * way, abs=2e-3)


def test_logistic_regression_has_linear_terms() -> None:
    """Without a hidden layer, weight times what differs from the usual value."""
    model, reference, rows = net_of((4,))
    explainer = explainer_of(model, reference)
    assert isinstance(explainer, Net)
    differs = explainer._normalise(rows) - explainer._normalise(reference)
    terms = differs * explainer.weights[0][:, 0]
    assert explainer.contributions(rows) == pytest.approx(terms, abs=1e-12)


def small_trees() -> Trees | Net:
    """Two trees."""
    leaves = Node(1.0, -0.5), Node(3.0, 0.5)
    forest = [Node(4.0, 0.0, 1, 2.0, leaves), Node(4.0, 0.0, 4, 1.0, leaves)]
    return explainer_of(model_of(forest, LIGHTGBM), np.zeros(WIDTH, np.float32))


def small_net() -> Trees | Net:
    """A net of one hidden layer."""
    model, reference, _ = net_of((WIDTH, 4))
    return explainer_of(model, reference)


ENDS_OF_TWO = np.array([0, 2, 2, 3, 4], "i4")
BOTH = pytest.mark.parametrize("make", [small_trees, small_net])


@BOTH
def test_a_file_brings_the_explainer_back(make: Callable[[], Trees | Net]) -> None:
    """The same bytes from the same explainer, the same bits from what is read."""
    explainer = make()
    data = to_npz(explainer)
    rows = np.random.default_rng(1).normal(size=(9, WIDTH)).astype(np.float32)
    read = from_npz(data, WIDTH)
    assert to_npz(read) == to_npz(make()) == data
    assert read.base == explainer.base
    assert read.contributions(rows).tobytes() == explainer.contributions(rows).tobytes()


@BOTH
def test_a_row_is_explained_by_itself(make: Callable[[], Trees | Net]) -> None:
    """Each row's contributions are bit-equal alone and among others; no rows are none."""
    explainer = make()
    rows = np.random.default_rng(2).normal(size=(9, WIDTH)).astype(np.float32)
    alone = [explainer.contributions(row[np.newaxis])[0] for row in rows]
    assert np.array(alone).tobytes() == explainer.contributions(rows).tobytes()
    assert explainer.contributions(rows[:0]).shape == (0, WIDTH)


@BOTH
@pytest.mark.parametrize("rows", [np.zeros((2, 4), "f4"), np.zeros((2, 5)), np.zeros(5, "f4")])
def test_other_rows_are_refused(make: Callable[[], Trees | Net], rows: Any) -> None:
    """Another width, type or dimension never reaches the compiled loop."""
    with pytest.raises(ValueError, match="cannot read"):
        make().contributions(rows)


@BOTH
@given(cut=st.integers(0, 3000), flip=st.integers(0, 3000))
def test_a_damaged_file_is_refused(make: Callable[[], Trees | Net], cut: int, flip: int) -> None:
    """Cut short or with a byte changed, it is a ModelError or the same explainer."""
    data = to_npz(make())
    changed = bytearray(data)
    changed[flip % len(data)] ^= 0xFF
    with pytest.raises(ModelError):
        from_npz(data[: cut % len(data)], WIDTH)
    try:
        read = from_npz(bytes(changed), WIDTH)
    except ModelError:
        return
    assert to_npz(read) == data


def repacked(data: bytes, **changed: Any) -> bytes:
    """The file with other arrays; None takes one away."""
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file) | changed
    out = io.BytesIO()
    np.savez(out, **{name: array for name, array in arrays.items() if array is not None})
    return out.getvalue()


@pytest.mark.parametrize(
    ("make", "changed"),
    [
        (small_trees, {"feature": np.array([1, 1, 4, 5], "i4")}),
        (small_trees, {"feature": np.array([1, 1, 4, -1], "i4")}),
        (small_trees, {"feature": np.array([1, 1, 4, 4], "i8")}),
        (small_trees, {"feature": np.array([1, 1, 4], "i4")}),
        (small_trees, {"ends": np.array([0, 1, 2, 3, 9], "i4")}),
        (small_trees, {"ends": np.array([0, 3, 2, 3, 4], "i4")}),
        (small_trees, {"ends": np.array([], "i4")}),
        (small_trees, {"low": np.full(4, np.nan, "f4")}),
        (small_trees, {"share": np.full(4, np.inf)}),
        (small_trees, {"share": np.ones((4, 1))}),
        (small_trees, {"value": np.array([1, 1, 1, np.nan])}),
        (small_trees, {"value": np.array([{}] * 4)}),
        (small_trees, {"bias": np.inf}),
        (small_trees, {"width": 6}),
        (small_trees, {"width": 1, "feature": np.zeros(4, "i4"), "ends": ENDS_OF_TWO}),
        (small_trees, {"high": None}),
        (small_net, {"weight0": np.ones((5, 3))}),
        (small_net, {"weight1": None}),
        (small_net, {"weight2": np.ones((1, 1)), "bias2": None}),
        (small_net, {"weight1": np.ones((4, 2)), "bias1": np.ones(2)}),
        (small_net, {"bias0": np.ones((4, 1))}),
        (small_net, {"mean": np.zeros(4, "f4")}),
        (small_net, {"columns": np.array([0, 1, 2, 3, 5], "i4")}),
        (small_net, {"scale": np.full(5, np.nan, "f4")}),
        (small_net, {"limit": 0.0}),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    make: Callable[[], Trees | Net], changed: dict[str, Any]
) -> None:
    """Whatever would lead the compiled loop astray, or mean nothing, is a ModelError."""
    data = to_npz(make())
    assert to_npz(from_npz(repacked(data), WIDTH)) == data
    with pytest.raises(ModelError, match="explainer"):
        from_npz(repacked(data, **changed), WIDTH)


def test_another_file_is_refused() -> None:
    """No archive, a lone array, or the explainer of a model of another width."""
    lone = io.BytesIO()
    np.save(lone, np.zeros(3))
    for data, width in ((b"", WIDTH), (b"PK", WIDTH), (lone.getvalue(), WIDTH)):
        with pytest.raises(ModelError, match="cannot be read"):
            from_npz(data, width)
    with pytest.raises(ModelError, match="reads 5 features, the model 15"):
        from_npz(to_npz(small_trees()), 15)


def test_other_models_are_not_explained() -> None:
    """Trees whose covers are not known, and graphs that we did not write, are refused."""
    reference = np.zeros(WIDTH, np.float32)
    tree = Node(4.0, 0.0, 1, 2.0, (Node(0.0, -0.5), Node(4.0, 0.5)))
    with pytest.raises(ModelError, match="no cover"):
        explainer_of(model_of([tree], LIGHTGBM), reference)
    other = export.serialise([helper.make_node("Tanh", [INPUT], [export.RAW])], "test", 1, {})
    with pytest.raises(ModelError, match="no net"):
        explainer_of(other, reference)
