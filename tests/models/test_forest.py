"""Compiled trees against the session on the same model: the same bits, or none at all."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adapters import onnx as adapter
from app.adapters.onnx import CPU, CompiledTrees, load_scorer, open_session, run
from models import export, forest
from models.manifest import read
from models.trees import LIGHTGBM, XGBOOST, Mode
from tests.models.test_explain import WIDTH, Node, model_of, raw_scores, tree_of


@given(
    st.lists(tree_of(), min_size=1, max_size=40),
    st.sampled_from((LIGHTGBM, XGBOOST)),
    st.sampled_from((0.0, -1.25, 0.1)),
    st.sampled_from((1, forest.ROWS - 1, forest.ROWS, 3 * forest.ROWS + 5)),
    st.integers(0, 99),
)
def test_raw_scores_are_the_sessions_bits(
    trees: list[Node], mode: Mode, base: float, n: int, seed: int
) -> None:
    """Whatever the trees, the batch, and rows that are just at a limit.

    Leaves that do not add up exactly show the order of the sum.
    """
    random = np.random.default_rng(seed)
    trees = [_with_leaves(tree, random) for tree in trees]
    model = model_of(trees, mode, base)
    found = forest.read(model)
    if all(tree.branches is None for tree in trees):
        assert found is None
        return
    assert found is not None
    rows = random.integers(-1, 6, (n, WIDTH)).astype(np.float32)
    raw = found.raw(rows)
    assert raw.tobytes() == raw_scores(model, rows).tobytes()
    session, tail = open_session(model, CPU)[0], open_session(found.tail, CPU)[0]
    assert CompiledTrees(found, tail).score_many(rows).tobytes() == run(session, rows).tobytes()


def _with_leaves(node: Node, random: np.random.Generator) -> Node:
    if node.branches is None:
        return dataclasses.replace(node, value=float(random.normal()))
    first, second = (_with_leaves(branch, random) for branch in node.branches)
    return dataclasses.replace(node, branches=(first, second))


def test_what_is_no_forest_is_left_to_the_session() -> None:
    """Trees that are too deep, a net, and bytes that are no model."""
    tree = Node(1.0, 0.5)
    for k in range(forest.DEPTH_MAX + 1):
        assert (forest.read(model_of([tree], LIGHTGBM)) is None) == (k == 0)
        tree = Node(tree.cover + 1, 0.0, 0, float(k), (tree, Node(1.0, 0.25)))
    assert forest.read(model_of([tree], LIGHTGBM)) is None
    ones = np.ones(WIDTH, np.float32)
    net = export.Net(ones, ones, 5.0, [ones[:, np.newaxis]], [ones[:1]])
    assert forest.read(export.to_onnx(net, "net")) is None
    assert forest.read(b"no model") is None


def test_the_shipped_model_is_run_compiled() -> None:
    """And gives what its session gives, at the rows of all batch sizes."""
    scorer, artefact = load_scorer(None, CPU), read()
    assert scorer._trees is not None
    session, _ = open_session(artefact.model, CPU)
    random = np.random.default_rng(1)
    usual = artefact.manifest.reference_vector
    rows = (usual * random.lognormal(0, 2, (300, len(usual)))).astype(np.float32)
    for n in (1, 15, 16, 17, 300):
        assert scorer.score_many(rows[:n]).tobytes() == run(session, rows[:n]).tobytes()


def test_trees_that_would_score_otherwise_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ONNX Runtime may add up in another order: then its own session scores."""
    real = forest.read

    def damaged(model: bytes) -> forest.Forest | None:
        found = real(model)
        assert found is not None
        return dataclasses.replace(found, limit=np.nextafter(found.limit, np.float32(0)))

    monkeypatch.setattr(adapter, "read_forest", damaged)
    assert load_scorer(None, CPU)._trees is None
