"""Exact reasons: what each feature of a row adds to the model's raw score, in log-odds.

`Trees` gives the Shapley values of a tree ensemble under its own covers (what LightGBM calls
`pred_contrib`), `Net` the integrated gradients of a piecewise linear net from a reference row,
which for a net without hidden layers (logistic regression) are its linear terms. Both are exact,
not sampled: `base` plus a row's contributions is the raw score, up to the rounding of the model's
own float32. Both take finite float32 rows (k, F) and give float64 (k, F); rows of another kind are
a ValueError. `to_npz` and `from_npz` carry an explainer beside its model; damage is a ModelError.
Same input, same result, whatever the other rows. NumPy and Numba only: made by
`models.explain_onnx`, which needs the `train` extra, and read without it.
"""

import io
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from app.errors import ModelError

Bools = NDArray[np.bool_]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]

TREE_ARRAYS = {
    "ends": "i4", "feature": "i4", "low": "f4", "high": "f4", "share": "f8", "value": "f8",
}  # fmt: skip
NET_ARRAYS = {"columns": "i4", "mean": "f4", "scale": "f4", "reference": "f4"}


ROWS = 8
TABLE_MAX = 1 << 21
"""Numbers in a table of gains at most, 8 bytes each; gains of more are computed each time."""


@njit(nogil=True, inline="always")
def _gains(
    held: Bools, share: Float64s, value: float, points: Float64s, weights: Float64s,
    before: Float64s, gains: Float64s,
) -> None:  # fmt: skip
    """What the features on a leaf's path add where `held` says which of them the row fits."""
    size = len(share)
    n = (size + 1) // 2
    gains[:size] = 0.0
    for q in range(n):
        known, unknown = points[n, q], 1.0 - points[n, q]
        # The product of all factors but one: those before it, then those after it.
        product = weights[n, q] * value
        for j in range(size):
            before[j] = product
            product *= share[j] * unknown + (known if held[j] else 0.0)
        after = 1.0
        for j in range(size - 1, -1, -1):
            gains[j] += ((1.0 if held[j] else 0.0) - share[j]) * before[j] * after
            after *= share[j] * unknown + (known if held[j] else 0.0)


@njit(nogil=True, cache=True)
def _tabulate(
    ends: Int32s, share: Float64s, value: Float64s, points: Float64s, weights: Float64s,
    places: Int64s, table: Float64s,
) -> None:  # fmt: skip
    """The gains of every leaf for every set of features held, from `places` of the leaf on."""
    for leaf in range(len(value)):
        shares = share[ends[leaf] : ends[leaf + 1]]
        size = len(shares)
        held, before = np.empty(size, np.bool_), np.empty(size)
        for mask in range(1 << size):
            for j in range(size):
                held[j] = mask >> j & 1
            at = places[leaf] + mask * size
            _gains(held, shares, value[leaf], points, weights, before, table[at : at + size])


@njit(nogil=True, cache=True)
def _look_up(
    rows: Float32s, ends: Int32s, feature: Int32s, low: Float32s, high: Float32s, places: Int64s,
    table: Float64s, out: Float64s,
) -> None:  # fmt: skip
    """ROWS at a time, column by column, so that as many as fit a vector are compared at once."""
    columns, sums = np.zeros((rows.shape[1], ROWS), np.float32), np.zeros((rows.shape[1], ROWS))
    at = np.zeros(ROWS, np.int64)
    for begin in range(0, len(rows), ROWS):
        n = min(ROWS, len(rows) - begin)
        for i in range(n):
            for k in range(rows.shape[1]):
                columns[k, i], sums[k, i] = rows[begin + i, k], 0.0
        for leaf in range(len(places)):
            start, size = ends[leaf], ends[leaf + 1] - ends[leaf]
            at[:] = places[leaf]
            for j in range(size):
                k, least, above = feature[start + j], low[start + j], high[start + j]
                for i in range(ROWS):
                    fits = (least <= columns[k, i]) & (columns[k, i] < above)
                    at[i] += size * (np.int64(fits) << j)
            for j in range(size):
                k = feature[start + j]
                for i in range(ROWS):
                    sums[k, i] += table[at[i] + j]
        for i in range(n):
            for k in range(rows.shape[1]):
                out[begin + i, k] = sums[k, i]


