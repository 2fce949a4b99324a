"""The verdict, law by law: how many were checked, and where the first few violations lie."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

LAWS = {
    "C1": "every committed input record has one output of its kind",
    "C2": "no output comes twice",
    "C3": "outputs are in the order and partition of their inputs",
    "C4": "a reader beside has seen the same",
    "C5": "committed offsets are where the outputs end",
    "C6": "state in Redis equals its recomputation, bit for bit",
    "C7": "vectors equal their recomputation, bit for bit",
    "C8": "scores are the model's of these vectors, bit for bit",
    "C9": "alerts are those of the thresholds, and say what the scores say",
    "C10": "no transaction is open",
    "C11": "latency is recorded with every score",
}
EXAMPLES_MAX = 5
HELD, VIOLATED, UNDECIDED = "holds", "VIOLATED", "not checked"


class Violation(NamedTuple):
    """What is wrong, and exactly where."""

    law: str
    topic: str
    partition: int
    offset: int
    text: str

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}@{self.offset}: {self.text}"


@dataclass(slots=True)
class Report:
    """Of each law how many were checked; of violations how many, and the first few."""

    checked: Counter[str] = field(default_factory=Counter)
    violated: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """What was met besides: transactions, labels, dead letters, scores that C7 leaves out."""

    def add(self, law: str, topic: str, partition: int, offset: int, text: str) -> None:
        """Note a violation; -1 stands for no one offset."""
        self.violated[law] += 1
        if self.violated[law] <= EXAMPLES_MAX:
            self.violations.append(Violation(law, topic, partition, offset, text))

    def verdict(self, law: str) -> str:
        """Whether a law holds."""
        if self.violated[law]:
            return VIOLATED
        return HELD if law in self.checked else UNDECIDED

    @property
    def holds(self) -> bool:
        """Whether nothing is violated."""
        return not self.violated.total()

    def lines(self) -> list[str]:
        """A line a law, with the first violations below it."""
        out = []
        for law, text in LAWS.items():
            wrong = f", {self.violated[law]} violations" if self.violated[law] else ""
            out.append(
                f"{law:4}{self.verdict(law):12}{self.checked[law]:>9} checked{wrong}  {text}"
            )
            out += [f"      {each}" for each in self.violations if each.law == law]
        met = ", ".join(f"{count} {name}" for name, count in sorted(self.counts.items()))
        return [*out, f"met: {met or 'nothing'}"]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON's types."""
        return {
            "holds": self.holds,
            "violated": self.violated.total(),
            "laws": {
                law: {
                    "law": text,
                    "verdict": self.verdict(law),
                    "checked": self.checked[law],
                    "violated": self.violated[law],
                    "first": [v._asdict() for v in self.violations if v.law == law],
                }
                for law, text in LAWS.items()
            },
            "counts": dict(self.counts),
        }
