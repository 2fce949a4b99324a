"""Training of the shipped model: `python -m models.train --seed 0 --out models/shipped`.

Simulates payments, computes each day's profiles from the days before it (point in time, labels a
week late), joins them by the same `features.vectorize` as the stream, fits a small net, writes it
as ONNX and checks the file against the fitted net on every row. Thresholds come from a validation
week; the metrics from the two weeks after it, and from a second population that the net has not
seen. Same seed and library versions, same bytes on the same kind of machine. Needs the `train`
extra.
"""

import argparse
import hashlib
import warnings
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from app.adapters.onnx import CPU, open_session, run
from app.errors import ModelError
from features.aggregate import DAY_US, LABEL_DELAY_DAYS, WINDOW_DAYS, History, aggregate
from features.contract import CONTRACT_ID, FEATURES, NAMES, defaults
from features.vectorize import Float32s, Int8s, vectorize
from models.card import card
from models.export import Net, to_onnx
from models.manifest import SHIPPED, Golden, Manifest, Thresholds, write
from models.simulate import Population

NAME, VERSION = "riskwire-mlp", "1.0.0"
START_US = 20_089 * DAY_US  # 2025-01-01
# Windows of the profiles that the training days see in turn, so that short histories are known too.
TRAINING_WINDOWS_DAYS = (28, 21, 14)
# Share of training rows whose customer, and of those whose terminal, is made unknown.
UNKNOWN_SHARE = 0.02
LAYERS = (64, 64, 32)
INPUT_LIMIT = 6.0
ALERT_SHARE = 0.01
DECLINE_PRECISION = 0.9
GOLDEN_ROWS = 8
EXPORT_TOLERANCE = 1e-5
SCORED_ROWS = 8192
SECOND_SEED = 1_000_003


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes of a training run, in days and entities."""

    customers: int = 5000
    terminals: int = 10_000
    train_days: int = 42
    validation_days: int = 7
    test_days: int = 14
    epochs: int = 12
    batch: int = 1024

    @property
    def days(self) -> tuple[range, range, range]:
        """Days to train, validate and test on; what lies before is history only."""
        first = WINDOW_DAYS + LABEL_DELAY_DAYS
        ends = np.cumsum([first, self.train_days, self.validation_days, self.test_days]).tolist()
        return range(ends[0], ends[1]), range(ends[1], ends[2]), range(ends[2], ends[3])


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Feature vectors float32 (n, WIDTH) with the truth int8 (n,)."""

    matrix: Float32s
    fraud: Int8s


