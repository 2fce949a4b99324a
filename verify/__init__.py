"""The independent checker: reads what a deployment left behind and states the laws it must obey.

A program of its own: nothing of `app/` and nothing of the features' compiled path is in it, so that
a fault of theirs cannot hide here. `run` reads Kafka and Redis, `judge` looks at any evidence; both
give a `Report`. `python -m verify` is the command.
"""

from verify.evidence import CannotDecide, CannotReach, Evidence, Record
from verify.laws import judge
from verify.main import run
from verify.report import Report
from verify.settings import Settings

__all__ = [
    "CannotDecide",
    "CannotReach",
    "Evidence",
    "Record",
    "Report",
    "Settings",
    "judge",
    "run",
]
