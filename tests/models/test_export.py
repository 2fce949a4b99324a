"""Models as files: a row's bits do not depend on its batch, and the graph holds the whole model."""

import json
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from app.errors import ModelError
from models import trees
from models.export import RAW, read_net, to_onnx
from models.fit import Fitted, Scores, fit
from models.manifest import INPUT, OUTPUT
from tests.models.frauds import WIDTH, rows

BATCH_MAX = 2048
MODELS = {
    "logistic": ("logistic", {}),
    "standardised": ("logistic", {"bins": 0}),
    "mlp": ("mlp", {}),
    "lightgbm": ("lightgbm", {}),
    "xgboost": ("xgboost", {"base_score": 0.02}),
}
TREES = ("lightgbm", "xgboost")


@pytest.fixture(scope="module")
def models() -> dict[str, Fitted]:
    """One of each kind of graph."""
    made: dict[str, Any] = {}
    for name, (family, params) in MODELS.items():
        made[name] = fit(family, *rows(0, 8000), seed=1, params=params)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("name", MODELS)
def test_a_row_scores_the_same_bits_in_every_batch(models: dict[str, Fitted], name: str) -> None:
    """For every batch size from 1 to 2048, at the front and at the back, no score changes a bit."""
    scores = Scores(models[name].onnx)
    matrix, _ = rows(1, BATCH_MAX)
    whole = scores(matrix).view(np.uint32)
    for n in range(1, BATCH_MAX + 1):
        assert np.array_equal(scores(matrix[:n]).view(np.uint32), whole[:n]), n
        assert np.array_equal(scores(matrix[-n:]).view(np.uint32), whole[-n:]), n


@pytest.mark.parametrize("name", MODELS)
def test_the_graph_has_the_agreed_ends(models: dict[str, Fitted], name: str) -> None:
    """float32[batch, features] in; score and raw, float32[batch, 1], out."""
    graph = onnx.load_from_string(models[name].onnx).graph
    shapes = {
        end.name: [d.dim_param or d.dim_value for d in end.type.tensor_type.shape.dim]
        for end in (*graph.input, *graph.output)
    }
    assert shapes == {INPUT: ["batch", WIDTH], OUTPUT: ["batch", 1], RAW: ["batch", 1]}


@pytest.mark.parametrize("name", ["logistic", "standardised", "mlp"])
def test_a_net_comes_back_out_of_its_graph(models: dict[str, Fitted], name: str) -> None:
    """What is read from the bytes makes the same bytes."""
    model = models[name].onnx
    assert to_onnx(read_net(model), models[name].family) == model


@pytest.mark.parametrize("name", TREES)
def test_trees_come_back_out_of_their_graph(models: dict[str, Fitted], name: str) -> None:
    """What is read from the bytes makes the same bytes, and decides as ONNX Runtime does."""
    model = models[name].onnx
    read = trees.read_trees(model)
    assert trees.to_onnx(read, name) == model
    matrix, _ = rows(2, 3000)
    sums = read.base + read.leaves(matrix).sum(axis=1, dtype=np.float64)
    assert np.abs(sums - Scores(model).raw(matrix)).max() < 1e-5


@pytest.mark.parametrize("name", TREES)
def test_one_is_not_taken_for_the_other(models: dict[str, Fitted], name: str) -> None:
    """A net is no ensemble, an ensemble no net, and one library's trees no end of the other's."""
    with pytest.raises(ModelError, match="no net"):
        read_net(models[name].onnx)
    with pytest.raises(ModelError, match="no ensemble"):
        trees.read_trees(models["mlp"].onnx)
    with pytest.raises(ModelError, match="cannot continue"):
        trees.joined(*(trees.read_trees(models[name].onnx) for name in TREES))


@pytest.mark.parametrize("name", TREES)
def test_covers_are_the_librarys_and_add_up(models: dict[str, Fitted], name: str) -> None:
    """A node is covered by what covers its children; a root of LightGBM's by every row."""
    read = trees.read_trees(models[name].onnx)
    branch = read.feature != trees.LEAF
    below = read.cover[read.yes[branch]] + read.cover[read.no[branch]]
    assert np.allclose(read.cover[branch], below, rtol=1e-3)
    assert (read.cover > 0).all()
    if name == "lightgbm":
        assert (read.cover[read.roots] == 8000).all()


