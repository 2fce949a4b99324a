"""Boosted trees as plain arrays, between LightGBM, XGBoost and ONNX.

`from_lightgbm` and `from_xgboost` read a fitted booster, `to_onnx` writes one TreeEnsembleRegressor
and a Sigmoid, `read_trees` takes the arrays back, and `joined` puts later rounds behind earlier
ones. Decisions are the library's own for every finite float32: LightGBM compares doubles by
x <= t, which holds for a float32 x where x <= the largest float32 up to t; XGBoost compares float32
by x < t. Leaves are summed in float32, in the order of the trees, whatever the batch. Each node's
cover (LightGBM: rows; XGBoost: sum of Hessians) is in nodes_hitrates, for exact contributions.
Same booster, same bytes. NaN and categories are no part of it; ModelError for what does not fit.
"""

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from app.errors import ModelError
from models.export import ML_DOMAIN, RAW, serialise
from models.manifest import INPUT

Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]
Mode = Literal["BRANCH_LEQ", "BRANCH_LT"]

LIGHTGBM: Mode = "BRANCH_LEQ"
XGBOOST: Mode = "BRANCH_LT"
LEAF = -1
ENSEMBLE = "TreeEnsembleRegressor"


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """n nodes of trees one after another; a tree's root is its first node.

    A row goes from node i to `yes[i]` where row[feature[i]] is up to (BRANCH_LEQ) or below
    (BRANCH_LT) `value[i]`, else to `no[i]`. A leaf has LEAF as feature and children, and adds its
    `value`. The raw score is `base` plus the trees' leaves. `roots` int64 (trees,), `feature`,
    `yes`, `no` int64 (n,), `value` and `cover` float32 (n,).
    """

    width: int
    mode: Mode
    base: float
    roots: Int64s
    feature: Int64s
    value: Float32s
    cover: Float32s
    yes: Int64s
    no: Int64s

    @property
    def tree(self) -> Int64s:
        """Each node's tree, int64 (n,)."""
        sizes = np.diff(self.roots, append=len(self.feature))
        return np.repeat(np.arange(len(self.roots)), sizes)

    def leaves(self, matrix: Float32s) -> Float32s:
        """What each tree adds to each row, float32 (n, trees)."""
        rows = np.arange(len(matrix))
        found = np.empty((len(matrix), len(self.roots)), np.float32)
        below = np.less_equal if self.mode == LIGHTGBM else np.less
        for k, root in enumerate(self.roots):
            at = np.full(len(matrix), root)
            while (branch := self.feature[at] != LEAF).any():
                yes = below(matrix[rows, self.feature[at]], self.value[at])
                at = np.where(branch, np.where(yes, self.yes[at], self.no[at]), at)
            found[:, k] = self.value[at]
        return found


@dataclass(frozen=True, slots=True)
class _Node:
    """A node on its way into the arrays; `feature` LEAF, or the children follow."""

    feature: int
    value: float
    cover: float
    children: tuple["_Node", ...] = ()


def from_lightgbm(booster: Any) -> Trees:
    """The trees of a LightGBM booster with one raw score."""
    dump = booster.dump_model()
    roots = [_of_lightgbm(tree["tree_structure"]) for tree in dump["tree_info"]]
    return _flatten(roots, dump["max_feature_idx"] + 1, LIGHTGBM, 0.0)


def from_xgboost(booster: Any) -> Trees:
    """The trees of an XGBoost booster for binary:logistic."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    trees = learner["gradient_booster"]["model"]["trees"]
    shape = learner["learner_model_param"]
    share = float(shape["base_score"].strip("[]"))
    base = math.log(share / (1 - share))
    roots = [_of_xgboost(tree, 0) for tree in trees]
    return _flatten(roots, int(shape["num_feature"]), XGBOOST, base)


def joined(old: Trees, new: Trees) -> Trees:
    """The trees of both, the new ones last; the new ones were fitted on the old ones' raw score."""
    if (old.width, old.mode) != (new.width, new.mode):
        msg = f"{new.width} features, {new.mode} cannot continue {old.width} features, {old.mode}"
        raise ModelError(msg)
    n = len(old.feature)

    def moved(ids: Int64s) -> Int64s:
        return np.where(ids == LEAF, LEAF, ids + n)

    return Trees(
        old.width,
        old.mode,
        old.base,
        roots=np.concatenate([old.roots, new.roots + n]),
        feature=np.concatenate([old.feature, new.feature]),
        value=np.concatenate([old.value, new.value]),
        cover=np.concatenate([old.cover, new.cover]),
        yes=np.concatenate([old.yes, moved(new.yes)]),
        no=np.concatenate([old.no, moved(new.no)]),
    )


