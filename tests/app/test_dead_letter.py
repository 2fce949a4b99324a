"""Dead letters by themselves: what they say, which are meant, how foreign bytes are shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dead_letter import (
    DAMAGED,
    DeadLetter,
    Source,
    Wanted,
    again,
    as_time,
    instant_ms,
    known_codes,
    remedy,
    shown,
)
from app.decode_twin import Fault, spans
from app.dlq_show import Shown, dumped, fields, place
from app.emit import Route, letters
from app.errors import ConfigError, RejectCode
from app.records import Header, Reject
from app.writers import Writers
from tests.app.builders import record_batch
from tests.app.test_pipeline import value

NOW_MS = 1_800_000_000_000


def letter(
    code: RejectCode = RejectCode.BAD_AMOUNT,
    *,
    headers: tuple[tuple[str, bytes | None], ...] = (),
    raw: bytes = b"v",
    written_ms: int = NOW_MS,
) -> DeadLetter:
    """A dead letter as a worker writes it, of the record transactions/1/7."""
    batch = record_batch([(1, 7, b"k", raw)], headers=[headers])
    [made] = letters(batch, [Reject(0, code, "decode")], Route("", "", "dead")).letters
    return DeadLetter(made.partition, 3, written_ms, made.key, made.value, made.headers)


def test_a_letter_says_where_it_came_from() -> None:
    """What `emit` writes is read back; a count that is none counts as none."""
    its = letter(headers=(("riskwire.replay.count", b"2"),))
    assert its.source == Source("transactions", 1, 7)
    assert (its.code, its.replays, its.is_omitted) == ("BAD_AMOUNT", 2, False)
    assert letter(headers=(("riskwire.replay.count", b"-1"),)).replays == 0
    assert letter(headers=(("riskwire.replay.count", b"9" * 5000),)).replays == 0
    nothing = DeadLetter(0, 0, 0, None, None, ())
    assert (nothing.source, nothing.code, nothing.replays) == (None, "", 0)


def test_a_replay_of_a_replay_counts_on_and_keeps_the_first_time() -> None:
    """Rejected, replayed and rejected again: the record's own headers stay, ours are renewed."""
    first = letter(headers=(("a", b"1"), ("a", None)))
    once = again(first, Source("transactions", 1, 7))
    batch = record_batch([(1, 99, once.key, once.value)], headers=[once.headers], polled_us=5)
    [made] = letters(batch, [Reject(0, RejectCode.BAD_KEY, "validate")], Route("", "", "d")).letters
    second = DeadLetter(1, 4, NOW_MS, made.key, made.value, made.headers)
    assert second.source == Source("transactions", 1, 99)
    assert second.says("riskwire.error.first_seen") == first.says("riskwire.error.first_seen")
    twice = again(second, Source("transactions", 1, 99))
    assert [h for h in twice.headers if h.name == "a"] == [Header("a", b"1"), Header("a", None)]
    ours = {h.name: h.value for h in twice.headers if h.name.startswith("riskwire.")}
    assert ours == {
        "riskwire.error.first_seen": second.says("riskwire.error.first_seen").encode(),
        "riskwire.replay.count": b"2",
        "riskwire.replay.of": b"transactions/1/99",
    }
    assert len(twice.headers) == 5


def test_every_part_of_a_filter_must_fit() -> None:
    """Codes, times (from, and before), partition and source topic."""
    its = letter()
    assert Wanted().fits(its)
    assert Wanted(frozenset({"BAD_AMOUNT"}), NOW_MS, NOW_MS + 1, 1, "transactions").fits(its)
    for wanted in (
        Wanted(codes=frozenset({"BAD_KEY"})),
        Wanted(since_ms=NOW_MS + 1),
        Wanted(until_ms=NOW_MS),
        Wanted(partition=0),
        Wanted(topic="labels"),
    ):
        assert not wanted.fits(its)


def test_times_and_codes_as_given() -> None:
    """ISO times are UTC unless they say otherwise, spans end now; what is neither is refused."""
    assert instant_ms("90s", NOW_MS) == NOW_MS - 90_000
    assert instant_ms("2h", NOW_MS) == NOW_MS - 7_200_000
    assert instant_ms("2027-01-15T08:00", NOW_MS) == NOW_MS
    assert instant_ms("2027-01-15T09:00+01:00", NOW_MS) == NOW_MS
    assert as_time(NOW_MS) == "2027-01-15T08:00:00Z"
    with pytest.raises(ConfigError, match="2h"):
        instant_ms("yesterday", NOW_MS)
    assert known_codes(["bad_key"]) == {"BAD_KEY"}
    with pytest.raises(ConfigError, match="NO_SUCH"):
        known_codes(["NO_SUCH"])


@pytest.mark.parametrize("text", ["1:2:3", "1", ":", "a:1", "1:-1", "", "-/1:2"])
def test_a_place_that_is_none_is_refused(text: str) -> None:
    """The message says where places are listed."""
    assert place("3:17") == (3, 17)
    with pytest.raises(ConfigError, match="--list"):
        place(text)


@pytest.mark.parametrize("code", RejectCode)
def test_every_code_has_a_remedy(code: RejectCode) -> None:
    """Each says what to do; a foreign one says that it is foreign."""
    assert len(remedy(code)) > 20
    assert remedy("MADE_UP\x1b") not in (DAMAGED, remedy(code))


@given(st.binary(max_size=2000))
def test_foreign_bytes_stay_in_their_line(data: bytes) -> None:
    """However hostile: one bounded line without control characters."""
    for line in (shown(data), *dumped(data, Shown(values=True, full=False))):
        assert line.isprintable()
        assert len(line) < 2000
    assert sum(1 for _ in dumped(data, Shown(values=True, full=False))) <= 17
    assert sum(1 for _ in dumped(data, Shown(values=True, full=True))) == (len(data) + 15) // 16


def test_the_wrong_field_is_named_without_contents() -> None:
    """Fields up to the wrong one with their places; with values also their bytes."""
    raw, _ = value(1)
    customer = raw[13:16].hex(" ")
    named = list(fields(letter(raw=raw), Writers(), Shown(values=False, full=False)))
    assert named[-1] == "  it decodes; wrong is amount_minor"
    assert any(line.strip().startswith("customer_id: bytes ") for line in named)
    assert not any(customer in line for line in named)
    cut = letter(RejectCode.TRUNCATED, raw=raw[:30])
    [*_, last] = fields(cut, Writers(), Shown(values=False, full=False))
    assert "TRUNCATED" in last or "BAD_LENGTH" in last
    assert customer in "".join(fields(letter(raw=raw), Writers(), Shown(values=True, full=True)))


@given(st.binary(max_size=200))
def test_spans_end_or_say_a_fault(data: bytes) -> None:
    """Foreign bytes are never an error of ours."""
    try:
        ends = [end for _, _, end in spans(data, Writers()) if data] if data else []
    except Fault:
        return
    assert not ends or ends[-1] == len(data)