@njit(nogil=True, cache=True)
def _contribute(
    rows: Float32s, ends: Int32s, feature: Int32s, low: Float32s, high: Float32s, share: Float64s,
    value: Float64s, points: Float64s, weights: Float64s, out: Float64s,
) -> None:  # fmt: skip
    longest = 2 * len(points)
    held, before, gains = np.empty(longest, np.bool_), np.empty(longest), np.empty(longest)
    for i in range(len(rows)):
        for leaf in range(len(value)):
            start, end = ends[leaf], ends[leaf + 1]
            for j in range(start, end):
                held[j - start] = low[j] <= rows[i, feature[j]] < high[j]
            _gains(held, share[start:end], value[leaf], points, weights, before, gains)
            for j in range(start, end):
                out[i, feature[j]] += gains[j - start]


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """Shapley values of a sum of trees, path dependent, by the tree's leaves.

    Leaf l holds the entries ends[l] to ends[l + 1], one for each feature on its path: a row fits
    where low <= row[feature] < high, and without the feature it fits in `share` of the cases
    (product of cover ratios). As a game, a leaf is its value times a product over the features;
    its Shapley values are the integral over t of the partial derivatives of the multilinear
    extension (Owen 1972), a polynomial that Gauss and Legendre integrate exactly. The numbers are
    those of TreeSHAP (Lundberg et al. 2018, algorithm 2) without its recursion.

    `ends` int32 (L + 1,), `value` float64 (L,); `feature` int32, `low` and `high` float32 and
    `share` float64, all (entries,); `bias` is what the model adds to the leaves. Raises ModelError
    where these do not fit together.
    """

    width: int
    bias: float
    ends: Int32s
    feature: Int32s
    low: Float32s
    high: Float32s
    share: Float64s
    value: Float64s
    base: float = field(init=False)
    """The raw score that the trees expect of a row of which nothing is known."""
    _rules: tuple[Float64s, Float64s] = field(init=False)
    _table: tuple[Int64s, Float64s] | None = field(init=False)
    """Where each leaf's gains begin, and the gains; None for trees too deep for a table."""

    def __post_init__(self) -> None:
        """Check all that the compiled loops rely on, then compute `base` and the table."""
        _demand("one-dimensional arrays", *(getattr(self, a).ndim == 1 for a in TREE_ARRAYS))
        sizes = np.diff(self.ends)
        entries = len(self.feature)
        _demand("as many ends as leaves", len(self.ends) == len(self.value) + 1)
        _demand("ends in order", not self.ends[0] and self.ends[-1] == entries, sizes >= 0)
        _demand("no more entries of a leaf than features", sizes <= self.width)
        _demand("equal columns", entries == len(self.low) == len(self.high) == len(self.share))
        _demand("features of the row", (self.feature >= 0) & (self.feature < self.width))
        _demand("bounds", ~np.isnan(self.low), ~np.isnan(self.high))
        _demand("finite shares", np.isfinite(self.share), self.share >= 0)
        _demand("finite values", np.isfinite(self.value), np.isfinite(self.bias))
        starts = self.ends[:-1]
        products = np.multiply.reduceat(np.append(self.share, 1.0), starts) if len(starts) else 1.0
        expected = np.where(sizes > 0, products, 1.0) * self.value
        object.__setattr__(self, "base", float(self.bias + expected.sum()))
        object.__setattr__(self, "_rules", _rules(int(sizes.max(initial=0))))
        object.__setattr__(self, "_table", self._tabulated(sizes.astype(np.int64)))

    def _tabulated(self, sizes: Int64s) -> tuple[Int64s, Float64s] | None:
        """The gains of a leaf depend only on which of its features a row fits: few sets each."""
        if sizes.max(initial=0) > TABLE_MAX.bit_length():
            return None
        entries = sizes << sizes
        if entries.sum() > TABLE_MAX:
            return None
        places, table = np.cumsum(entries) - entries, np.empty(int(entries.sum()))
        _tabulate(self.ends, self.share, self.value, *self._rules, places, table)
        return places, table

    def contributions(self, rows: Float32s) -> Float64s:
        """What each feature adds to the raw score, float64 (k, F), of float32 rows (k, F)."""
        _check_rows(rows, self.width)
        out = np.zeros(rows.shape)
        bounds = np.ascontiguousarray(rows), self.ends, self.feature, self.low, self.high
        if self._table is None:
            _contribute(*bounds, self.share, self.value, *self._rules, out)
        else:
            _look_up(*bounds, *self._table, out)
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Net:
    """Integrated gradients (Sundararajan et al. 2017) of a Relu net, from `reference` to the row.

    The net reads clip((x[columns] - mean) * scale, +-limit), and the path is the straight line
    there. Along it the net is piecewise linear, so that the integral is a finite sum once all the
    places are known where a unit switches on or off; no step size, no residual. Inputs that read
    one feature count together.

    `reference` float32 (F,); `columns` int32, `mean` and `scale` float32, all (inputs,); `weights`
    float64 (in, out), `biases` (out,); the last layer has one output, the logit. Raises ModelError
    where these do not fit together.
    """

    columns: Int32s
    mean: Float32s
    scale: Float32s
    limit: float
    weights: tuple[Float64s, ...]
    biases: tuple[Float64s, ...]
    reference: Float32s
    base: float = field(init=False)
    """The raw score of the reference row."""

    def __post_init__(self) -> None:
        """Check that the arrays fit together, then compute `base`."""
        sizes = [len(self.columns), *map(len, self.biases)]
        shapes = [weight.shape for weight in self.weights]
        inputs = (self.columns, self.mean, self.scale)
        parts: list[NDArray[Any]] = [*inputs, self.reference, *self.weights, *self.biases]
        _demand("finite values", *(np.isfinite(part) for part in parts), 0 < self.limit < np.inf)
        _demand("vectors", self.reference.ndim == 1, *(bias.ndim == 1 for bias in self.biases))
        _demand("equal columns", *(column.shape == (sizes[0],) for column in inputs))
        _demand("features of the row", (self.columns >= 0) & (self.columns < self.width))
        _demand("layers that fit", shapes == list(pairwise(sizes)), len(sizes) > 1, sizes[-1] == 1)
        object.__setattr__(self, "base", self._logit(self._normalise(self.reference)))

    @property
    def width(self) -> int:
        """How many features a row has."""
        return self.reference.size

    def contributions(self, rows: Float32s) -> Float64s:
        """What each feature adds to the raw score, float64 (k, F), of float32 rows (k, F)."""
        _check_rows(rows, self.width)
        start = self._normalise(self.reference)
        out = np.empty(rows.shape)
        for i, end in enumerate(self._normalise(rows)):
            knots = self._knots(start, end - start)
            middles = (knots[:-1] + knots[1:]) / 2
            slopes = self._gradients(start + np.outer(middles, end - start))
            parts = (np.diff(knots) @ slopes) * (end - start)
            out[i] = np.bincount(self.columns, parts, self.width)
        return out

    def _normalise(self, rows: Float32s) -> Float64s:
        """What the first layer sees, by the graph's own float32 arithmetic."""
        limit = np.float32(self.limit)
        seen: Float32s = np.clip((rows[..., self.columns] - self.mean) * self.scale, -limit, limit)
        return seen.astype(np.float64)

    def _logit(self, inputs: Float64s) -> float:
        for weight, bias in self._hidden():
            inputs = np.maximum(inputs @ weight + bias, 0)
        return float((inputs @ self.weights[-1] + self.biases[-1])[0])

    def _hidden(self) -> list[tuple[Float64s, Float64s]]:
        return list(zip(self.weights[:-1], self.biases[:-1], strict=True))

    def _knots(self, start: Float64s, way: Float64s) -> Float64s:
        """Where on the way, 0 to 1, a unit of any layer crosses zero, both ends included."""
        knots = np.array([0.0, 1.0])
        values = start + np.outer(knots, way)
        for weight, bias in self._hidden():
            values = values @ weight + bias
            piece, unit = np.nonzero(values[:-1] * values[1:] < 0)
            left, right = values[piece, unit], values[piece + 1, unit]
            part = left / (left - right)
            found = knots[piece] + part * (knots[piece + 1] - knots[piece])
            between = values[piece] + part[:, np.newaxis] * (values[piece + 1] - values[piece])
            knots, values = np.append(knots, found), np.concatenate((values, between))
            order = np.argsort(knots, kind="stable")
            knots, values = knots[order], np.maximum(values[order], 0)
        return knots

    def _gradients(self, inputs: Float64s) -> Float64s:
        """The logit's gradient at each row of normalised inputs."""
        switched: list[Bools] = []
        values = inputs
        for weight, bias in self._hidden():
            values = np.maximum(values @ weight + bias, 0)
            switched.append(values > 0)
        slopes = np.repeat(self.weights[-1].T, len(inputs), axis=0)
        for (weight, _), on in zip(self._hidden()[::-1], switched[::-1], strict=True):
            slopes = (slopes * on) @ weight.T
        return slopes


