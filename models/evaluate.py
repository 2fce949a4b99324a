"""The public benchmark: models on the handbook's folds, the book's recipe and the oracle beside.

In: a `World`, and families (fitted anew for each fold) or shipped models (scored as they are). Out:
an `Evaluation`: for each model and fold the book's measures, recall by kind of fraud, the alerts
that were asked for against those that came, and the score of every judged payment. `judge` alone
does the measuring, so scores from elsewhere (a replay through Kafka) are measured by the same code:
`prepare` the data, then `judge` what `judged` takes out of the scores of all payments.

An average precision above the oracle's is suspected leakage. Our features were chosen knowing the
simulator's mechanisms. Same world, libraries and kind of machine: same figures. Needs the `train`
extra; ConfigError for a world that ends before the last test week, ModelError for a model of other
features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.errors import ConfigError, ModelError
from features.contract import NAMES
from features.offline import Log, vectors
from models import metrics, oracle, protocol
from models.fit import Family, Params, Scores, fit
from models.handbook import Counts, Payments, World, simulate
from models.labelled import HANDBOOK
from models.manifest import Artefact, Manifest
from models.metrics import Skill
from models.protocol import DAYS_MIN, DELAY_DAYS, FOLDS, TEST_DAYS, Fold
from models.threshold import ByAlerts, Costs, Rule, consequences, pick

Bools = NDArray[np.bool_]
Floats = NDArray[np.floating]
Float32s = NDArray[np.float32]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]
ByFold = tuple[Floats, ...]
"""Scores of the judged payments, one array a fold, in the order of `Data.rows`."""

BOOK, ORACLE, CEILING = "book", "oracle", "ceiling"
BOOK_WIDTH = 15
BOOK_RECIPE: dict[str, float] = {
    "rounds": 100, "learning_rate": 0.1, "max_depth": 3, "base_score": 0.5,
    "min_child_weight": 1.0, "reg_lambda": 1.0, "subsample": 1.0, "colsample_bytree": 1.0,
}  # fmt: skip
BOOK_PUBLISHED = Skill(0.872, 0.694, 0.304)
"""The recipe's test performance as the book prints it (chapter 5, world 0)."""
CALLED = {
    BOOK: "book's recipe",
    ORACLE: "oracle, labels a week late",
    CEILING: "oracle with recent amounts",
}
"""What stands beside our models, in words."""
CAVEAT = (
    "The features were chosen knowing the simulator's mechanisms, and the data is simple: three"
    " kinds of fraud, no seasons, no drift. A result near the oracle shows a correct pipeline. It"
    " does not show how well real fraud would be found."
)

SEED = 0
"""Of every fit; the world's seed decides the payments only."""
ALERTS_A_DAY = 100
"""The budget at which recall by scenario is counted, and that thresholds keep by default."""
DEFAULT_RULE = ByAlerts(ALERTS_A_DAY)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A world's payments with all that a judgement needs.

    `day` int64 and `matrix` float32 (n, features) for all n payments; `oracle` and `ceiling`
    float64 (n,); `rows` the judged payments of each fold.
    """

    world: World
    counts: Counts
    payments: Payments
    day: Int64s
    matrix: Float32s
    oracle: Float64s
    ceiling: Float64s
    rows: tuple[Int64s, ...]

    @property
    def together(self) -> Int64s:
        """The judged payments of all folds."""
        return np.concatenate(self.rows)


@dataclass(frozen=True, slots=True)
class Realised:
    """A fold's thresholds: what was asked for and expected, and what came in its test week."""

    fold: int
    asked: str
    review: float
    decline: float
    expected: dict[str, float]
    realised: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What came out, by the name of a model, BOOK, ORACLE or CEILING.

    `models` are ours; the first is the one whose thresholds are shown and whose scores are written.
    `recalls` is by scenario, at ALERTS_A_DAY. `seen` are folds that a shipped model learnt from.
    """

    data: Data
    models: tuple[str, ...]
    scores: dict[str, ByFold]
    skills: dict[str, tuple[Skill, ...]]
    recalls: dict[str, dict[int, float]]
    thresholds: tuple[Realised, ...] = ()
    seen: tuple[int, ...] = ()

    @property
    def chosen(self) -> str:
        """The model that is looked at closely."""
        return self.models[0]

    @property
    def means(self) -> dict[str, Skill]:
        """The measures' means over the folds."""
        return {name: metrics.mean(skills) for name, skills in self.skills.items()}

    @property
    def leaking(self) -> tuple[str, ...]:
        """Models whose average precision is above the oracle's; none where they saw test weeks.

        That is no test, and said by itself.
        """
        if self.seen:
            return ()
        means = self.means
        limit = means[ORACLE].average_precision
        return tuple(name for name in self.models if means[name].average_precision > limit)


