"""The report's pictures, as SVG text that takes its colours from the page it stands in.

In: an evaluation and its mistakes. Out: an `<svg>` element for each picture, of vector shapes and
text, without identifiers of its own, dates or addresses to fetch: same figures, same bytes.
Colours are drawn as place-holders and written as CSS variables, so that a page can be light or
dark. Needs matplotlib.
"""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from models.evaluate import BOOK, CALLED, ORACLE, Evaluation
from models.handbook import NO_FRAUD
from models.metrics import Floats
from models.mistakes import SCENARIOS, Group, Mistakes
from models.protocol import TEST_DAYS
from models.threshold import Costs, money_curve

COLOURS = {
    "ink": "#010101", "muted": "#020202", "grid": "#030303", "model": "#040404",
    "book": "#050505", "oracle": "#060606", "good": "#070707", "bad": "#080808",
}  # fmt: skip
INK, MUTED, GRID = COLOURS["ink"], COLOURS["muted"], COLOURS["grid"]
MODEL, GOOD, BAD = COLOURS["model"], COLOURS["good"], COLOURS["bad"]

STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}
SCORE_MIN, SCORE_MAX = 1e-4, 1 - 1e-4
SCORE_TICKS = (0.0001, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)
CURVE_POINTS = 400
CALIBRATION_BINS = 16
WIDE, HALF = 9.6, 4.7


def precision_recall(evaluation: Evaluation) -> str:
    """Precision against recall: the chosen model, the book's recipe, the oracle."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        fraud = _fraud(evaluation)
        looks = {evaluation.chosen: ("model", "-"), BOOK: ("book", "-"), ORACLE: ("oracle", "--")}
        for name, (colour, line) in looks.items():
            if name not in evaluation.scores:
                continue
            precision, recall, _ = precision_recall_curve(fraud, _together(evaluation, name))
            points = _thinned(-recall)
            axes.plot(
                recall[points],
                precision[points],
                line,
                color=COLOURS[colour],
                label=CALLED.get(name, name),
            )
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="lower left")

    return _svg(draw, HALF, 3.5)


def calibration(evaluation: Evaluation) -> str:
    """The share of frauds that came against the score, with 95 % intervals."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        scores, fraud = _together(evaluation, evaluation.chosen), _fraud(evaluation)
        place = np.digitize(scores, np.geomspace(SCORE_MIN, 1, CALIBRATION_BINS))
        bins = [place == k for k in np.unique(place)]
        said = np.array([scores[inside].mean() for inside in bins])
        count = np.array([inside.sum() for inside in bins])
        came = np.array([fraud[inside].mean() for inside in bins])
        low, high = _interval(came, count)
        axes.plot((SCORE_MIN, 1), (SCORE_MIN, 1), "--", color=MUTED, linewidth=1)
        shown = came > 0
        axes.vlines(said[shown], low[shown], high[shown], color=MODEL, linewidth=1)
        axes.plot(said[shown], came[shown], "o", color=MODEL, markersize=4.5)
        axes.set(xlabel="score", ylabel="share of frauds", xscale="log", yscale="log")

    return _svg(draw, HALF, 3.5)


def by_scenario(evaluation: Evaluation) -> str:
    """How scores are spread for honest payments and for each kind of fraud."""
    scenario = evaluation.data.payments.scenario[evaluation.data.together]
    kinds = {NO_FRAUD: "honest"} | {k: v for k, v in SCENARIOS.items() if (scenario == k).any()}

    def draw(figure: Figure) -> None:
        rows = figure.subplots(len(kinds), 1, sharex=True)
        logits = _logit(_together(evaluation, evaluation.chosen))
        edges = np.linspace(_logit(SCORE_MIN), _logit(SCORE_MAX), 61)
        for axes, (kind, name) in zip(rows, kinds.items(), strict=True):
            values = logits[scenario == kind]
            counts, _ = np.histogram(values, edges)
            colour = GOOD if kind == NO_FRAUD else BAD
            axes.stairs(counts / len(values), edges, fill=True, color=colour, alpha=0.75)
            axes.set_title(f"{name} ({len(values):,})", pad=2)
            axes.set_yticks([])
            axes.grid(visible=False)
            axes.spines["left"].set_visible(False)
            for limits in evaluation.thresholds:
                axes.axvline(_logit(limits.review), color=MUTED, linewidth=0.8, linestyle=":")
                axes.axvline(_logit(limits.decline), color=MUTED, linewidth=0.8)
        ticks = [f"{tick:g}" for tick in SCORE_TICKS]
        rows[-1].set_xticks([float(_logit(tick)) for tick in SCORE_TICKS], ticks)
        rows[-1].set_xlabel("score")

    return _svg(draw, WIDE, 4.2)


