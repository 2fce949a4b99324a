"""The evaluation as one HTML page that fetches nothing: pictures, tables, and what they mean.

In: an evaluation. Out: the page's text; `write` puts it into a file, ConfigError where it cannot.
The frame and its colours, light and dark, are in report.html; names are escaped here. Same figures,
same page.
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

from app.errors import ConfigError
from models import charts
from models.evaluate import (
    ALERTS_A_DAY,
    BOOK,
    BOOK_PUBLISHED,
    CALLED,
    CAVEAT,
    ORACLE,
    Evaluation,
)
from models.metrics import Skill
from models.mistakes import SCENARIOS, Group, Mistakes, mistakes
from models.protocol import FOLDS
from models.threshold import Costs


def write(evaluation: Evaluation, path: Path, costs: Costs | None = None) -> None:
    """Write the page."""
    try:
        path.write_text(page(evaluation, costs or Costs()), "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def page(evaluation: Evaluation, costs: Costs) -> str:
    """The page's HTML."""
    found = mistakes(evaluation)
    body = "\n".join(
        (
            _opening(evaluation),
            _measures(evaluation),
            _ranking(evaluation),
            _errors(found),
            _thresholds(evaluation, costs),
            _method(evaluation),
        )
    )
    frame = resources.files("models").joinpath("report.html").read_text("utf-8")
    title = f"{evaluation.chosen}: fraud benchmark, world {evaluation.data.world.seed}"
    return Template(frame).substitute(title=escape(title), body=body)


def _opening(evaluation: Evaluation) -> str:
    data, means = evaluation.data, evaluation.means
    ours, oracle = means[evaluation.chosen], means[ORACLE]
    book = means.get(BOOK, BOOK_PUBLISHED)
    tiles = (
        ("average precision", "average_precision"),
        ("card precision@100", "card_precision"),
        ("area under the ROC curve", "auc"),
    )
    return "".join(
        (
            f"<h1>{escape(evaluation.chosen)} on the Fraud Detection Handbook's benchmark</h1>",
            f'<p class="lead">World {data.world.seed}: {data.counts.transactions:,} simulated',
            f" payments, {data.counts.frauds:,} frauds. {len(data.together):,} of them are judged,",
            f" in {len(FOLDS)} test weeks, with labels a week late.</p>",
            _alarm(evaluation),
            '<div class="tiles">',
            *(
                f'<div class="tile"><b>{getattr(ours, name):.3f}</b>{text}<br>'
                f"<span>book's recipe {getattr(book, name):.3f},"
                f" oracle {getattr(oracle, name):.3f}</span></div>"
                for text, name in tiles
            ),
            f'</div><p class="note">{CAVEAT}</p>',
        )
    )


def _alarm(evaluation: Evaluation) -> str:
    lines = []
    if evaluation.leaking:
        names = ", ".join(evaluation.leaking)
        lines.append(
            f"Suspected leakage: the average precision of {names} is above the oracle's, which"
            " knows how the frauds are made and sees labels as late. Look for a label that is"
            " read too early."
        )
    if evaluation.seen:
        folds = ", ".join(map(str, evaluation.seen))
        lines.append(f"The model learnt from days of the test weeks of folds {folds}: no test.")
    return "".join(f'<p class="alarm">{escape(line)}</p>' for line in lines)


def _measures(evaluation: Evaluation) -> str:
    means, skills = evaluation.means, evaluation.skills
    names = [*evaluation.models, *(name for name in CALLED if name in skills)]
    ours = set(evaluation.models)
    kinds = sorted({kind for name in names for kind in evaluation.recalls[name]})
    overall = _table(
        ("", "AUC", "average precision", "card precision@100"),
        ((_called(name), *_three(means[name])) for name in names),
        [name in ours for name in names],
    )
    recalls = _table(
        ("", *(SCENARIOS.get(kind, str(kind)) for kind in kinds)),
        (
            (_called(name), *(_percent(evaluation.recalls[name].get(kind, 0)) for kind in kinds))
            for name in names
        ),
        [name in ours for name in names],
    )
    weeks = [f"days {fold.test[0]} to {fold.test[-1]}" for fold in FOLDS]
    folds = _table(
        ("average precision", *weeks),
        ((_called(name), *(f"{s.average_precision:.3f}" for s in skills[name])) for name in names),
        [name in ours for name in names],
    )
    return (
        "<h2>Measures</h2><p>Mean over the folds. The book's recipe is the check of the protocol:"
        f" in world 0 the book prints {' / '.join(_three(BOOK_PUBLISHED))}.</p>"
        f"{overall}<p>By fold, named by the days of its test week.</p>{folds}"
        f"<p>Frauds found if the {ALERTS_A_DAY} highest scores of each day are looked at.</p>"
        f"{recalls}"
    )


def _ranking(evaluation: Evaluation) -> str:
    return "".join(
        (
            "<h2>Scores</h2>",
            '<div class="pair">',
            _figure(
                "Precision against recall",
                charts.precision_recall(evaluation),
                "All folds together. The cliff is where frauds begin that no label announces:"
                " a terminal's first week in the fraudsters' hands.",
            ),
            _figure(
                "Share of frauds against the score",
                charts.calibration(evaluation),
                "On the dashed line a score is a probability. Bars are 95 % intervals.",
            ),
            "</div>",
            _figure(
                "Scores by kind of payment",
                charts.by_scenario(evaluation),
                "Share of each kind's payments by score."
                + (" Lines: the folds' thresholds of review (dotted) and decline."
                   if evaluation.thresholds else ""),
            ),
        )
    )  # fmt: skip


