"""`riskwire dlq`: list dead letters, look at one, send their records again.

A replay is idempotent by source position. Each record goes back to the partition that it came from
in one Kafka transaction with a mark of its position in the topic `replays`, and what has a mark is
not sent. All replays of a group use one transactional id: making the producer fences one that is
still running and ends what a killed one had open, so the marks that are read then are all there
will be, and whatever becomes of a transaction, record and mark share it. Once a transaction failed
its producer is not used again: the replay ends, and may be run again.
Values are card data: nothing here prints them unless asked. Raises ConfigError, BrokerUnavailable.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from app.adapters.dead_letters import fetched, letters, replayed
from app.adapters.topics import describe_topics
from app.adapters.transport import open_transactor
from app.config import Settings
from app.dead_letter import DeadLetter, Source, Wanted, again, as_time, shown
from app.errors import BrokerUnavailable, ConfigError, RejectCode
from app.ports import Transactor
from app.records import Letter, Outbound

BATCH_RECORDS = 500
BATCH_BYTES = 8 << 20
BATCHES_PER_S = 10
SEND_BYTES_MAX = 100_000_000
"""Of a record, before it is compressed; what a broker takes is its own to say."""
CODES, NO_LETTER = frozenset(RejectCode), "(no letter)"
SENT, DONE, CAPPED, GONE, FOREIGN = "replayed", "already", "capped", "gone", "foreign"
OUTCOMES = {
    SENT: "sent again",
    DONE: "replayed before, not sent",
    CAPPED: "not sent: replayed too often (--count-max)",
    GONE: "not sent: bytes were omitted, and are not at the source position any more",
    FOREIGN: "not sent: no letter of a worker on these topics",
}


class Span(NamedTuple):
    """How many letters there are of a code, and when the first and the last were written."""

    letters: int
    oldest_ms: int
    newest_ms: int


@dataclass(frozen=True, slots=True)
class How:
    """How to replay: at most so many records (None: all), so fast, unless replayed so often."""

    rate_per_s: float
    records_max: int | None
    count_max: int
    dry_run: bool


def wanted_letters(settings: Settings, wanted: Wanted) -> Iterator[DeadLetter]:
    """The dead letters that are meant, of each partition in order."""
    found = letters(settings, wanted.partition, wanted.since_ms)
    return (letter for letter in found if wanted.fits(letter))


def ls(settings: Settings, wanted: Wanted, *, each: bool, as_json: bool) -> None:
    """Print the counts by code, or `each` letter as a line; never a key or a value."""
    found = wanted_letters(settings, wanted)
    if each:
        for letter in found:
            about = described(letter)
            typer.echo(json.dumps(about) if as_json else "  ".join(map(str, about.values())))
        return
    spans: dict[str, Span] = {}
    for letter in found:
        # A closed list, so that nothing that was forged into the topic grows it.
        code, at_ms = letter.code if letter.code in CODES else NO_LETTER, letter.written_ms
        count, oldest, newest = spans.get(code, Span(0, at_ms, at_ms))
        spans[code] = Span(count + 1, min(oldest, at_ms), max(newest, at_ms))
    rows = sorted(spans.items(), key=lambda item: -item[1].letters)
    if as_json:
        for code, (count, oldest, newest) in rows:
            row = {"code": code, "letters": count}
            row |= {"oldest": as_time(oldest), "newest": as_time(newest)}
            typer.echo(json.dumps(row))
        return
    total = sum(span.letters for span in spans.values())
    table = Table(title=settings.topic("dead_letters"), caption=f"{total:,} dead letters")
    for name in ("code", "letters", "oldest", "newest"):
        table.add_column(name, justify="right" if name == "letters" else "left")
    for code, (count, oldest, newest) in rows:
        table.add_row(code, f"{count:,}", as_time(oldest), as_time(newest))
    Console().print(table)


def described(letter: DeadLetter) -> dict[str, str | int]:
    """What may be said of a letter in one line: nothing of its key or value but their sizes."""
    return {
        "letter": f"{letter.partition}:{letter.offset}",
        "written": as_time(letter.written_ms),
        "code": shown(letter.code) or NO_LETTER,
        "source": shown(str(letter.source or "")),
        "key_bytes": len(letter.key or b""),
        "value_bytes": len(letter.value or b""),
        "replays": letter.replays,
    }


def replay(settings: Settings, wanted: Wanted, how: How, *, as_json: bool) -> int:
    """Send records again and say so; 1 where one that was meant cannot be sent."""
    work = Replay(settings, how)
    try:
        tally = work.run(wanted)
    except BrokerUnavailable as error:
        raise BrokerUnavailable(
            f"{error}; {work.tally[SENT]} were replayed. Perhaps another replay began: run this one"
            " again, and nothing is sent twice"
        ) from None
    if as_json:
        line = {"dry_run": how.dry_run, **{name: tally[name] for name in OUTCOMES}}
        typer.echo(json.dumps(line))
    else:
        table = Table(title="a dry run: nothing was sent" if how.dry_run else "replay")
        table.add_column("dead letters", justify="right")
        table.add_column("what became of them")
        for name, meaning in OUTCOMES.items():
            table.add_row(f"{tally[name]:,}", meaning)
        Console().print(table)
    return int(any(tally[name] for name in (CAPPED, GONE, FOREIGN)))


@dataclass(slots=True)
class Replay:
    """One run of a replay; `tally` counts what became of the letters so far."""

    settings: Settings
    how: How
    sleep: Callable[[float], None] = time.sleep
    tally: Counter[str] = field(default_factory=Counter)
    _transactor: Transactor | None = None
    _done: dict[tuple[str, int], set[int]] = field(default_factory=dict)
    _waiting: list[Letter] = field(default_factory=list)
    _next_s: float = 0.0

    def run(self, wanted: Wanted) -> Counter[str]:
        """Go through the letters that are meant."""
        partitions = self._partitions()
        if not self.how.dry_run:
            self._transactor = opened(self.settings)
        try:
            # After the fence: nothing that another replay began can become visible any more.
            self._done = replayed(self.settings, wanted.partition)
            for letter in wanted_letters(self.settings, wanted):
                self._take(letter, partitions)
                if self.tally[SENT] + len(self._waiting) // 2 == self.how.records_max:
                    break
            self._send()
        finally:
            if self._transactor is not None:
                self._transactor.close(0)
        return self.tally

    def _partitions(self) -> dict[str, int]:
        """The partition counts of the topics that may be written to."""
        settings = self.settings
        there = describe_topics(settings)
        names = [settings.topic("transactions"), settings.topic("labels")]
        if missing := [n for n in (*names, settings.topic("replays")) if n not in there]:
            raise ConfigError(f"no topics {', '.join(missing)}: run `riskwire topics apply`")
        marks = there[settings.topic("replays")].partitions
        return {name: min(marks, there[name].partitions) for name in names}

    def _take(self, letter: DeadLetter, partitions: dict[str, int]) -> None:
        """Decide on one letter; it is counted as replayed when it is sent."""
        source = letter.source
        if source is None or source.partition >= partitions.get(source.topic, 0):
            self.tally[FOREIGN] += 1
            return
        done = self._done.setdefault((source.topic, source.partition), set())
        if source.offset in done:
            self.tally[DONE] += 1
        elif (whole := complete(self.settings, letter, source)) is None:
            self.tally[GONE] += 1
        elif whole.replays >= self.how.count_max:
            self.tally[CAPPED] += 1
        else:
            done.add(source.offset)
            mark = Letter(
                self.settings.topic("replays"), source.partition, str(source).encode(),
                f"{letter.partition}:{letter.offset}".encode(), (),
            )  # fmt: skip
            self._waiting += [again(whole, source), mark]
            if self._is_full():
                self._send()

    def _is_full(self) -> bool:
        records = min(BATCH_RECORDS, max(1, int(self.how.rate_per_s / BATCHES_PER_S)))
        size = sum(len(letter.value or b"") for letter in self._waiting)
        left = self.how.records_max
        full = len(self._waiting) // 2 >= records or size >= BATCH_BYTES
        return full or (left is not None and self.tally[SENT] + len(self._waiting) // 2 >= left)

    def _send(self) -> None:
        count = len(self._waiting) // 2
        if count and self._transactor is not None:
            now_s = time.monotonic()
            if self._next_s > now_s:
                self.sleep(self._next_s - now_s)
            self._next_s = max(now_s, self._next_s) + count / self.how.rate_per_s
            self._transactor.transact([Outbound((), tuple(self._waiting), "")], {}, None)
        self.tally[SENT] += count
        self._waiting.clear()


def complete(settings: Settings, letter: DeadLetter, source: Source) -> DeadLetter | None:
    """The letter with all its bytes, None where they were omitted and are at its source no more."""
    if not letter.is_omitted:
        return letter
    found = fetched(settings, source)
    if found is None:
        return None
    key, value, headers = found
    return replace(letter, key=key, value=value, headers=(*headers, *letter.headers))


def opened(settings: Settings) -> Transactor:
    """The producer of replays; it fences whichever replay of the group came before."""
    # What came compressed beyond the limits of our own records must go back as it came.
    roomy = {"message.max.bytes": str(SEND_BYTES_MAX), "compression.type": "zstd"}
    options = roomy | settings.producer_options
    settings = settings.model_copy(update={"producer_options": options})
    return open_transactor(settings, "objects", f"{settings.group_id}.dlq-replay")