def evaluate(
    world: World,
    models: Sequence[Family | Artefact],
    rule: Rule = DEFAULT_RULE,
    params: Mapping[Family, Params] | None = None,
    say: Say = lambda _: None,
) -> Evaluation:
    """Judge models, the book's recipe and the oracle; thresholds are the first model's.

    A family's thresholds keep `rule` on each fold's validation week; a shipped model has its own.
    """
    data = prepare(world, say)
    say("fitting the book's recipe")
    scores = {BOOK: _book(data)}
    for model in models:
        say(f"scoring {name_of(model)}")
        scores[name_of(model)] = _scores(data, model, params or {})
    names = tuple(name_of(model) for model in models)
    first, of_first = models[0], scores[names[0]]
    if isinstance(first, Artefact):
        thresholds = kept(data, first.manifest, of_first)
    else:
        say(f"picking thresholds of {first}")
        thresholds = _picked(data, first, of_first, rule, (params or {}).get(first))
    shipped = [model.manifest for model in models if isinstance(model, Artefact)]
    seen = {number for manifest in shipped for number in learnt(world, manifest)}
    return judge(data, scores, names, thresholds, tuple(sorted(seen)))


def name_of(model: Family | Artefact) -> str:
    """What a model is called in the results."""
    return model.manifest.model_id if isinstance(model, Artefact) else model


def prepare(world: World, say: Say = lambda _: None) -> Data:
    """Simulate a world; compute its vectors, the oracle's probabilities and the judged rows."""
    if world.days < DAYS_MIN:
        raise ConfigError(f"the protocol needs {DAYS_MIN} days, this world has {world.days}")
    say(f"simulating world {world.seed}")
    payments, counts = simulate(world)
    day = protocol.days_of(payments.event_time_us, world.start_us)
    say("computing vectors")
    matrix = vectors(log_of(payments))
    say("asking the oracle")
    known = oracle.scores(world, payments), oracle.scores(world, payments, recent_amounts=True)
    rows = (protocol.judged_rows(day, payments.customer, payments.fraud, fold) for fold in FOLDS)
    return Data(world, counts, payments, day, matrix, *known, tuple(rows))


def log_of(payments: Payments) -> Log:
    """Payments as the log that vectors are computed from."""
    return Log.of(
        payments.customer,
        payments.terminal,
        payments.event_time_us,
        payments.amount_minor,
        payments.fraud,
    )


def judged(data: Data, scores: Floats) -> ByFold:
    """The judged payments' part of the scores of all payments."""
    return tuple(scores[rows] for rows in data.rows)


def judge(
    data: Data,
    scores: Mapping[str, ByFold],
    models: tuple[str, ...],
    thresholds: tuple[Realised, ...] = (),
    seen: tuple[int, ...] = (),
) -> Evaluation:
    """Measure scores from anywhere beside the oracle; `models` names those that are ours."""
    payments, together = data.payments, data.together
    known = {ORACLE: judged(data, data.oracle), CEILING: judged(data, data.ceiling)}
    everyone = {**scores, **known}
    skills, recalls = {}, {}
    for name, by_fold in everyone.items():
        skills[name] = tuple(
            metrics.skill(data.day[rows], payments.customer[rows], payments.fraud[rows], one)
            for rows, one in zip(data.rows, by_fold, strict=True)
        )
        alerted = metrics.highest(data.day[together], np.concatenate(by_fold), ALERTS_A_DAY)
        recalls[name] = metrics.recall_by_scenario(payments.scenario[together], alerted)
    return Evaluation(data, models, everyone, skills, recalls, thresholds, seen)


def kept(data: Data, manifest: Manifest, scores: ByFold) -> tuple[Realised, ...]:
    """A shipped model's thresholds on each test week, with what its manifest promises of them."""
    limits = manifest.thresholds.review, manifest.thresholds.decline
    asked = str(manifest.expected.get("asked", "manifest"))
    promised = {name: float(value) for name, value in manifest.expected.items() if name != "asked"}
    return tuple(
        Realised(fold.number, asked, *limits, promised, _came(data, rows, one, limits))
        for fold, rows, one in zip(FOLDS, data.rows, scores, strict=True)
    )


