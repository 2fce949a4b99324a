"""The four families of models, fitted on plain matrices and exported as ONNX.

`fit` takes rows float32 (n, F) with their truth int8 (n,) and gives a `Fitted`: the ONNX bytes, the
native scoring function and what it was made with. The bytes are checked against the native model on
every row that it learnt from. Same rows, seed and library versions, same bytes: one thread,
everything seeded. Needs the `train` extra; ModelError for unknown parameters and for an export that
differs.

The nets read each feature in pieces between its quantiles (piecewise linear encoding: Gorishniy et
al. 2022), which brings them near the trees; without hidden layers that is a scorecard, logistic
regression on a bent line for each feature. The trees' defaults are not the libraries': those lose
.05 to .13 of average precision where frauds are rare.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import lightgbm
import numpy as np
import onnx
import xgboost
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from app.adapters.onnx import CPU, open_session, run
from app.errors import ModelError
from models import trees
from models.descent import Course, descend, raw_scores, untrained
from models.export import RAW, Net, to_onnx
from models.manifest import INPUT

Float32s = NDArray[np.float32]
Int8s = NDArray[np.int8]

Family = Literal["logistic", "mlp", "lightgbm", "xgboost"]
FAMILIES: tuple[Family, ...] = get_args(Family)

Params = Mapping[str, float]
"""Names and values as in DEFAULTS; a library's parameter has the library's name."""

DEFAULTS: dict[Family, dict[str, float]] = {
    "logistic": {"bins": 32, "epochs": 10, "batch": 1024, "rate": 1e-2, "decay": 0.1},
    "mlp": {
        "bins": 32, "hidden_1": 64, "hidden_2": 32,
        "epochs": 20, "batch": 1024, "rate": 2e-3, "decay": 0.5,
    },
    "lightgbm": {
        "rounds": 150, "learning_rate": 0.1, "num_leaves": 8, "max_depth": 3, "max_bin": 16383,
        "min_data_in_leaf": 5, "min_sum_hessian_in_leaf": 1.0, "lambda_l2": 1.0,
        "feature_fraction": 1.0, "bagging_fraction": 1.0, "bagging_freq": 1,
    },
    "xgboost": {
        "rounds": 150, "learning_rate": 0.1, "max_depth": 3, "min_child_weight": 1.0,
        "reg_lambda": 1.0, "subsample": 1.0, "colsample_bytree": 1.0, "base_score": 0.5,
    },
}  # fmt: skip

LIGHTGBM_FIXED: dict[str, float | str] = {
    "objective": "binary",
    "boost_from_average": False,
    "min_data_in_bin": 1,
    "bin_construct_sample_cnt": 10_000_000,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
XGBOOST_FIXED: dict[str, float | str] = {
    "objective": "binary:logistic",
    "tree_method": "exact",
    "nthread": 1,
    "verbosity": 0,
}

TOLERANCE = 1e-5
"""Of raw scores, relative above one: what float32 sums in another order differ by."""

STANDARD_LIMIT, PIECE_LIMIT = 6.0, 1.0
PIECE_WIDTH_MIN = 1e-4
ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """A model as it is shipped, and as its library knows it.

    `raw` gives the native log-odds, float (n,), of rows float32 (n, F); `params` are all that
    decided the fit, `libraries` the versions of what made it.
    """

    family: Family
    onnx: bytes
    raw: Callable[[Float32s], NDArray[np.floating]]
    params: dict[str, float]
    libraries: dict[str, str]


class Scores:
    """An exported model on the CPU: what is measured is what is shipped."""

    def __init__(self, model: bytes) -> None:
        self._session, _ = open_session(model, CPU)

    def __call__(self, matrix: Float32s) -> Float32s:
        """Scores, float32 (n,), of a matrix of any length."""
        return np.concatenate([run(self._session, part) for part in _parts(matrix)])

    def raw(self, matrix: Float32s) -> Float32s:
        """Log-odds, float32 (n,), of a matrix of any length."""
        parts = [self._session.run([RAW], {INPUT: part})[0] for part in _parts(matrix)]
        return np.concatenate(parts).reshape(-1)


def fit(
    family: Family, matrix: Float32s, fraud: Int8s, seed: int, params: Params | None = None
) -> Fitted:
    """Fit a family with its defaults, changed by `params`, and export it."""
    chosen = chosen_params(family, params or {})
    # One BLAS thread: the order of a sum, and so its bits, depends on their number.
    with threadpool_limits(limits=1):
        fitted = _FITS[family](family, matrix, fraud, seed, chosen)
        check_export(Scores(fitted.onnx).raw(matrix), fitted.raw(matrix))
    return fitted


def chosen_params(family: Family, params: Params) -> dict[str, float]:
    """The family's defaults, changed by `params`; raises ModelError for one that it has not.

    A parameter whose default is whole is made whole.
    """
    unknown = sorted(set(params) - set(DEFAULTS[family]))
    if unknown:
        msg = f"{family} has no {', '.join(unknown)}: it has {', '.join(DEFAULTS[family])}"
        raise ModelError(msg)
    merged = DEFAULTS[family] | dict(params)
    return {name: type(default)(merged[name]) for name, default in DEFAULTS[family].items()}


def check_export(
    exported: NDArray[np.floating], native: NDArray[np.floating], tolerance: float = TOLERANCE
) -> None:
    """Raise ModelError unless the exported raw scores are the native ones, row by row."""
    off = np.abs(exported.astype(np.float64) - native) / np.maximum(1, np.abs(native))
    # NaN fails the comparison.
    if not (off <= tolerance).all():
        msg = f"the exported model differs from the fitted one by up to {off.max():.2g}"
        raise ModelError(msg)


def course_of(params: Params) -> Course:
    """A net's way of training."""
    return Course(int(params["epochs"]), int(params["batch"]), params["rate"], params["decay"])


