"""The explainer of a model, made from the model's own bytes: what scores is what is explained.

Knows the models that `models.trees` and `models.export` write; another is a ModelError. Needs the
`onnx` package of the `train` extra; serving reads the explainer's file without it.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray

from app.errors import ModelError
from models import export, trees
from models.explain import TREE_ARRAYS, Net, Trees

Float32s = NDArray[np.float32]
Bounds = tuple[np.float32, np.float32, float]
"""On a leaf's path: a feature's least value, its first value too high, its share of the covers."""

EVERYTHING: Bounds = (np.float32(-np.inf), np.float32(np.inf), 1.0)


def explainer_of(model: bytes, reference: Float32s) -> Trees | Net:
    """The explainer of an ONNX model.

    `reference` float32 (F,) is each feature's usual value: where the way of a net's integrated
    gradients starts; trees do without it. Raises ModelError for a model that we did not write.
    """
    kinds = {node.op_type for node in onnx.load_from_string(model).graph.node}
    if trees.ENSEMBLE in kinds:
        return of_trees(trees.read_trees(model))
    return of_net(export.read_net(model), reference)


def of_net(net: export.Net, reference: Float32s) -> Net:
    """The explainer of a net, from the reference float32 (F,)."""
    once = np.arange(net.width)
    columns = once if net.spread is None else net.spread.argmax(axis=0)
    return Net(
        columns.astype(np.int32),
        net.mean,
        net.scale,
        net.limit,
        tuple(weight.astype(np.float64) for weight in net.weights),
        tuple(bias.astype(np.float64) for bias in net.biases),
        reference,
    )


def of_trees(forest: trees.Trees) -> Trees:
    """The explainer of trees; raises ModelError where a node has no cover."""
    if not (forest.cover > 0).all():
        msg = "the model cannot be explained: a node of its trees has no cover"
        raise ModelError(msg)
    leaves = list(_leaves(forest))
    entries = [(feature, *bounds) for path, _ in leaves for feature, bounds in path.items()]
    feature, low, high, share = zip(*entries, strict=True) if entries else ((), (), (), ())
    columns = {
        "ends": np.cumsum([0, *(len(path) for path, _ in leaves)]),
        "feature": feature, "low": low, "high": high, "share": share,
        "value": [value for _, value in leaves],
    }  # fmt: skip
    typed = {name: np.array(columns[name], dtype) for name, dtype in TREE_ARRAYS.items()}
    return Trees(forest.width, float(np.float32(forest.base)), **typed)


def _leaves(forest: trees.Trees) -> Iterator[tuple[dict[int, Bounds], float]]:
    """Each leaf: the bounds that its path sets, and its value."""
    feature, cover = forest.feature.tolist(), forest.cover.astype(np.float64).tolist()
    first_other = forest.value  # the first float32 that goes the other way
    if forest.mode == trees.LIGHTGBM:
        first_other = np.nextafter(forest.value, np.float32(np.inf))
    waiting: list[tuple[int, dict[int, Bounds]]] = [(root, {}) for root in forest.roots.tolist()]
    while waiting:
        i, path = waiting.pop()
        if feature[i] == trees.LEAF:
            yield path, float(forest.value[i])
            continue
        low, high, share = path.get(feature[i], EVERYTHING)
        yes, no = int(forest.yes[i]), int(forest.no[i])
        below, rest = (low, min(high, first_other[i])), (max(low, first_other[i]), high)
        for child, (least, above) in ((yes, below), (no, rest)):
            part = share * cover[child] / cover[i]
            waiting.append((child, {**path, feature[i]: (least, above, part)}))
