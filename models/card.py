"""The model card: a manifest in words, for whoever decides whether to use the model.

Takes a manifest, gives Markdown. Every figure comes from the manifest; nothing is measured here.
"""

from models.manifest import Manifest

_TEXT = """\
# {model_id}

A small neural network (inputs normalised and clipped, Gemm 64-64-32-1 with Relu, Sigmoid) that
estimates the probability that a payment is fraud. It reads the {width} features of contract
`{contract}`: the payment's own fields, and the profiles of its customer and its terminal.

**Trained on simulated payments.** It shows that the pipeline works and what its figures look
like. It knows no real fraud: train it on your own labelled history before it decides about
anybody's money.

## Data
{training_rows:,} payments ({training_frauds:,} frauds) of {customers:,} customers and
{terminals:,} terminals, simulated by `models/simulate.py`: stolen cards, compromised terminals,
and a few frauds that look like any other payment. Each day's profiles are computed from the days
before it only, with labels a week late. Thresholds come from the week after the training days,
the figures below from the {test_rows:,} payments of the two weeks after that, and from as many
days of a second population that took no part.

## Figures
| | test weeks | second population |
|---|---|---|
{rows}

REVIEW from a score of {review:.4f} on (chosen as the top 1 % of the validation week), DECLINE
from {decline:.4f} on (chosen for a precision of 90 % there).

## Limits
- Simulated behaviour is simpler than real behaviour; these figures say nothing about real
  payments.
- Profiles say what was usual until the last backfill. A burst of payments within the day shows in
  no feature.
- A compromised terminal shows only once labels of its frauds have come in.
- Amounts are compared as they are: the simulation knows one currency.
- Hours are UTC. No feature is a person's attribute; country is the terminal's, compared with the
  usual one.
- A score's bits are the same in every batch on one machine; between kinds of CPU the last ones
  may differ.

## Made by
`{command}` (seed {seed}; {libraries}). SHA-256 of `scorer.onnx`: `{sha256}`.
"""

_ROWS = {
    "auc": "area under the ROC curve",
    "average_precision": "average precision",
    "fraud_share": "share of frauds",
    "review_share": "alerts (REVIEW or DECLINE), share of payments",
    "review_precision": "alerts that are frauds",
    "review_recall": "frauds that are alerted",
    "decline_share": "DECLINE, share of payments",
    "decline_precision": "declines that are frauds",
    "decline_recall": "frauds that are declined",
}


def card(manifest: Manifest) -> str:
    """The card's Markdown; raises KeyError if the manifest is not of `models.train`."""
    metrics, training = manifest.metrics, manifest.training
    rows = [
        f"| {text} | {metrics[name]:.4f} | {metrics['second_population_' + name]:.4f} |"
        for name, text in _ROWS.items()
    ]
    libraries = ("numpy", "scikit-learn", "onnx", "onnxruntime")
    return _TEXT.format(
        model_id=manifest.model_id,
        width=len(manifest.features),
        contract=manifest.feature_contract_id,
        rows="\n".join(rows),
        review=manifest.thresholds.review,
        decline=manifest.thresholds.decline,
        sha256=manifest.sha256,
        libraries=", ".join(f"{name} {training[name]}" for name in libraries),
        **training,
    )