def learnt(world: World, manifest: Manifest) -> tuple[int, ...]:
    """Folds whose test week had begun when the last label of a model's training became known.

    None in a world that it has not seen.
    """
    own = {"data": HANDBOOK, "seed": world.seed, "customers": world.customers,
           "terminals": world.terminals}  # fmt: skip
    training = manifest.training
    if any(training.get(name) != value for name, value in own.items()):
        return ()
    stop = int(training["stop_day"])
    return tuple(fold.number for fold in FOLDS if fold.test.start < stop + DELAY_DAYS)


def alerted(evaluation: Evaluation) -> Bools:
    """Which of the judged payments (`Data.together`) the chosen model stops, bool (n,).

    By each fold's review threshold; by ALERTS_A_DAY where there are no thresholds.
    """
    scores, data = evaluation.scores[evaluation.chosen], evaluation.data
    if not evaluation.thresholds:
        return metrics.highest(data.day[data.together], np.concatenate(scores), ALERTS_A_DAY)
    pairs = zip(scores, evaluation.thresholds, strict=True)
    return np.concatenate([one >= np.float32(limits.review) for one, limits in pairs])


def write_scores(evaluation: Evaluation, path: Path) -> None:
    """Write the chosen model's scores as Parquet: fold, transaction_id, score."""
    import pyarrow as pa  # noqa: PLC0415 -- only here
    from pyarrow import parquet  # noqa: PLC0415 -- only here

    data, scores = evaluation.data, evaluation.scores[evaluation.chosen]
    table = pa.table(
        {
            "fold": np.repeat([fold.number for fold in FOLDS], [len(rows) for rows in data.rows]),
            "transaction_id": pa.array(data.together).cast(pa.string()),
            "score": np.concatenate(scores),
        }
    )
    try:
        parquet.write_table(table, path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}") from error


def _scores(data: Data, model: Family | Artefact, params: Mapping[Family, Params]) -> ByFold:
    if not isinstance(model, Artefact):
        return tuple(
            _fitted(data, model, fold, params.get(model))(data.matrix[rows])
            for fold, rows in zip(FOLDS, data.rows, strict=True)
        )
    if model.manifest.features != NAMES:
        raise ModelError(f"{model.manifest.model_id} was trained on other features")
    score = Scores(model.model)
    return tuple(score(data.matrix[rows]) for rows in data.rows)


def _fitted(data: Data, family: Family, fold: Fold, params: Params | None) -> Scores:
    """A family fitted on a fold's training days, as the exported model that is shipped."""
    rows = protocol.between(data.day, fold.train)
    return Scores(fit(family, data.matrix[rows], data.payments.fraud[rows], SEED, params).onnx)


def _book(data: Data) -> ByFold:
    inputs = np.ascontiguousarray(data.matrix[:, :BOOK_WIDTH])
    scores = []
    for fold, rows in zip(FOLDS, data.rows, strict=True):
        week = protocol.between(data.day, fold.book_train)
        made = fit("xgboost", inputs[week], data.payments.fraud[week], SEED, BOOK_RECIPE)
        scores.append(Scores(made.onnx)(inputs[rows]))
    return tuple(scores)


def _picked(
    data: Data, family: Family, scores: ByFold, rule: Rule, params: Params | None
) -> tuple[Realised, ...]:
    """Thresholds for each fold from its validation week, held against its test week."""
    payments, results = data.payments, []
    known = {fold.start: (data.rows[fold.number], scores[fold.number]) for fold in FOLDS}
    for fold in FOLDS:
        past = fold.validation
        if past.start not in known:
            rows = protocol.judged_rows(data.day, payments.customer, payments.fraud, past)
            known[past.start] = rows, _fitted(data, family, past, params)(data.matrix[rows])
        rows, seen = known[past.start]
        choice = pick(seen, payments.fraud[rows], payments.amount_minor[rows], TEST_DAYS, rule)
        limits = choice.review, choice.decline
        came = _came(data, *known[fold.start], limits, rule.costs)
        results.append(Realised(fold.number, choice.rule, *limits, choice.expected, came))
    return tuple(results)


def _came(
    data: Data,
    rows: Int64s,
    scores: Floats,
    limits: tuple[float, float],
    costs: Costs | None = None,
) -> dict[str, float]:
    fraud, amount_minor = data.payments.fraud[rows], data.payments.amount_minor[rows]
    return consequences(scores, fraud, amount_minor, TEST_DAYS, *limits, costs or Costs())