def to_onnx(trees: Trees, name: str) -> bytes:
    """The trees as a checked ONNX model, serialised."""
    tree, leaf = trees.tree, trees.feature == LEAF
    first = trees.roots[tree]
    node = helper.make_node(
        ENSEMBLE,
        [INPUT],
        [RAW],
        domain=ML_DOMAIN,
        n_targets=1,
        aggregate_function="SUM",
        base_values=[trees.base],
        nodes_treeids=tree.tolist(),
        nodes_nodeids=(np.arange(len(tree)) - first).tolist(),
        nodes_featureids=np.where(leaf, 0, trees.feature).tolist(),
        nodes_modes=["LEAF" if end else trees.mode for end in leaf],
        nodes_values=np.where(leaf, 0, trees.value).tolist(),
        nodes_truenodeids=np.where(leaf, 0, trees.yes - first).tolist(),
        nodes_falsenodeids=np.where(leaf, 0, trees.no - first).tolist(),
        nodes_hitrates=trees.cover.tolist(),
        target_treeids=tree[leaf].tolist(),
        target_nodeids=(np.arange(len(tree)) - first)[leaf].tolist(),
        target_ids=[0] * int(leaf.sum()),
        target_weights=trees.value[leaf].tolist(),
    )
    return serialise([node], name, trees.width, {})


def read_trees(model: bytes) -> Trees:
    """The trees of a model that `to_onnx` made; raises ModelError for another."""
    graph = onnx.load_from_string(model).graph
    if graph.node[0].op_type != ENSEMBLE:
        msg = f"the model is no ensemble of trees: its graph begins with {graph.node[0].op_type}"
        raise ModelError(msg)
    held = {a.name: helper.get_attribute_value(a) for a in graph.node[0].attribute}
    ids = np.array(held["nodes_nodeids"], np.int64)
    leaf = np.array([mode == b"LEAF" for mode in held["nodes_modes"]])
    modes = {mode.decode() for mode in held["nodes_modes"]} - {"LEAF"}
    if len(modes) > 1:
        msg = f"the model's trees branch in several ways: {', '.join(sorted(modes))}"
        raise ModelError(msg)
    first = np.arange(len(ids)) - ids
    value = np.array(held["nodes_values"], np.float32)
    value[leaf] = held["target_weights"]
    return Trees(
        width=graph.input[0].type.tensor_type.shape.dim[1].dim_value,
        mode=XGBOOST if modes == {XGBOOST} else LIGHTGBM,
        base=held["base_values"][0],
        roots=np.flatnonzero(ids == 0),
        feature=np.where(leaf, LEAF, held["nodes_featureids"]),
        value=value,
        cover=np.array(held["nodes_hitrates"], np.float32),
        yes=np.where(leaf, LEAF, np.array(held["nodes_truenodeids"]) + first),
        no=np.where(leaf, LEAF, np.array(held["nodes_falsenodeids"]) + first),
    )


def float32_below(value: float) -> np.float32:
    """The largest float32 up to a double: x <= value and x <= this are one for a float32 x."""
    with np.errstate(over="ignore"):
        nearest = np.float32(value)
    # As doubles: beside a float32, NumPy would round the Python float first.
    return nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-np.inf))


def _of_lightgbm(node: dict[str, Any]) -> _Node:
    if "leaf_value" in node:  # a tree of one leaf has no count
        return _Node(LEAF, node["leaf_value"], node.get("leaf_count", 1))
    if node["decision_type"] != "<=":
        msg = f"a LightGBM tree branches by {node['decision_type']}: categories are not supported"
        raise ModelError(msg)
    children = (_of_lightgbm(node["left_child"]), _of_lightgbm(node["right_child"]))
    threshold = float(float32_below(node["threshold"]))
    return _Node(node["split_feature"], threshold, node["internal_count"], children)


def _of_xgboost(tree: dict[str, Any], i: int) -> _Node:
    value, cover = tree["split_conditions"][i], tree["sum_hessian"][i]
    if tree["left_children"][i] == LEAF:
        return _Node(LEAF, value, cover)
    children = tuple(_of_xgboost(tree, tree[f"{side}_children"][i]) for side in ("left", "right"))
    return _Node(tree["split_indices"][i], value, cover, children)


def _flatten(roots: list[_Node], width: int, mode: Mode, base: float) -> Trees:
    rows: list[tuple[float, ...]] = []
    starts = [_place(root, rows) for root in roots]
    feature, value, cover, yes, no = zip(*rows, strict=True)
    return Trees(
        width,
        mode,
        base,
        roots=np.array(starts, np.int64),
        feature=np.array(feature, np.int64),
        value=np.array(value, np.float32),
        cover=np.array(cover, np.float32),
        yes=np.array(yes, np.int64),
        no=np.array(no, np.int64),
    )


def _place(node: _Node, rows: list[tuple[float, ...]]) -> int:
    """Append a node, then what is below it; returns the node's place."""
    at = len(rows)
    rows.append(())
    children = [_place(child, rows) for child in node.children] or [LEAF, LEAF]
    rows[at] = (node.feature, node.value, node.cover, *children)
    return at