def main() -> None:
    """Train with the command line's seed and write model, manifest and card."""
    parser = argparse.ArgumentParser(description="Train the shipped model on simulated payments.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=SHIPPED)
    arguments = parser.parse_args()
    manifest, model = train(arguments.seed, Plan())
    write(arguments.out, manifest, model)
    (arguments.out / "CARD.md").write_text(card(manifest), "utf-8")
    print(manifest.model_id, manifest.metrics)  # noqa: T201


def train(seed: int, plan: Plan) -> tuple[Manifest, bytes]:
    """Train and check a model; returns its manifest and its ONNX bytes."""
    train_days, validation_days, test_days = plan.days
    history = simulated(seed, plan)
    training = sample(history, train_days, TRAINING_WINDOWS_DAYS)
    forget(training, np.random.default_rng(seed))
    validation, test = sample(history, validation_days), sample(history, test_days)
    stranger = sample(simulated(seed + SECOND_SEED, plan), test_days)

    # One BLAS thread: the order of a sum, and so its bits, depends on their number.
    with threadpool_limits(limits=1):
        net, classifier = fit(training, seed, plan)
    model = to_onnx(net, NAME)
    scores = Scores(model)
    checked = np.concatenate([training.matrix, validation.matrix, test.matrix])
    check_export(scores(checked), classifier.predict_proba(net.normalise(checked))[:, 1])

    thresholds = pick_thresholds(validation.fraud, scores(validation.matrix))
    metrics = measure(test.fraud, scores(test.matrix), thresholds)
    other = measure(stranger.fraud, scores(stranger.matrix), thresholds)
    manifest = Manifest(
        name=NAME,
        version=VERSION,
        sha256=hashlib.sha256(model).hexdigest(),
        feature_contract_id=CONTRACT_ID,
        features=NAMES,
        thresholds=thresholds,
        reference=tuple(np.median(training.matrix, axis=0).tolist()),
        golden=golden(test.matrix, scores(test.matrix)),
        metrics=metrics | {f"second_population_{name}": other[name] for name in other},
        training=provenance(seed, plan, training, test),
    )
    return manifest, model


def simulated(seed: int, plan: Plan) -> History:
    """All payments of a population over the plan's days."""
    population = Population(seed, plan.customers, plan.terminals)
    stop_us = START_US + plan.days[-1].stop * DAY_US
    return population.as_history(population.history(START_US, stop_us))


def sample(history: History, days: range, windows_days: tuple[int, ...] = (WINDOW_DAYS,)) -> Sample:
    """The payments of some days, each joined with the profiles of its day's first instant.

    The days take the profiles' windows in turn.
    """
    parts = []
    for day in days:
        midnight = START_US + day * DAY_US
        profiles = aggregate(history, midnight, windows_days[day % len(windows_days)])
        rows = slice(*np.searchsorted(history.event_time_us, (midnight, midnight + DAY_US)))
        parts.append(
            vectorize(
                history.event_time_us[rows],
                history.amount_minor[rows],
                history.channel[rows],
                history.country[rows],
                profiles.customers[history.customer[rows]],
                profiles.terminals[history.terminal[rows]],
            )
        )
    ends = (START_US + days.start * DAY_US, START_US + days.stop * DAY_US)
    return Sample(
        np.concatenate(parts), history.fraud[slice(*np.searchsorted(history.event_time_us, ends))]
    )


def forget(training: Sample, rng: np.random.Generator) -> None:
    """Make some customers and some terminals unknown, in place: the population has no new ones."""
    for source in ("customer", "terminal"):
        rows = np.flatnonzero(rng.random(len(training.matrix)) < UNKNOWN_SHARE)
        columns = np.flatnonzero([feature.source == source for feature in FEATURES])
        training.matrix[np.ix_(rows, columns)] = defaults()[columns]


def fit(training: Sample, seed: int, plan: Plan) -> tuple[Net, MLPClassifier]:
    """Fit the net on the natural share of frauds, so that its scores are probabilities."""
    mean = training.matrix.mean(axis=0, dtype=np.float64).astype(np.float32)
    std = training.matrix.std(axis=0, dtype=np.float64)
    scale = (1.0 / np.where(std > 0, std, 1.0)).astype(np.float32)
    classifier = MLPClassifier(
        LAYERS,
        alpha=1e-2,
        batch_size=min(plan.batch, len(training.matrix)),
        learning_rate_init=1e-3,
        max_iter=plan.epochs,
        n_iter_no_change=plan.epochs,
        random_state=seed,
    )
    bounds = Net(mean, scale, INPUT_LIMIT, (), ())
    with warnings.catch_warnings():
        # The number of epochs is the plan's; that the loss still falls is no fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(bounds.normalise(training.matrix), training.fraud)
    net = Net(mean, scale, INPUT_LIMIT, classifier.coefs_, classifier.intercepts_)
    return net, classifier


class Scores:
    """The exported model on the CPU: what is measured is what is shipped."""

    def __init__(self, model: bytes) -> None:
        self._session, _ = open_session(model, CPU)

    def __call__(self, matrix: Float32s) -> Float32s:
        """Scores, float32 (n,), of a matrix of any length."""
        parts = np.array_split(matrix, len(matrix) // SCORED_ROWS + 1)
        return np.concatenate([run(self._session, np.ascontiguousarray(part)) for part in parts])


def check_export(exported: Float32s, native: NDArray[np.floating]) -> None:
    """Raise ModelError unless the exported model scores every row as the fitted net does."""
    off = float(np.abs(exported - native).max())
    if off > EXPORT_TOLERANCE:
        msg = f"the exported model differs from the fitted one by up to {off:.2g}"
        raise ModelError(msg)


def pick_thresholds(fraud: Int8s, scores: Float32s) -> Thresholds:
    """Review the top ALERT_SHARE; decline from where DECLINE_PRECISION of the rows are frauds.

    Declined is the longest run from the top with that precision, within what is reviewed.
    """
    order = np.argsort(-scores, kind="stable")
    alerts = max(1, round(len(order) * ALERT_SHARE))
    top = order[:alerts]
    precision = np.cumsum(fraud[top]) / np.arange(1, alerts + 1)
    precise = np.flatnonzero(precision >= DECLINE_PRECISION)
    declined = int(precise[-1]) if len(precise) else 0
    return Thresholds(review=float(scores[top[-1]]), decline=float(scores[top[declined]]))


def measure(fraud: Int8s, scores: Float32s, thresholds: Thresholds) -> dict[str, float]:
    """Skill and the decisions' precision, recall and share."""
    found = {
        "auc": float(roc_auc_score(fraud, scores)),
        "average_precision": float(average_precision_score(fraud, scores)),
        "fraud_share": float(fraud.mean()),
    }
    for name in ("review", "decline"):
        taken = scores >= np.float32(getattr(thresholds, name))
        hits = float(np.count_nonzero(taken & (fraud == 1)))
        found[f"{name}_share"] = float(taken.mean())
        found[f"{name}_precision"] = hits / max(1.0, float(taken.sum()))
        found[f"{name}_recall"] = hits / max(1.0, float(fraud.sum()))
    return {name: round(value, 4) for name, value in found.items()}


def golden(matrix: Float32s, scores: Float32s) -> Golden:
    """A few test rows from the lowest to the highest score."""
    order = np.argsort(scores, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, GOLDEN_ROWS).astype(np.int64)]
    return Golden(
        vectors=tuple(tuple(vector) for vector in matrix[rows].tolist()),
        scores=tuple(scores[rows].tolist()),
    )


def provenance(
    seed: int, plan: Plan, training: Sample, test: Sample
) -> dict[str, str | int | float]:
    """What was run, on how much, with which libraries."""
    libraries = ("numpy", "scikit-learn", "onnx", "onnxruntime")
    return {
        "command": f"python -m models.train --seed {seed}",
        "seed": seed,
        "customers": plan.customers,
        "terminals": plan.terminals,
        "data": "simulated (models/simulate.py)",
        "training_rows": len(training.fraud),
        "training_frauds": int(training.fraud.sum()),
        "test_rows": len(test.fraud),
        **{library: metadata.version(library) for library in libraries},
    }


if __name__ == "__main__":
    main()
