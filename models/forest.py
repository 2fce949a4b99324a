"""An ensemble of trees out of its ONNX graph, run by a compiled loop: the same bits as the session.

`read` takes a TreeEnsembleRegressor apart without the `onnx` package; a graph of another form gives
None. Every tree is made perfect: 2^depth - 1 nodes of which each has a feature and a limit, then
its leaves. The loop carries ROWS rows through a tree at once, from the leaves up: each node chooses
between its two children for all of them, without branches, so that LLVM makes vector instructions.
Sums are float32 in the order of the trees, as ONNX Runtime's are. `tail` is the graph's rest, from
the raw scores on, as a model of its own. Pure: NumPy and Numba.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled

Float32s = NDArray[np.float32]
Int32s = NDArray[np.int32]

DEPTH_MAX = 6
"""With more, walking down is faster than choosing up."""
ROWS = 64
ENSEMBLE, SUM = b"TreeEnsembleRegressor", b"SUM"
LEQ, LT, LEAF = b"BRANCH_LEQ", b"BRANCH_LT", b"LEAF"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
# Numbers of fields in onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 11, 12
_NODE_OUTPUT, _NODE_KIND, _NODE_ATTRIBUTE = 2, 4, 5
_NAME, _FLOAT, _INT, _STRING, _FLOATS, _INTS, _STRINGS = 1, 2, 3, 4, 7, 8, 9


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Perfect trees of one depth, t of them.

    `feature` int32 and `limit` float32 are (t, 2^depth - 1), `leaf` float32 (t, 2^depth). A row
    goes left where its feature is at most the limit; `base` is added last.
    """

    feature: Int32s
    limit: Float32s
    leaf: Float32s
    base: np.float32
    tail: bytes
    """The ONNX model that makes the graph's outputs of the raw scores."""

    def raw(self, rows: Float32s) -> Float32s:
        """The raw score of each row, float32 (n,), of C-contiguous float32 rows (n, F)."""
        n, width = rows.shape
        out = np.empty(n, np.float32)
        columns = np.empty((width, ROWS), np.float32)
        values = np.empty((self.leaf.shape[1], ROWS), np.float32)
        _run(rows, self.feature, self.limit, self.leaf, self.base, columns, values, out)
        return out


@compiled
def _run(
    rows: Float32s, feature: Int32s, limit: Float32s, leaf: Float32s, base: np.float32,
    columns: Float32s, values: Float32s, out: Float32s,
) -> None:  # fmt: skip
    nodes = feature.shape[1]
    first_pair = nodes // 2  # the first node whose children are leaves
    for begin in range(0, len(rows), ROWS):
        n = min(ROWS, len(rows) - begin)
        for j in range(n):
            for k in range(rows.shape[1]):
                columns[k, j] = rows[begin + j, k]
        for j in range(ROWS):
            values[nodes, j] = np.float32(0)
        # No views of rows below: with them LLVM makes branches, three times as slow.
        for t in range(len(feature)):
            for k in range(first_pair, nodes):
                c, bound = feature[t, k], limit[t, k]
                left, right = leaf[t, 2 * k + 1 - nodes], leaf[t, 2 * k + 2 - nodes]
                for j in range(ROWS):
                    values[k, j] = left if columns[c, j] <= bound else right
            for k in range(first_pair - 1, -1, -1):
                c, bound = feature[t, k], limit[t, k]
                for j in range(ROWS):
                    below, above = values[2 * k + 1, j], values[2 * k + 2, j]
                    values[k, j] = below if columns[c, j] <= bound else above
            for j in range(ROWS):
                values[nodes, j] += values[0, j]
        for j in range(n):
            out[begin + j] = values[nodes, j] + base


class _Node(NamedTuple):
    feature: int
    limit: np.float32
    yes: int
    no: int
    is_leaf: bool


def read(model: bytes) -> Forest | None:
    """The trees of an ONNX model; None where it is none of trees alone, or they are too deep."""
    try:
        graph = _one(model, _MODEL_GRAPH)
        nodes = [bytes(raw) for number, raw in _fields(graph) if number == _GRAPH_NODE]
        ensemble = next(n for n in nodes if _one(n, _NODE_KIND) == ENSEMBLE)
        found = _attributes(ensemble)
        leaves = _leaves(found)
        trees = _trees(found)
        depth = max(_depth(tree, 0) for tree in trees.values())
        if found["aggregate_function"] != [SUM] or found["n_targets"] != [1] or not depth:
            return None
        if depth > DEPTH_MAX:
            return None
        rows = [_perfect(tree, leaves[key], depth) for key, tree in sorted(trees.items())]
    except (StopIteration, KeyError, IndexError, ValueError, TypeError):
        return None
    feature, limit, leaf = zip(*rows, strict=True)
    base = np.float32(found.get("base_values", [0.0])[0])
    return Forest(
        np.array(feature, np.int32), np.array(limit, np.float32), np.array(leaf, np.float32), base,
        _tail(model, graph, ensemble),
    )  # fmt: skip


