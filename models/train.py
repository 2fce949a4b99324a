"""From labelled payments to a model that can be shipped: fitted, exported, checked, described.

`train` fits a family on the training days of a split and gives the `Artefact`; `renew` goes on from
one with later days. Both pick the thresholds on the validation days and measure on the test days,
and in another world where one is given. What leaves here has been checked: the export against the
library's own model on every row, the explainer against the raw scores, and the scores' bits in
every batch size up to BATCH_MAX. Same data, seed and library versions, same bytes on the same kind
of machine. Needs the `train` extra; ModelError where a check fails, ConfigError for a split without
frauds.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from types import ModuleType
from typing import NamedTuple

import lightgbm
import numpy as np
import onnx
import xgboost
from numpy.typing import NDArray

from app.errors import ModelError
from features.contract import LIVE, NAMES, contract_id
from models import metrics
from models.explain import to_npz
from models.explain_onnx import explainer_of
from models.finetune import SLOWER, family_of, finetune
from models.fit import Family, Params, Scores, check_export, chosen_params, fit
from models.labelled import Labelled, Split
from models.manifest import Artefact, Golden, Thresholds, described
from models.threshold import ByAlerts, Choice, Rule, consequences, pick

Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]
Training = dict[str, str | int | float]
Say = Callable[[str], None]

VERSION = "2.0.0"
DEFAULT_RULE = ByAlerts(100)
BATCH_MAX = 2048
GOLDEN_ROWS = 12
EXPLAINED_TOLERANCE = 1e-4
SECOND = "second_world_"
MADE_BY: dict[Family, ModuleType] = {
    "logistic": np, "mlp": np, "lightgbm": lightgbm, "xgboost": xgboost,
}  # fmt: skip


class Renewed(NamedTuple):
    """A model that went on, and both models' average precision on the test days."""

    artefact: Artefact
    old_ap: float
    new_ap: float
    changed: bool


class _Made(NamedTuple):
    """A model's bytes, and what is told of it besides what is measured here."""

    name: str
    version: str
    family: Family
    model: bytes
    training: Training


def train(
    family: Family,
    data: Labelled,
    split: Split,
    seed: int,
    params: Params | None = None,
    rule: Rule = DEFAULT_RULE,
    other: Labelled | None = None,
    command: str = "",
    say: Say = lambda _: None,
) -> Artefact:
    """Fit a family and make all that is shipped with it; `other` is a world that took no part."""
    split.check(data)
    rows = data.rows(split.train)
    say(f"fitting {family} on {len(rows):,} payments")
    fitted = fit(family, *data.at(rows), seed, params)
    training = _provenance(family, data, split.train, seed, command, fitted.params)
    made = _Made(f"riskwire-{family}", VERSION, family, fitted.onnx, training)
    return _described(made, data, split, rule, other, say)


def renew(
    base: Artefact,
    data: Labelled,
    split: Split,
    seed: int,
    params: Params | None = None,
    rule: Rule = DEFAULT_RULE,
    command: str = "",
    say: Say = lambda _: None,
) -> Renewed:
    """Go on from a model with the split's training days; whether it is kept is the caller's.

    Raises ModelError for a model of other features.
    """
    was = base.manifest
    if was.features != NAMES or was.feature_contract_id != contract_id(LIVE):
        raise ModelError(f"{was.model_id} was trained on other features: train it again")
    split.check(data)
    family = family_of(base.model)
    chosen = chosen_params(family, SLOWER[family] | dict(params or {}))
    rows = data.rows(split.train)
    say(f"going on from {was.model_id} with {len(rows):,} payments")
    found = finetune(base.model, data.at(rows), data.at(data.judged(split.test)), seed, chosen)
    training = _provenance(family, data, split.train, seed, command, chosen)
    made = _Made(
        was.name, _next(was.version), family, found.onnx, {**training, "base": was.model_id}
    )
    artefact = _described(made, data, split, rule, None, say)
    return Renewed(artefact, found.old_ap, found.new_ap, found.onnx != base.model)


def check_batches(scores: Callable[[Float32s], Float32s], matrix: Float32s) -> None:
    """Raise ModelError unless a row scores the same bits in every batch size up to len(matrix)."""
    whole = scores(matrix).view(np.uint32)
    for n in range(1, len(matrix) + 1):
        if not np.array_equal(scores(matrix[:n]).view(np.uint32), whole[:n]):
            raise ModelError(f"the model's scores have other bits in a batch of {n}: not shipped")