def test_each_leaf_is_reached_as_in_lightgbm() -> None:
    """Rows on every threshold and one float32 beside it take the library's own way."""
    matrix, fraud = rows(3, 4000)
    booster = lightgbm.train(
        {"verbosity": -1, "max_bin": 4095, "min_data_in_leaf": 1, "num_threads": 1},
        lightgbm.Dataset(matrix, fraud),
        30,
    )
    read = trees.from_lightgbm(booster)
    assert_leaves(read, lambda x: booster.predict(x, pred_leaf=True), _leaves_of_lightgbm(booster))


def test_each_leaf_is_reached_as_in_xgboost() -> None:
    """The same, where x < t decides."""
    matrix, fraud = rows(3, 4000)
    params = {"objective": "binary:logistic", "tree_method": "exact", "gamma": 0.5, "nthread": 1}
    booster = xgboost.train(params, xgboost.DMatrix(matrix, fraud), 30)
    read = trees.from_xgboost(booster)
    dump = json.loads(booster.save_raw("json"))["learner"]["gradient_booster"]["model"]["trees"]
    assert_leaves(
        read,
        lambda x: booster.predict(xgboost.DMatrix(x), pred_leaf=True),
        [tree["split_conditions"] for tree in dump],
    )


def assert_leaves(read: trees.Trees, leaf_of: Any, values: list[list[float]]) -> None:
    """Compare trees with a library's leaves, on rows at all thresholds of all features."""
    branch = read.feature != trees.LEAF
    feature, limit = read.feature[branch], read.value[branch]
    beside = [np.nextafter(limit, np.float32(end)) for end in (-np.inf, np.inf)]
    probes = np.repeat(rows(4, len(limit))[0], 3, axis=0)
    probes[np.arange(len(probes)), np.repeat(feature, 3)] = np.column_stack(
        [limit, *beside]
    ).ravel()
    leaves = leaf_of(probes).astype(int)
    native = np.column_stack([np.array(tree)[leaves[:, k]] for k, tree in enumerate(values)])
    assert np.array_equal(read.leaves(probes), native.astype(np.float32))


def _leaves_of_lightgbm(booster: Any) -> list[list[float]]:
    counts = [tree["num_leaves"] for tree in booster.dump_model()["tree_info"]]
    return [[booster.get_leaf_output(k, i) for i in range(n)] for k, n in enumerate(counts)]


@given(st.floats(allow_nan=False), st.floats(allow_nan=False, width=32))
def test_a_threshold_rounded_down_decides_alike(threshold: float, value: float) -> None:
    """For a float32 x, x <= t holds in doubles as x <= float32_below(t) does in float32."""
    rounded = trees.float32_below(threshold)
    with np.errstate(over="ignore"):
        beside = np.nextafter(rounded, np.float32(np.inf))
    for x in (np.float32(value), rounded, beside):
        assert (float(x) <= threshold) == (x <= rounded)


def test_a_tree_of_one_leaf_is_a_tree() -> None:
    """Rows without a fraud leave nothing to split: the model still has a score for each row."""
    matrix, fraud = rows(5, 300)
    for family in ("lightgbm", "xgboost"):
        fitted = fit(family, matrix, np.zeros_like(fraud), 0, {"rounds": 3})
        assert len(np.unique(Scores(fitted.onnx)(matrix))) == 1


def test_categories_are_refused() -> None:
    """A LightGBM tree that branches by category is not exported wrongly."""
    matrix, fraud = rows(6, 2000)
    data = lightgbm.Dataset(matrix, fraud, categorical_feature=[3, 4])
    booster = lightgbm.train({"verbosity": -1, "min_data_per_group": 1, "num_threads": 1}, data, 20)
    with pytest.raises(ModelError, match="categories"):
        trees.from_lightgbm(booster)


def test_trees_that_branch_in_two_ways_are_refused(models: dict[str, Fitted]) -> None:
    """One mode for all branches, or the file is not ours."""
    model = onnx.load_from_string(models["xgboost"].onnx)
    modes = next(a for a in model.graph.node[0].attribute if a.name == "nodes_modes")
    strange = [b"BRANCH_LEQ", *helper.get_attribute_value(modes)[1:]]
    modes.CopyFrom(helper.make_attribute("nodes_modes", strange))
    with pytest.raises(ModelError, match="several ways"):
        trees.read_trees(model.SerializeToString())