def _trees(found: dict[str, list[Any]]) -> dict[int, list[_Node]]:
    """The nodes of each tree, by tree and node id; ValueError for what is no such tree."""
    trees: dict[int, dict[int, _Node]] = {}
    columns = (
        found[f"nodes_{name}"]
        for name in ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids",
                     "falsenodeids")
    )  # fmt: skip
    for tree, node, mode, feature, limit, yes, no in zip(*columns, strict=True):
        bound = np.float32(limit)
        if mode == LT:
            bound = np.nextafter(bound, np.float32(-np.inf))
        elif mode not in (LEQ, LEAF):
            raise ValueError(mode)
        trees.setdefault(tree, {})[node] = _Node(feature, bound, yes, no, mode == LEAF)
    return {tree: [nodes[i] for i in range(len(nodes))] for tree, nodes in trees.items()}


def _leaves(found: dict[str, list[Any]]) -> dict[int, dict[int, np.float32]]:
    """What each leaf adds, by tree and node id."""
    leaves: dict[int, dict[int, np.float32]] = {}
    columns = (found[f"target_{name}"] for name in ("treeids", "nodeids", "weights"))
    for tree, node, weight in zip(*columns, strict=True):
        leaves.setdefault(tree, {})[node] = np.float32(weight)
    return leaves


def _depth(tree: list[_Node], at: int) -> int:
    node = tree[at]
    return 0 if node.is_leaf else 1 + max(_depth(tree, node.yes), _depth(tree, node.no))


def _perfect(
    tree: list[_Node], leaves: dict[int, np.float32], depth: int
) -> tuple[list[int], list[np.float32], list[np.float32]]:
    """A tree with all its leaves at one depth: where one is higher, both ways lead to it."""
    level, feature, limit = [0], list[int](), list[np.float32]()
    for _ in range(depth):
        below = []
        for at in level:
            node = tree[at]
            feature.append(0 if node.is_leaf else node.feature)
            limit.append(np.float32(np.inf) if node.is_leaf else node.limit)
            below += [at, at] if node.is_leaf else [node.yes, node.no]
        level = below
    return feature, limit, [leaves[at] for at in level]


def _tail(model: bytes, graph: bytes, ensemble: bytes) -> bytes:
    """The model without its trees: what they give is its input."""
    raw = _one(ensemble, _NODE_OUTPUT)
    parts = []
    for number, value in _fields(graph):
        if (number, value) == (_GRAPH_NODE, ensemble) or number == _GRAPH_INPUT:
            continue
        parts.append(_field(number, value))
        if number == _GRAPH_OUTPUT and _one(value, 1) == raw:
            parts.append(_field(_GRAPH_INPUT, value))
    whole = b"".join(parts)
    return b"".join(
        _field(number, whole if number == _MODEL_GRAPH else value)
        for number, value in _fields(model)
    )


def _attributes(node: bytes) -> dict[str, list[Any]]:
    """The attributes of a node by name, each as a list."""
    found: dict[str, list[Any]] = {}
    for number, raw in _fields(node):
        if number == _NODE_ATTRIBUTE:
            found[_one(raw, _NAME).decode()] = list(_values(raw))
    return found


def _values(attribute: bytes) -> Iterator[Any]:
    for number, value in _fields(attribute):
        if number in (_FLOAT, _FLOATS):
            yield from np.frombuffer(value, "<f4").tolist()
        elif number in (_INT, _INTS):
            yield from [value] if isinstance(value, int) else _packed(value)
        elif number in (_STRING, _STRINGS):
            yield value


def _packed(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        number, at = _varint(data, at)
        yield number


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protobuf message: an int, or the bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {_FIXED32: 4, _FIXED64: 8}.get(kind)
        if size is None:
            size, at = _varint(data, at)
        yield key >> 3, data[at : at + size]
        at += size


def _field(number: int, value: int | bytes) -> bytes:
    """A varint or length-delimited field as bytes; no other kind stands in a model or a graph."""
    if isinstance(value, int):
        return _as_varint(number << 3 | _VARINT) + _as_varint(value)
    return _as_varint(number << 3 | _BYTES) + _as_varint(len(value)) + value


def _one(data: bytes, number: int) -> bytes:
    """The first field of a number; StopIteration where there is none."""
    value: bytes = next(value for found, value in _fields(data) if found == number)
    return value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def _as_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
