"""The named bombs, one by one and all together: their codes, their neighbours, their letters."""

import pytest

from app.bench import bombs
from app.bench.bombs import BOMBS, KEY, SCHEMAS, Bomb
from app.errors import RejectCode
from app.letters import letters_of
from app.records import Header
from tests.strategies import BOTH, LIMITS, Decode, batch, fields_of

WRITERS = bombs.writers()


def test_there_are_enough() -> None:
    """At least forty, of every part of a record; the refused schemas are those above 100."""
    assert len(BOMBS) >= 40
    assert any(bomb.headers for bomb in BOMBS.values())
    assert any(bomb.key != KEY for bomb in BOMBS.values())
    refused = [key for key in SCHEMAS if WRITERS.is_refused(0, key)]
    assert refused == [key for key in SCHEMAS if key > 100]


@BOTH
@pytest.mark.parametrize("name", BOMBS)
def test_each_comes_back_with_its_code(decode: Decode, name: str) -> None:
    """It is one reject of its code, the good records beside it are read, and its bytes are kept."""
    bomb, good = BOMBS[name], Bomb(RejectCode.BAD_ID, bombs.value())
    rows = (good, bomb, good)
    records = batch([r.value for r in rows], [r.key for r in rows], {1: bomb.headers})
    result = decode(records, WRITERS, LIMITS)
    assert [(each.row, each.code) for each in result.rejects] == [(1, bomb.code)]
    assert [row["transaction_id"] for row in fields_of(result.transactions)] == ["bomb"] * 2
    [letter] = letters_of(records, result.rejects, "dead", 4_000_000)
    assert (letter.key, letter.value) == (bomb.key, bomb.value)
    assert letter.headers[: len(bomb.headers)] == tuple(Header(*each) for each in bomb.headers)
    assert dict(letter.headers)["riskwire.error.code"] == bomb.code.encode()


@BOTH
def test_all_together(decode: Decode) -> None:
    """One batch of all of them: each is counted out with its own code, whatever came before."""
    each = list(BOMBS.values())
    headers = {row: bomb.headers for row, bomb in enumerate(each)}
    records = batch([b.value for b in each], [b.key for b in each], headers)
    result = decode(records, WRITERS, LIMITS)
    assert [reject.code for reject in result.rejects] == [bomb.code for bomb in each]
    assert len(result.transactions) == 0
