"""A million mutants: none raises, none is lost, and the twin says the same of a sample.

RISKWIRE_MUTANTS and RISKWIRE_MUTANTS_SEED ask for more, or others; `python -m tests.mutants` too.
"""

import os

import numpy as np
import pytest

from app import decode
from app.decode_twin import reject
from app.errors import RejectCode
from app.records import Rejects
from tests import mutants

COUNT = int(os.environ.get("RISKWIRE_MUTANTS", "1000000"))
SEED = int(os.environ.get("RISKWIRE_MUTANTS_SEED", "20261121"))
COMPARED = 50_000


def test_mutants_are_counted_out_and_judged_alike() -> None:
    """Every one is a row or a reject; of a sample both decoders say the same, column by column."""
    tally = mutants.judge(COUNT, SEED, COMPARED)
    assert tally.judged == COUNT
    assert tally.compared >= COMPARED
    assert 0.02 < tally.accepted / COUNT < 0.5
    impossible = {RejectCode.UNDECODABLE, RejectCode.REFUSED_SCHEMA, RejectCode.HEADERS_TOO_LARGE,
                  RejectCode.NULL_VALUE, RejectCode.VALUE_TOO_LARGE}  # fmt: skip
    assert set(tally.codes) == set(RejectCode) - impossible


def test_the_same_seed_gives_the_same_mutants() -> None:
    """A fault found by a seed is found again; another seed damages otherwise."""
    first, again, other = (mutants.mutants(seed, 1000) for seed in (5, 5, 6))
    assert [first.values[i] for i in range(1000)] == [again.values[i] for i in range(1000)]
    assert [first.values[i] for i in range(1000)] != [other.values[i] for i in range(1000)]


@pytest.mark.parametrize("bug", ["lost", "accepted", "code", "column"])
def test_the_judge_sees_a_fault(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that loses a record, accepts one, or reads another amount is found out."""
    right = decode.decode

    def wrong(*arguments: object) -> decode.Decoded:
        result = right(*arguments)  # type: ignore[arg-type]
        rejects, rows = result.rejects, result.transactions
        if bug == "lost":
            rejects = rejects[1:]
        elif bug == "code":
            rejects = Rejects.of([reject(each.row, RejectCode.BAD_ID) for each in rejects])
        elif bug == "column":
            rows = rows.take(np.arange(len(rows)))
            rows.amount_minor[:] += 1
        else:
            rows = rows.take(np.append(np.arange(len(rows)), 0) if len(rows) else rows.row)
            rows.row[-1:] = [each.row for each in rejects[:1]]
            rejects = rejects[1:]
        return decode.Decoded(rows, rejects, result.unresolved)

    monkeypatch.setattr(decode, "decode", wrong)
    with pytest.raises(AssertionError):
        mutants.judge(2000, SEED, 2000)
