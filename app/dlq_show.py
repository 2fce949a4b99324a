"""`riskwire dlq show`: everything that is known of one dead letter.

In: its place, or its source position. Out: lines of text; foreign bytes are escaped and bounded.
Values are card data: without `values` only sizes, the framing and the fields' places are said.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import typer

from app import pipeline
from app.adapters.dead_letters import letters
from app.config import Settings
from app.dead_letter import (
    ERROR,
    OURS,
    WRONG_FIELDS,
    DeadLetter,
    Source,
    as_time,
    remedy,
    shown,
)
from app.decode_twin import Fault, spans
from app.dlq import complete
from app.errors import ConfigError
from app.labels import label_writers
from app.watch import schema_by_id
from app.writers import Writers

DUMPED_BYTES = 256
LINE_BYTES = 16
HEADERS_MAX = 100
CONFLUENT_BYTES = 5


class Shown(NamedTuple):
    """How much is shown: contents at all, and all of them."""

    values: bool
    full: bool


def place(text: str) -> tuple[int, int]:
    """PARTITION:OFFSET as numbers; raises ConfigError."""
    found = Source.parse("-/" + text.replace(":", "/"))
    if found is None or text.count(":") != 1:
        raise ConfigError(f"{text!r} is no PARTITION:OFFSET; `riskwire dlq ls --list` says them")
    return found.partition, found.offset


def show(settings: Settings, at: str | None, source: str | None, how: Shown) -> int:
    """Print a dead letter; 1 where there is none."""
    meant = Source.parse(source or "")
    if (at is None) == (source is None) or (source is not None and meant is None):
        raise ConfigError("give either PARTITION:OFFSET or --source TOPIC/PARTITION/OFFSET")
    partition, offset = place(at) if at is not None else (meant.partition if meant else 0, -1)
    for letter in letters(settings, partition):
        if letter.offset == offset or (meant is not None and letter.source == meant):
            for line in lines(settings, letter, how):
                typer.echo(line)
            return 0
    typer.echo(f"no such dead letter in partition {partition}")
    return 1


def lines(settings: Settings, letter: DeadLetter, how: Shown) -> Iterator[str]:
    """What is said of a letter."""
    yield f"dead letter  {letter.partition}:{letter.offset}, written {as_time(letter.written_ms)}"
    yield f"source       {shown(str(letter.source or 'unknown'))}, replayed {letter.replays} times"
    yield f"code         {shown(letter.code)}: {shown(letter.says(ERROR + 'message'))}"
    yield f"what to do   {remedy(letter.code)}"
    yield "headers"
    for name, value in letter.headers[:HEADERS_MAX]:
        size = f"{len(value or b'')} bytes"
        yield f"  {shown(name)}: {shown(value or b'') if name in OURS or how.values else size}"
    if len(letter.headers) > HEADERS_MAX:
        yield f"  and {len(letter.headers) - HEADERS_MAX} more"
    whole = letter
    if letter.is_omitted and letter.source is not None:
        found = complete(settings, letter, letter.source)
        yield f"bytes        omitted, {'gone from' if found is None else 'read at'} the source"
        whole = found or letter
    for name, data in (("key", whole.key), ("value", whole.value)):
        yield f"{name:13}{'null' if data is None else f'{len(data)} bytes'}"
        if data and how.values:
            yield from dumped(data, how)
    if whole.value:
        yield from fields(whole, writers_for(settings, whole), how)
    if not how.values:
        yield "contents are not shown: they may be card data (--values)"


def dumped(data: bytes, how: Shown) -> Iterator[str]:
    """Bytes in hexadecimal and as text."""
    some = data if how.full else data[:DUMPED_BYTES]
    for at in range(0, len(some), LINE_BYTES):
        row = some[at : at + LINE_BYTES]
        text = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
        yield f"  {at:06x}  {row.hex(' '):{3 * LINE_BYTES}} {text}"
    if len(some) < len(data):
        yield f"  and {len(data) - len(some)} bytes more (--full)"


def writers_for(settings: Settings, letter: DeadLetter) -> Writers:
    """The known writers of the letter's topic, that of the registry which its value names too."""
    is_label = letter.source is not None and letter.source.topic == settings.topic("labels")
    writers = label_writers() if is_label else Writers()
    value = letter.value or b""
    if value[:1] == b"\x00" and len(value) >= CONFLUENT_BYTES:
        schema_id = int.from_bytes(value[1:CONFLUENT_BYTES], "big", signed=True)
        find: Callable[[int], str | None] = schema_by_id(settings)
        pipeline.know(writers, schema_id, find(schema_id))
    return writers


def fields(letter: DeadLetter, writers: Writers, how: Shown) -> Iterator[str]:
    """The fields of a value by its writer schema, up to the one that is wrong."""
    value = letter.value or b""
    yield "fields       by the writer's schema"
    end = 0
    try:
        for name, start, end in spans(value, writers):
            what = f"  {value[start:end].hex(' ')}" if how.values else ""
            yield f"  {shown(name)}: bytes {start} to {end}{shown(what)}"
    except Fault as fault:
        yield f"  wrong from byte {end} on: {fault.code}" if end else f"  none: {fault.code}"
    else:
        about = {str(code): field for code, field in WRONG_FIELDS.items()}.get(letter.code, "")
        yield f"  it decodes; wrong is {about}" if about else "  it decodes"