def lightgbm_params(params: Params, seed: int) -> dict[str, float | str]:
    """What LightGBM is given."""
    named = {name: value for name, value in params.items() if name != "rounds"}
    return LIGHTGBM_FIXED | named | {"seed": seed}


def xgboost_params(params: Params, seed: int) -> dict[str, float | str]:
    """What XGBoost is given."""
    named = {name: value for name, value in params.items() if name != "rounds"}
    return XGBOOST_FIXED | named | {"seed": seed}


def standardised(matrix: Float32s) -> Net:
    """The encoding of features by mean and deviation: a net without layers."""
    mean, std = matrix.mean(axis=0, dtype=np.float64), matrix.std(axis=0, dtype=np.float64)
    scale = 1 / np.where(std > 0, std, 1)
    return Net(mean.astype(np.float32), scale.astype(np.float32), STANDARD_LIMIT, (), ())


def in_pieces(matrix: Float32s, fraud: Int8s, bins: int) -> Net:
    """The encoding of features in pieces between quantiles: a net without layers.

    A piece is -1 below it, 1 above it, and linear within. Half as many quantiles of the frauds
    alone lie between those of all rows, since frauds are rare and lie elsewhere.
    """
    frauds = matrix[fraud == 1]
    columns, low, high = [], [], []
    for k in range(matrix.shape[1]):
        edges = [np.quantile(matrix[:, k], np.linspace(0, 1, bins + 1))]
        if len(frauds):
            edges.append(np.quantile(frauds[:, k], np.linspace(0, 1, bins // 2 + 1)))
        cuts = np.unique(np.concatenate(edges))
        wide = np.diff(cuts) > PIECE_WIDTH_MIN * np.maximum(1, np.abs(cuts[1:]))
        columns += [k] * int(wide.sum())
        low.append(cuts[:-1][wide])
        high.append(cuts[1:][wide])
    start, stop = np.concatenate(low), np.concatenate(high)
    spread = np.zeros((matrix.shape[1], len(columns)), np.float32)
    spread[columns, np.arange(len(columns))] = 1
    mean, scale = (start + stop) / 2, 2 / (stop - start)
    return Net(mean.astype(np.float32), scale.astype(np.float32), PIECE_LIMIT, (), (), spread)


def _fit_net(
    family: Family, matrix: Float32s, fraud: Int8s, seed: int, params: dict[str, float]
) -> Fitted:
    bins = int(params["bins"])
    encoding = in_pieces(matrix, fraud, bins) if bins else standardised(matrix)
    layers = [int(params[name]) for name in ("hidden_1", "hidden_2") if params.get(name)]
    fresh = untrained(encoding, layers, float(fraud.mean()), seed)
    net = descend(fresh, matrix, fraud, course_of(params), seed)
    return Fitted(
        family,
        to_onnx(net, family),
        lambda rows: raw_scores(net, rows),
        params,
        {"numpy": np.__version__, "onnx": onnx.__version__},
    )


def _fit_lightgbm(
    family: Family, matrix: Float32s, fraud: Int8s, seed: int, params: dict[str, float]
) -> Fitted:
    data = lightgbm.Dataset(matrix, fraud)
    booster = lightgbm.train(lightgbm_params(params, seed), data, int(params["rounds"]))
    return Fitted(
        family,
        trees.to_onnx(trees.from_lightgbm(booster), family),
        lambda rows: np.asarray(booster.predict(rows, raw_score=True, num_threads=1)),
        params,
        {"lightgbm": lightgbm.__version__, "onnx": onnx.__version__},
    )


def _fit_xgboost(
    family: Family, matrix: Float32s, fraud: Int8s, seed: int, params: dict[str, float]
) -> Fitted:
    data = xgboost.DMatrix(matrix, fraud, nthread=1)
    booster = xgboost.train(xgboost_params(params, seed), data, int(params["rounds"]))
    return Fitted(
        family,
        trees.to_onnx(trees.from_xgboost(booster), family),
        lambda rows: booster.predict(xgboost.DMatrix(rows, nthread=1), output_margin=True),
        params,
        {"xgboost": xgboost.__version__, "onnx": onnx.__version__},
    )


def _parts(matrix: Float32s) -> list[Float32s]:
    parts = np.array_split(matrix, len(matrix) // ROWS_AT_ONCE + 1)
    return [np.ascontiguousarray(part) for part in parts]


_FITS = {
    "logistic": _fit_net,
    "mlp": _fit_net,
    "lightgbm": _fit_lightgbm,
    "xgboost": _fit_xgboost,
}