def to_npz(explainer: Trees | Net) -> bytes:
    """The bytes of a file that `from_npz` reads; same explainer, same bytes."""
    arrays: dict[str, Any]
    if isinstance(explainer, Trees):
        arrays = {name: getattr(explainer, name) for name in ("width", "bias", *TREE_ARRAYS)}
    else:
        arrays = {name: getattr(explainer, name) for name in ("limit", *NET_ARRAYS)}
        for k, layer in enumerate(zip(explainer.weights, explainer.biases, strict=True)):
            arrays[f"weight{k}"], arrays[f"bias{k}"] = layer
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def from_npz(data: bytes, width: int) -> Trees | Net:
    """The explainer of a model that reads `width` features; raises ModelError on damage."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        explainer = _net(arrays) if "weight0" in arrays else _trees(arrays)
    except ModelError:
        raise
    except Exception as error:  # NumPy's, zipfile's and zlib's have no base class of their own
        msg = f"the explainer cannot be read: {type(error).__name__}: {error}"
        raise ModelError(msg) from error
    if explainer.width != width:
        msg = f"the explainer reads {explainer.width} features, the model {width}"
        raise ModelError(msg)
    return explainer


def _trees(arrays: dict[str, NDArray[Any]]) -> Trees:
    columns = {name: _typed(arrays[name], dtype) for name, dtype in TREE_ARRAYS.items()}
    return Trees(int(arrays["width"]), float(arrays["bias"]), **columns)


def _net(arrays: dict[str, NDArray[Any]]) -> Net:
    inputs = {name: _typed(arrays[name], dtype) for name, dtype in NET_ARRAYS.items()}
    layers = range(sum(name.startswith("weight") for name in arrays))
    weights = tuple(_typed(arrays[f"weight{k}"], "f8") for k in layers)
    biases = tuple(_typed(arrays[f"bias{k}"], "f8") for k in layers)
    return Net(limit=float(arrays["limit"]), weights=weights, biases=biases, **inputs)


def _rules(longest: int) -> tuple[Float64s, Float64s]:
    """Gauss-Legendre points and weights on 0 to 1: row n holds the rule of n points.

    It is exact up to degree 2n - 1; the polynomial of m features has degree m - 1.
    """
    most = (longest + 1) // 2
    points, weights = np.zeros((most + 1, most)), np.zeros((most + 1, most))
    for n in range(1, most + 1):
        nodes, parts = np.polynomial.legendre.leggauss(n)
        points[n, :n], weights[n, :n] = (nodes + 1) / 2, parts / 2
    return points, weights


def _typed(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    _demand("other types", array.dtype == dtype)
    return np.ascontiguousarray(array)


def _demand(what: str, *conditions: Any) -> None:
    if not all(np.all(condition) for condition in conditions):
        msg = f"the explainer is damaged: it needs {what}"
        raise ModelError(msg)


def _check_rows(rows: Float32s, width: int) -> None:
    if rows.ndim != 2 or rows.dtype != np.float32 or rows.shape[1] != width:
        msg = f"an explainer of {width} features cannot read {rows.dtype}{list(rows.shape)}"
        raise ValueError(msg)
