"""Going on from a shipped model with recent labelled rows.

`finetune` takes the ONNX bytes of a model that `models.fit` made, no native file: a net's weights
are read back and follow a short, slow course of descent; trees get further rounds, boosted on the
old ensemble's raw score and put behind it in the same graph. Both stop where an inner validation,
the latest fifth of the recent rows, gains no more, and give the old bytes back if it never did. The
result carries the average precision of both on held-out rows; whether a worse one is written is the
caller's. Same input, same bytes. Needs the `train` extra; ModelError for a model of another form.
"""

from dataclasses import dataclass

import lightgbm
import numpy as np
import onnx
import xgboost
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score
from threadpoolctl import threadpool_limits

from models import trees
from models.descent import cross_entropy, descend, raw_scores
from models.export import read_net, to_onnx
from models.fit import (
    Family,
    Params,
    Scores,
    check_export,
    chosen_params,
    course_of,
    lightgbm_params,
    xgboost_params,
)

Float32s = NDArray[np.float32]
Int8s = NDArray[np.int8]
Rows = tuple[Float32s, Int8s]
"""Vectors float32 (n, F) in order of time, and their truth int8 (n,)."""

SLOWER: dict[Family, dict[str, float]] = {
    "logistic": {"epochs": 20, "rate": 2e-4},
    "mlp": {"epochs": 20, "rate": 2e-4},
    "lightgbm": {"rounds": 100, "learning_rate": 0.05},
    "xgboost": {"rounds": 100, "learning_rate": 0.05},
}
"""What differs from `fit.DEFAULTS`; rounds and epochs are the most that are made."""

VALIDATION_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Finetuned:
    """The new model's bytes, and both models' average precision on the held-out rows."""

    family: Family
    onnx: bytes
    old_ap: float
    new_ap: float


def finetune(
    old: bytes, recent: Rows, holdout: Rows, seed: int, params: Params | None = None
) -> Finetuned:
    """Continue a model on recent rows; `params` as in `fit.DEFAULTS` for its family."""
    family = family_of(old)
    chosen = chosen_params(family, SLOWER[family] | dict(params or {}))
    with threadpool_limits(limits=1):
        if family in ("logistic", "mlp"):
            new = _descended(family, old, recent, seed, chosen)
        else:
            new = _boosted(family, old, recent, seed, chosen)
    matrix, fraud = holdout
    old_ap, new_ap = (
        float(average_precision_score(fraud, Scores(model)(matrix))) for model in (old, new)
    )
    return Finetuned(family, new, old_ap, new_ap)


def family_of(model: bytes) -> Family:
    """The family of a model that `models.fit` made, by its graph; raises ModelError for others."""
    operators = [node.op_type for node in onnx.load_from_string(model).graph.node]
    if trees.ENSEMBLE in operators:
        return "xgboost" if trees.read_trees(model).mode == trees.XGBOOST else "lightgbm"
    return "mlp" if len(read_net(model).weights) > 1 else "logistic"


def _cut(rows: Rows) -> int:
    """Where the inner validation begins."""
    return round(len(rows[0]) * (1 - VALIDATION_SHARE))


def _descended(
    family: Family, old: bytes, recent: Rows, seed: int, params: dict[str, float]
) -> bytes:
    matrix, fraud = recent
    cut = _cut(recent)
    later = (matrix[cut:], fraud[cut:])
    net = descend(read_net(old), matrix[:cut], fraud[:cut], course_of(params), seed, later)
    new = to_onnx(net, family)
    check_export(Scores(new).raw(matrix), raw_scores(net, matrix))
    return new


def _boosted(
    family: Family, old: bytes, recent: Rows, seed: int, params: dict[str, float]
) -> bytes:
    """Find the number of rounds on the inner validation, then make as many on all recent rows."""
    matrix, fraud = recent
    raw = Scores(old).raw(matrix)
    cut = _cut(recent)
    trial, _ = _boost(family, (matrix[:cut], fraud[:cut]), raw[:cut], seed, params)
    gains = np.cumsum(trial.leaves(matrix[cut:]), axis=1).T
    losses = [cross_entropy(raw[cut:] + gain, fraud[cut:]) for gain in (np.float32(0), *gains)]
    rounds = int(np.argmin(losses))
    if rounds == 0:
        return old
    added, native = _boost(family, recent, raw, seed, params | {"rounds": rounds})
    new = trees.to_onnx(trees.joined(trees.read_trees(old), added), family)
    check_export(Scores(new).raw(matrix), native)
    return new


def _boost(
    family: Family, rows: Rows, raw: Float32s, seed: int, params: dict[str, float]
) -> tuple[trees.Trees, NDArray[np.floating]]:
    """Trees fitted on the rows' raw scores so far, and the raw scores with them."""
    matrix, fraud = rows
    rounds = int(params["rounds"])
    if family == "lightgbm":
        known = lightgbm.Dataset(matrix, fraud, init_score=raw)
        light = lightgbm.train(lightgbm_params(params, seed), known, rounds)
        gain = np.asarray(light.predict(matrix, raw_score=True, num_threads=1))
        return trees.from_lightgbm(light), raw + gain
    margins = xgboost.DMatrix(matrix, fraud, base_margin=raw, nthread=1)
    extreme = xgboost.train(xgboost_params(params, seed), margins, rounds)
    return trees.from_xgboost(extreme), extreme.predict(margins, output_margin=True)
