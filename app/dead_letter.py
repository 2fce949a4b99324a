"""Dead letters as an operator sees them: what one says, which are meant, what to do about it.

In: records of the dead-letters topic with their headers. Out: where each came from and why it was
rejected, and the record that a replay sends. Headers are data like any other: what is not as
`app.emit` writes it is None, never an error. Pure: no Kafka, no clock.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, Self

from app.errors import ConfigError, RejectCode
from app.records import Header, Letter

ERROR = "riskwire.error."
FIRST_SEEN = ERROR + "first_seen"
ENVELOPE = "riskwire.envelope"
REPLAY = "riskwire.replay."
COUNT, OF = REPLAY + "count", REPLAY + "of"
_PLACE = ("source.topic", "source.partition", "source.offset")
_CAUSES = ("code", "stage", "message", "omitted", *_PLACE)
OURS = frozenset({ENVELOPE, FIRST_SEEN, COUNT, OF, *(ERROR + name for name in _CAUSES)})
"""Headers whose values a worker or a replay wrote; all others may hold anything."""
SHOWN_CHARACTERS = 120
_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Source(NamedTuple):
    """Where a record lay when it was rejected; its text is TOPIC/PARTITION/OFFSET."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The position that a text says; None where it says none."""
        topic, _, rest = text.strip().partition("/")
        partition, _, offset = rest.partition("/")
        if not (topic and _is_number(partition) and _is_number(offset)):
            return None
        return cls(topic, int(partition), int(offset))

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record of the dead-letters topic; `written_ms` is when it was written there."""

    partition: int
    offset: int
    written_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]

    def says(self, name: str) -> str:
        """The last header of that name as text, "" where there is none."""
        found = [header.value or b"" for header in self.headers if header.name == name]
        return found[-1].decode("utf-8", "backslashreplace") if found else ""

    @property
    def code(self) -> str:
        """Why it was rejected, one of RejectCode where a worker wrote it."""
        return self.says(ERROR + "code")

    @property
    def source(self) -> Source | None:
        """Where the record lay; None in what no worker wrote."""
        return Source.parse("/".join(self.says(ERROR + name) for name in _PLACE))

    @property
    def replays(self) -> int:
        """How often it was replayed before it came here."""
        count = self.says(COUNT)
        return int(count) if _is_number(count) else 0

    @property
    def is_omitted(self) -> bool:
        """Whether its key, value and headers were too long to be kept: they are at its source."""
        return bool(self.says(ERROR + "omitted"))


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which dead letters are meant: all that fit every part that is given.

    Times are of their writing to the dead-letters topic, in ms: `since_ms` and later, before
    `until_ms`.
    """

    codes: frozenset[str] = frozenset()
    since_ms: int = 0
    until_ms: int | None = None
    partition: int | None = None
    topic: str = ""

    def fits(self, letter: DeadLetter) -> bool:
        """Whether this one is meant."""
        return (
            (not self.codes or letter.code in self.codes)
            and letter.written_ms >= self.since_ms
            and (self.until_ms is None or letter.written_ms < self.until_ms)
            and self.partition in (None, letter.partition)
            and (not self.topic or letter.says(ERROR + _PLACE[0]) == self.topic)
        )


def known_codes(texts: Iterable[str]) -> frozenset[str]:
    """Reject codes as given on a command line; raises ConfigError for one that is none."""
    codes = frozenset(text.upper() for text in texts)
    if unknown := codes - set(RejectCode):
        raise ConfigError(f"no such code: {', '.join(sorted(unknown))}; see `riskwire dlq ls`")
    return codes


def instant_ms(text: str, now_ms: int) -> int:
    """A time in ms: ISO 8601 (UTC if it does not say), or how long ago, as 90s, 15m, 2h or 3d.

    Raises ConfigError.
    """
    if ago := _AGO.fullmatch(text):
        return now_ms - int(timedelta(**{_UNITS[ago[2]]: int(ago[1])}) / timedelta(milliseconds=1))
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{text!r} is no time; write 2026-01-31T14:00 or 2h") from None
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def as_time(ms: int) -> str:
    """A time in ms as ISO 8601 in UTC, to the second."""
    stamp = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)
    return stamp.isoformat(timespec="seconds").replace("+00:00", "Z")


def original(letter: DeadLetter) -> tuple[Header, ...]:
    """The headers with which the record came."""
    return tuple(h for h in letter.headers if h.name != ENVELOPE and not h.name.startswith(ERROR))


def again(letter: DeadLetter, source: Source) -> Letter:
    """The record as a replay sends it, to the partition that it came from.

    It says of which position it is a replay, how often that was done and, since `app.emit` keeps
    it, when it was first rejected.
    """
    kept = [h for h in original(letter) if not h.name.startswith(REPLAY)]
    seen = [h for h in letter.headers if h.name == FIRST_SEEN][-1:]
    ours = [Header(COUNT, b"%d" % (letter.replays + 1)), Header(OF, str(source).encode())]
    headers = (*kept, *seen, *ours)
    return Letter(source.topic, source.partition, letter.key, letter.value, headers)


def shown(data: str | bytes, characters_max: int = SHOWN_CHARACTERS) -> str:
    """Foreign text in one line of a terminal: control characters escaped, its length bounded."""
    text = data if isinstance(data, str) else data.decode("utf-8", "backslashreplace")
    cut = text[:characters_max]
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return line if len(text) == len(cut) else f"{line}… ({len(text)} characters)"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


REMEDIES: dict[RejectCode, str] = {
    RejectCode.NULL_VALUE: "a producer sends tombstones: mend it; a replay is rejected again",
    RejectCode.EMPTY_VALUE: "mend the producer; a replay is rejected again",
    RejectCode.VALUE_TOO_LARGE: "raise RISKWIRE_VALUE_BYTES_MAX if it is a payment, then replay",
    RejectCode.HEADERS_TOO_LARGE: "raise RISKWIRE_HEADERS_MAX or RISKWIRE_HEADER_BYTES_MAX,"
    " then replay",
    RejectCode.BAD_MAGIC: "something else was sent to this topic: find its producer;"
    " a replay is rejected again",
    RejectCode.UNKNOWN_SCHEMA: "register the writer's schema or set RISKWIRE_SCHEMA_REGISTRY_URL,"
    " then replay",
    RejectCode.BAD_KEY: "the producer's key must be the customer_id: mend it and send anew;"
    " a replay is rejected again",
    RejectCode.BAD_TIME: "check the producer's clock and unit (microseconds); a time in the future"
    " passes when it has come, or with a larger RISKWIRE_FUTURE_S_MAX: then replay",
    RejectCode.BAD_CURRENCY: "mend the producer; a replay helps once a worker knows the code",
}
"""What to do about a code; DAMAGED for those that are not named."""
DAMAGED = (
    "the producer writes damaged values, or by another schema than its framing says: mend it and"
    " send anew; a replay is rejected again unless a worker's fault was mended"
)
WRONG_FIELDS: dict[RejectCode, str] = {
    RejectCode.BAD_ID: "an identifier or code",
    RejectCode.BAD_KEY: "customer_id, which is not the key",
    RejectCode.BAD_AMOUNT: "amount_minor",
    RejectCode.BAD_CURRENCY: "currency",
    RejectCode.BAD_TIME: "a time",
}
"""Where a value decodes, the field that its code is about."""


def remedy(code: str) -> str:
    """What to do about a reject code."""
    if code not in set(RejectCode):
        return "no worker of this version wrote it"
    return REMEDIES.get(RejectCode(code), DAMAGED)
