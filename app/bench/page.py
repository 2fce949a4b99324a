"""A latency report as one self-contained HTML page: curves against load, the table, where it ran.

In: a report of `app.bench.latency` or `app.bench.sustainable`. Raises ConfigError without
matplotlib, which the extra `bench` brings.
"""

import html
import io
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.errors import ConfigError

LINES = (("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9"))
COLOURS = {"riskwire": "#0b6e4f", "echo": "#8d99ae"}
DASHES = {"p50_ms": ":", "p99_ms": "-", "p999_ms": "--"}
COLUMNS = (
    "system", "delivery", "arrivals", "rate", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "p9999_ms",
    "max_ms", "slip_p99_ms", "cpu_us_per_tx", "hash", "void",
)  # fmt: skip
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1d2733; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #dde3ea; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
figure { margin: 1.5rem 0; } figure svg { width: 100%; height: auto; }
.wide { overflow-x: auto; } .void { color: #9aa5b1; }
pre { font-size: 12px; white-space: pre-wrap; }
"""


def write(report: Mapping[str, Any], path: Path) -> None:
    """Write the page; raises ConfigError where it cannot be written."""
    try:
        path.write_text(page(report), "utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def page(report: Mapping[str, Any]) -> str:
    """The page's text."""
    runs, where = report["runs"], report["environment"]
    rate = report.get("sustainable")
    held = f"<p>Sustainable: {rate:,.0f} tx/s.</p>" if rate else ""
    figures = "".join(
        f"<figure>{_curves([r for r in runs if r['delivery'] == delivery], delivery)}</figure>"
        for delivery in dict.fromkeys(run["delivery"] for run in runs)
    )
    head = "".join(f"<th>{html.escape(name.removesuffix('_ms'))}</th>" for name in COLUMNS)
    body = "".join(_row(run) for run in runs)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Riskwire: latency</title>'
        f"<style>{STYLE}</style><h1>From due time to readable</h1>"
        "<p>Open loop: a payment is sent when it is due, and latency counts from then until a "
        "reader of committed records has its score. Milliseconds. The echo passes records on and "
        "does nothing else: the floor. Void: the sender itself was late.</p>"
        f'{held}{figures}<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
        f"<h2>Where</h2><pre>{html.escape(json.dumps(where, indent=1))}</pre></html>\n"
    )


def _row(run: Mapping[str, Any]) -> str:
    cells = (run.get(name, "") for name in COLUMNS)
    shown = (f"{c:,.2f}" if isinstance(c, float) else html.escape(str(c)) for c in cells)
    css = ' class="void"' if run["void"] else ""
    return f"<tr{css}>" + "".join(f"<td>{cell}</td>" for cell in shown) + "</tr>"


def _curves(runs: Sequence[Mapping[str, Any]], delivery: str) -> str:
    """An SVG: percentiles against the rate, those of void runs and bursts left out."""
    if find_spec("matplotlib") is None:
        raise ConfigError("a page needs matplotlib: install riskwire with extra `bench`")
    from matplotlib.figure import Figure  # noqa: PLC0415 -- takes half a second

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for system, colour in COLOURS.items():
        its = [r for r in runs if r["system"] == system and not r["void"]]
        its = sorted((r for r in its if r["arrivals"] != "burst"), key=lambda run: run["rate"])
        for name, label in LINES if its else ():
            axes.plot(
                [r["rate"] for r in its], [r[name] for r in its], DASHES[name],
                color=colour, marker="o", markersize=3, label=f"{system} {label}",
            )  # fmt: skip
    axes.set(yscale="log", xlabel="transactions a second", ylabel="ms", title=delivery)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.yaxis.set_minor_formatter("{x:,g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(ncols=2, fontsize=8)
    out = io.StringIO()
    figure.savefig(out, format="svg")
    return out.getvalue()[out.getvalue().index("<svg") :]