def alerts(evaluation: Evaluation, costs: Costs) -> str:
    """Alerts a day, and money saved a day, against the threshold."""

    def draw(figure: Figure) -> None:
        data = evaluation.data
        amount_minor = data.payments.amount_minor[data.together]
        scores = _together(evaluation, evaluation.chosen).astype(np.float32)
        days = TEST_DAYS * len(data.rows)
        curves = money_curve(scores, _fraud(evaluation), amount_minor, days, costs)
        threshold, count, saved = (curve[1:] for curve in curves)
        points = _thinned(-np.log(np.maximum(threshold, SCORE_MIN)))
        left, right = figure.subplots(1, 2)
        left.plot(threshold[points], count[points], color=MODEL)
        left.set(ylabel="alerts a day", yscale="log", ylim=(1, 2 * count.max()))
        right.plot(threshold[points], saved[points], color=MODEL)
        right.axhline(0, color=MUTED, linewidth=0.8)
        right.set(ylabel="money saved a day", ylim=(-0.25 * saved.max(), 1.1 * saved.max()))
        for axes in (left, right):
            axes.set(xlabel="review threshold", xscale="log", xlim=(1e-3, 1))
            for limits in evaluation.thresholds:
                axes.axvline(limits.review, color=MUTED, linewidth=0.8, linestyle=":")

    return _svg(draw, WIDE, 3.2)


def errors(found: Mistakes) -> str:
    """Frauds that are missed, and honest payments that are stopped, by what they are like."""

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, len(found.by), sharey="row")
        for column, (name, groups) in enumerate(found.by.items()):
            missed = [(100 * one.missed_share, one.frauds) for one in groups]
            stopped = [(1e4 * one.stopped_share, one.honest) for one in groups]
            _bars(upper[column], groups, missed, BAD)
            _bars(lower[column], groups, stopped, GOOD)
            upper[column].set_title(name)
        upper[0].set_ylabel("frauds missed, %")
        lower[0].set_ylabel("honest stopped of 10,000")

    return _svg(draw, WIDE, 4.4)


def _bars(
    axes: Axes, groups: Sequence[Group], bars: Sequence[tuple[float, int]], colour: str
) -> None:
    """A bar for each group, and over it how many payments it is a share of."""
    for place, (height, count) in enumerate(bars):
        axes.bar(place, height, width=0.8, color=colour)
        many = f"{count / 1000:.0f}k" if count >= 1e4 else f"{count}"
        axes.annotate(many, (place, height), (0, 2), textcoords="offset points", ha="center",
                      fontsize=6.5, color=MUTED)  # fmt: skip
    axes.margins(y=0.12)
    axes.set_xticks(range(len(groups)), [one.name for one in groups])
    axes.grid(visible=False, axis="x")


def _svg(draw: Callable[[Figure], None], width: float, height: float) -> str:
    with mpl.rc_context({**STYLE, "svg.hashsalt": draw.__qualname__}):
        figure = Figure((width, height), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        draw(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    return _themed(buffer.getvalue())


def _themed(text: str) -> str:
    """The element alone, with the page's colours and the page's width."""
    svg = text[text.index("<svg") :]
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', _ROOT, svg, count=1)
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg


_ROOT = (
    r'<svg \1 role="img" xmlns="http://www.w3.org/2000/svg"'
    r' xmlns:xlink="http://www.w3.org/1999/xlink">'
)


def _together(evaluation: Evaluation, name: str) -> Floats:
    return np.concatenate(evaluation.scores[name])


def _fraud(evaluation: Evaluation) -> NDArray[np.int8]:
    fraud: NDArray[np.int8] = evaluation.data.payments.fraud[evaluation.data.together]
    return fraud


def _thinned(along: Floats) -> NDArray[np.int64]:
    """Few enough places of a curve, evenly along a rising coordinate, the ends included."""
    places = np.searchsorted(along, np.linspace(along[0], along[-1], CURVE_POINTS))
    return np.unique(places)


def _logit(score: Any) -> Any:
    clipped = np.clip(np.asarray(score, np.float64), SCORE_MIN, SCORE_MAX)
    return np.log(clipped / (1 - clipped))


def _interval(share: Floats, count: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Wilson's 95 % interval of a share."""
    z = 1.96
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    return middle - half, middle + half