def _errors(found: Mistakes) -> str:
    every = found.everything
    fraud_rows = (
        (one.name, f"{one.frauds:,}", f"{one.missed:,}", _percent(one.missed_share),
         f"{one.missed_money:,.0f}")
        for one in (*found.missed, every)
    )  # fmt: skip
    honest_rows = (
        (one.name, f"{one.honest:,}", f"{one.stopped:,}", _percent(one.stopped_share, 2),
         _percent(_part(one, every)))
        for one in (*found.stopped, every)
    )  # fmt: skip
    return "".join(
        (
            "<h2>What it gets wrong</h2>",
            f"<p>At the thresholds in use {every.missed:,} of {every.frauds:,} frauds are missed",
            f" and {every.stopped:,} of {every.honest:,} honest payments are stopped.</p>",
            _table(("frauds", "in all", "missed", "share missed", "money missed"), fraud_rows),
            _table(
                ("honest payments", "in all", "stopped", "share stopped", "of all stopped"),
                honest_rows,
            ),
            _figure(
                "Mistakes by amount, age of card, hour and terminal risk",
                charts.errors(found),
                "Each bar is a bin from its label to the next; a card's age counts from its first"
                " payment. Above: share of the bin's frauds"
                " that is missed. Below: honest payments stopped of 10,000. Over each bar:"
                " how many payments it is a share of.",
            ),
        )
    )


def _thresholds(evaluation: Evaluation, costs: Costs) -> str:
    rows = (
        (f"fold {one.fold}", one.asked, f"{one.review:.4f}", f"{one.decline:.4f}",
         *(_both(one.expected, one.realised, name) for name in _REALISED))
        for one in evaluation.thresholds
    )  # fmt: skip
    heads = ("", "asked", "review", "decline", *_REALISED.values())
    table = (
        "<p>Picked on the week of labels that is complete when the test week begins. In pairs:"
        f" expected there, and what came in the test week.</p>{_table(heads, rows)}"
        if evaluation.thresholds
        else ""
    )
    return "".join(
        (
            "<h2>Alerts and money</h2>",
            table,
            _figure(
                "Alerts a day and money saved a day against the threshold",
                charts.alerts(evaluation, costs),
                f"Money: the frauds among the alerts, less {costs.review:g} for each review; major"
                " units. Dotted: the folds' thresholds."
                if evaluation.thresholds
                else f"Money: the frauds among the alerts, less {costs.review:g} for each review.",
            ),
        )
    )


_REALISED = {
    "alerts_per_day": "alerts a day",
    "review_precision": "precision",
    "review_recall": "recall",
    "money_saved_per_day": "saved a day",
}


def _method(evaluation: Evaluation) -> str:
    seed = evaluation.data.world.seed
    return (
        "<h2>How this was measured</h2>"
        "<p>Four folds as in chapters 5 to 7 of the book: a week of training, a week's delay, a"
        " test week. Customers who are known to be defrauded leave the test set as in the book."
        " Ours learn from the 28 days that end where the book's week ends, the book's recipe"
        " (its 15 inputs, XGBoost 100 / 0.1 / 3) from its 7.</p>"
        "<p>The oracle knows the three mechanisms, their rates and each customer's true mean"
        " amount, this payment, and everything that is at least 7 days old. The second one reads"
        " amounts of the last week too, as features may: it is the ceiling. An average precision"
        " above the first is reported as suspected leakage.</p>"
        f"<p>Again: <code>riskwire evaluate --protocol handbook --seed {seed}</code></p>"
    )


def _called(name: str) -> str:
    return CALLED.get(name, name)


def _three(skill: Skill) -> tuple[str, str, str]:
    return f"{skill.auc:.3f}", f"{skill.average_precision:.3f}", f"{skill.card_precision:.3f}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def _part(one: Group, every: Group) -> float:
    return one.stopped / every.stopped if every.stopped else 0.0


def _both(expected: Mapping[str, float], realised: Mapping[str, float], name: str) -> str:
    digits = 2 if name in {"review_precision", "review_recall"} else 0
    asked = f"{expected[name]:,.{digits}f}" if name in expected else "–"  # noqa: RUF001 -- a dash
    return f"{asked} → {realised[name]:,.{digits}f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], ours: Sequence[bool] = ()) -> str:
    head = "".join(f"<th>{escape(text)}</th>" for text in heads)
    lines = []
    for k, row in enumerate(rows):
        kind = ' class="ours"' if k < len(ours) and ours[k] else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return (
        f'<div class="table"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _figure(title: str, svg: str, caption: str) -> str:
    labelled = svg.replace("<svg ", f'<svg aria-label="{escape(title)}" ', 1)
    return (
        f"<figure>{labelled}<figcaption><b>{escape(title)}.</b> {escape(caption)}"
        "</figcaption></figure>"
    )
