"""The model card: a manifest in words, for whoever decides whether to use the model.

`card` takes a manifest and gives Markdown: every figure comes from the manifest, nothing is
measured here, and what a manifest does not tell is left out. `save` writes a model's directory with
its card, so that no card speaks of other thresholds than the manifest beside it.
"""

import textwrap
from pathlib import Path

from models.manifest import Artefact, Manifest, write

CARD_FILE = "CARD.md"
WIDTH = 100

_FAMILIES = {
    "lightgbm": "Gradient-boosted trees (LightGBM)",
    "xgboost": "Gradient-boosted trees (XGBoost)",
    "mlp": "A small neural network over features cut into pieces between their quantiles",
    "logistic": "A scorecard: logistic regression over features cut into pieces",
}

_TEXT = """\
# {model_id}

{family}. It estimates the probability that a payment is fraud, from the {width} features of
contract `{contract}` (`riskwire features list`).

{purpose}

## Data
{data} Vectors come from the code that runs in the stream. A label counts once its payment is a week
old, in the features and between what is learnt from, validated on and tested on. Learnt from:
{rows:,} payments ({frauds:,} frauds) from {start_date} until {stop_date}.{base}

## Figures
{figures}

## Thresholds
REVIEW from a score of {review:.6f} on, DECLINE from {decline:.6f} on{asked}. `riskwire threshold`
picks others.{expected}

## Limits
{limits}
- An outcome of a terminal counts after a week, however early it is known: a terminal's first bad
  days go unseen by the terminal's features.
- Amounts are compared as they are, as if there were one currency. Night and weekend are by UTC.
- No feature is a person's attribute.
- A score's bits are the same in every batch on one machine; between kinds of CPU the last ones may
  differ.

## Made by
`{command}` (seed {seed}; {libraries}).

Parameters: `{params}`.

SHA-256 of `scorer.onnx`: `{sha256}`.
"""

_SIMULATED = """\
**Trained on simulated payments.** It shows that the pipeline works and what its figures look like.
It knows no real fraud: train it on your own labelled history before it decides about anybody's
money (`riskwire train --data FILE`)."""

_OWN = """\
**Trained on the labelled history `{file}`.** What that history does not show, the model does not
know."""

_WORLD = """\
World {seed} of the Fraud Detection Handbook's simulator: {customers:,} customers, {terminals:,}
terminals, three kinds of fraud (large amounts, compromised terminals, stolen cards)."""

_HISTORY = "`{file}` (SHA-256 `{file_sha256}`)."

_SIMULATED_LIMITS = """\
- **The features were chosen knowing the simulator's mechanisms.** A result near the oracle's shows
  a correct pipeline. It does not show how well real fraud would be found.
- Simulated behaviour is simpler than real behaviour: no seasons, no drift, no thieves who adapt."""

_OWN_LIMITS = """\
- The features were chosen on simulated payments, knowing that simulator's mechanisms; others may
  suit this history better.
- Figures are of the days held out, which is one stretch of time."""

_ROWS = {
    "auc": "area under the ROC curve",
    "average_precision": "average precision",
    "oracle_average_precision": "the same of an oracle that knows the mechanisms",
    "card_precision": "card precision@100",
    "fraud_share": "share of frauds",
    "alerts_per_day": "alerts (REVIEW or DECLINE) a day",
    "review_precision": "alerts that are frauds",
    "review_recall": "frauds that are alerted",
    "declines_per_day": "DECLINE a day",
    "decline_precision": "declines that are frauds",
    "decline_recall": "frauds that are declined",
    "money_recall": "share of the frauds' worth that is alerted",
}
_SECOND = "second_world_"


def card(manifest: Manifest) -> str:
    """The card's Markdown; raises KeyError if the manifest is not of `models.train`."""
    training = manifest.training
    simulated = training["data"] == "handbook"
    asked = manifest.expected.get("asked")
    base = training.get("base")
    text = _TEXT.format(
        model_id=manifest.model_id,
        family=_FAMILIES[manifest.family],
        width=len(manifest.features),
        contract=manifest.feature_contract_id,
        purpose=(_SIMULATED if simulated else _OWN).format(**training),
        data=(_WORLD if simulated else _HISTORY).format(**training),
        base=f" It goes on from `{base}`." if base else "",
        figures=_figures(manifest),
        review=manifest.thresholds.review,
        decline=manifest.thresholds.decline,
        asked=f", picked by `{asked}` on days after those that it learnt from" if asked else "",
        expected=_expected(manifest),
        limits=_SIMULATED_LIMITS if simulated else _OWN_LIMITS,
        sha256=manifest.sha256,
        **{name: training[name] for name in _PRINTED},
    )
    return "\n\n".join(map(_filled, text.split("\n\n")))


_PRINTED = (
    "rows", "frauds", "start_date", "stop_date", "command", "seed", "libraries", "params",
)  # fmt: skip


def save(directory: Path, artefact: Artefact) -> None:
    """Write a model's directory and its card; the directory is made if it is not there."""
    write(directory, artefact)
    (directory / CARD_FILE).write_text(card(artefact.manifest), "utf-8")


def _filled(block: str) -> str:
    """A paragraph in lines of equal length, below its heading; tables and lists as they are."""
    head, newline, body = block.partition("\n") if block.startswith("#") else ("", "", block)
    if body.startswith(("|", "- ")) or not body.strip():
        return block
    end = "\n" if body.endswith("\n") else ""
    lines = textwrap.fill(body, WIDTH, break_long_words=False, break_on_hyphens=False)
    return head + newline + lines + end


def _figures(manifest: Manifest) -> str:
    """A table of the metrics, with the second world's beside where there is one."""
    metrics = manifest.metrics
    second = any(name.startswith(_SECOND) for name in metrics)
    heads = ["days held out", *(["second world, never learnt from"] if second else [])]
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for name, text in _ROWS.items():
        names = [name, *([_SECOND + name] if second else [])]
        if name in metrics:
            lines.append(f"| {text} | {' | '.join(_number(metrics[one]) for one in names)} |")
    return "\n".join(lines)


def _expected(manifest: Manifest) -> str:
    """What the thresholds promised, in a line."""
    expected = manifest.expected
    names = ("alerts_per_day", "review_precision", "review_recall")
    if not set(names) <= set(expected):
        return ""
    alerts, precision, recall = (_number(float(expected[name])) for name in names)
    return (
        f" Expected there: {alerts} alerts a day, {precision} of them frauds, {recall} of all"
        " frauds alerted."
    )


def _number(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.4f}"
