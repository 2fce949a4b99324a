"""What a campaign came to: counts, times, laws, and how it is shown.

In: what a campaign found. Out: a JSON object, lines for people, and a row of a Markdown table.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.chaos.schedule import KINDS, SESSION_MS, Tier
from verify import Report
from verify.report import LAWS, UNDECIDED

TAKEOVER_S_MAX, LEAVE_S_MAX = SESSION_MS / 1000 + 3.0, 2.0
HEADS = (
    "seed",
    "transactions",
    "s",
    *KINDS,
    "takeover s",
    "leave s",
    "ended by themselves",
    "verdict",
)


@dataclass(slots=True)
class Verdict:
    """What a campaign came to; `violations` must be empty, and `late`, what took too long.

    `takeovers` and `leaves` are seconds, and whether nothing else was wrong at the time: only then
    they are held to their limits. `ended` are workers that stopped by themselves.
    """

    seed: int
    tier: Tier
    faults: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    provoked: int = 0
    ended: list[str] = field(default_factory=list)
    takeovers: list[tuple[float, str, bool]] = field(default_factory=list)
    leaves: list[tuple[float, bool]] = field(default_factory=list)
    report: Report | None = None
    late: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    seconds: float = 0.0
    transactions: int = 0

    @property
    def holds(self) -> bool:
        """Whether all went as it must, and the checker has said so."""
        return self.is_right and not self.late and not self.unchecked

    @property
    def is_right(self) -> bool:
        """Whether nothing is wrong, however long it took."""
        return not self.violations and self.report is not None and self.report.holds

    @property
    def unchecked(self) -> list[str]:
        """The laws for which there was nothing to check: too little was scored for good, say."""
        return [law for law in LAWS if self.report and self.report.verdict(law) == UNDECIDED]

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        if not self.is_right:
            return "VIOLATED"
        but = ["late"] if self.late else []
        but += [f"not checked: {', '.join(self.unchecked)}"] if self.unchecked else []
        return f"holds, but {' and '.join(but)}" if but else "holds"

    @property
    def takeover_s_max(self) -> float | None:
        """The longest undisturbed takeover after a kill; None where there was none."""
        return max((took for took, _, alone in self.takeovers if alone), default=None)

    @property
    def leave_s_max(self) -> float | None:
        """The longest undisturbed clean leave."""
        return max((took for took, alone in self.leaves if alone), default=None)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "seed": self.seed,
            "transactions": self.transactions,
            "seconds": round(self.seconds, 1),
            "faults": dict(self.faults),
            "crash_points": dict(self.points),
            "provoked_kills": self.provoked,
            "takeover_s_max": _rounded(self.takeover_s_max),
            "takeover_disturbed_s_max": _rounded(
                max((took for took, _, alone in self.takeovers if not alone), default=None)
            ),
            "leave_s_max": _rounded(self.leave_s_max),
            "ended_by_themselves": self.ended,
            "late": self.late,
            "violations": self.violations,
            "report": None if self.report is None else self.report.as_json(),
            "ok": self.holds,
        }

    def lines(self) -> list[str]:
        """For people."""
        found = self.as_json()
        lines = [f"{name}: {value}" for name, value in found.items() if name != "report"]
        laws = [] if self.report is None else self.report.lines()
        return [*lines, *laws, self.word]

    def append_to(self, path: Path) -> None:
        """Append a row to a Markdown table, which is begun where there is none."""
        cells = [
            self.seed, f"{self.transactions:,}", round(self.seconds),
            *(self.faults[kind] for kind in KINDS),
            _rounded(self.takeover_s_max), _rounded(self.leave_s_max),
            len(self.ended), self.word,
        ]  # fmt: skip
        begun = path.exists()
        with path.open("a", encoding="utf-8") as file:
            if not begun:
                file.write(_row(HEADS) + _row(["---"] * len(HEADS)))
            file.write(_row(cells))


def _row(cells: Any) -> str:
    return "| " + " | ".join(map(str, cells)) + " |\n"


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