def measure(
    data: Labelled, days: range, scores: Float32s, choice: Choice, rule: Rule
) -> dict[str, float]:
    """Skill, and what the thresholds do, on the judged payments of some days."""
    rows = data.judged(days)
    fraud, cards = data.fraud[rows], (data.day[rows], data.customer[rows])
    found = asdict(metrics.skill(*cards, fraud, scores))
    found["fraud_share"] = float(fraud.mean())
    if data.oracle is not None:
        best = metrics.skill(*cards, fraud, data.oracle[rows])
        found["oracle_average_precision"] = best.average_precision
    limits = choice.review, choice.decline
    amounts = data.amount_minor[rows]
    found |= consequences(scores, fraud, amounts, len(days), *limits, rule.costs)
    return {name: round(value, 6) for name, value in found.items()}


def choose(scores: Scores, data: Labelled, days: range, rule: Rule) -> Choice:
    """Thresholds by a rule on the judged payments of some days."""
    rows = data.judged(days)
    found = scores(data.matrix[rows])
    return pick(found, data.fraud[rows], data.amount_minor[rows], len(days), rule)


def golden(matrix: Float32s, scores: Float32s) -> Golden:
    """Some rows from the highest score to the lowest; each is a few times as far down as the last.

    Frauds are rare, so that even steps would show one alert at most.
    """
    order = np.argsort(-scores, kind="stable")
    ranks = np.unique(np.geomspace(1, len(order), GOLDEN_ROWS).astype(np.int64))
    rows = order[ranks - 1]
    return Golden(
        vectors=tuple(tuple(vector) for vector in matrix[rows].tolist()),
        scores=tuple(scores[rows].tolist()),
    )


def _described(
    made: _Made, data: Labelled, split: Split, rule: Rule, other: Labelled | None, say: Say
) -> Artefact:
    """Pick thresholds, measure, explain and check: the bytes with all that is told of them."""
    scores = Scores(made.model)
    choice = choose(scores, data, split.validation, rule)
    test = data.matrix[data.judged(split.test)]
    found = scores(test)
    measured = measure(data, split.test, found, choice, rule)
    if other is not None:
        matrix = other.matrix[other.judged(split.test)]
        there = measure(other, split.test, scores(matrix), choice, rule)
        measured |= {SECOND + name: value for name, value in there.items()}
    say("checking that no score depends on its batch")
    spread = np.argsort(found, kind="stable")[
        np.linspace(0, len(found) - 1, BATCH_MAX).astype(np.int64)
    ]
    check_batches(scores, np.ascontiguousarray(test[np.random.default_rng(0).permutation(spread)]))
    reference = np.median(data.matrix[data.rows(split.train)], axis=0)
    explainer = _explained(made.model, reference, scores, test[spread])
    return described(
        made.model,
        explainer,
        LIVE,
        reference=reference,
        name=made.name,
        version=made.version,
        family=made.family,
        thresholds=Thresholds(review=choice.review, decline=choice.decline),
        golden=golden(test, found),
        metrics=measured,
        training=made.training,
        expected=expected(choice),
    )


def expected(choice: Choice) -> dict[str, str | int | float]:
    """What a manifest says of its thresholds: the rule, and what it promises."""
    return {"asked": choice.rule, **choice.expected}


def _explained(model: bytes, reference: Float32s, scores: Scores, rows: Float32s) -> bytes:
    """The explainer's file, after a look whether its parts make the raw scores."""
    explainer = explainer_of(model, reference)
    total = explainer.base + explainer.contributions(rows).sum(axis=1)
    check_export(scores.raw(rows), total, EXPLAINED_TOLERANCE)
    return to_npz(explainer)


def _provenance(
    family: Family, data: Labelled, days: range, seed: int, command: str, params: Params
) -> Training:
    """What was learnt from, how, and by which versions."""
    rows = data.rows(days)
    versions = {
        family if family in ("lightgbm", "xgboost") else "numpy": MADE_BY[family].__version__,
        "onnx": onnx.__version__,
        "onnxruntime": metadata.version("onnxruntime"),
    }
    return {
        "command": command,
        "seed": seed,
        **data.source,
        "start_day": days.start,
        "stop_day": days.stop,
        "start_date": data.date(days.start),
        "stop_date": data.date(days.stop),
        "rows": len(rows),
        "frauds": int(data.fraud[rows].sum()),
        "params": json.dumps(dict(params)),
        "libraries": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


def _next(version: str) -> str:
    """The version with its last number one higher."""
    last = re.search(r"\d+$", version)
    if last is None:
        return f"{version}.1"
    return f"{version[: last.start()]}{int(last[0]) + 1}"
