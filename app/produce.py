"""`riskwire produce`: simulated transactions into the cluster of the settings.

They are the payments that follow the past of `riskwire features backfill --simulate` with the same
seed. In: settings, a rate and counts. Out: records on the transactions topic, a bar while they go,
and a line that says what was sent and how late the sender was. Errors are those of
`app.adapters.traffic`.
"""

import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import schemas
from app.adapters.traffic import send
from app.config import Settings
from app.demo.traffic import Due, divided, payments, with_broken
from models.handbook import Payments, World

# Until the first record is due: the sender finds the topic meanwhile.
LEAD_US = 500_000
LATE_US = 100_000


def run(settings: Settings, rate_per_s: float, count: int, seed: int, broken: int) -> None:
    """Send `count` good records and `broken` broken ones, and say so."""
    _, coming = divided(World(seed), count, 0)
    records = traffic(settings, coming, rate_per_s, count, broken)
    columns = (TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=count + broken)
        sent = send(settings, records, lambda now: progress.update(bar, completed=now.records))
    line = f"{sent.records:,} records sent in {sent.spent_s:.1f} s, {broken:,} of them broken"
    if sent.late_us_max > LATE_US:
        line += (
            f"; the sender was up to {sent.late_us_max / 1000:,.0f} ms late: give a lower --rate"
        )
    Console().print(line, highlight=False)


def traffic(
    settings: Settings, coming: Payments, rate_per_s: float, count: int, broken: int
) -> Iterator[Due]:
    """Payments, some of them broken, that begin shortly after the first one is asked for."""
    header = framing(settings)
    start_us = time.time_ns() // 1000 + LEAD_US
    good = payments(coming, start_us, count, rate_per_s, header)
    yield from with_broken(good, count, broken, header)


def framing(settings: Settings) -> bytes:
    """Return what stands in front of a transaction: the registry's id, else the fingerprint."""
    schema = schemas.load("transaction")
    if not settings.schema_registry_url:
        return schema.single_object_header
    from app.adapters.registry import SchemaRegistry  # noqa: PLC0415 -- needed by few, slow

    subject = f"{settings.topic('transactions')}-value"
    return SchemaRegistry(settings).header(subject, schema.text)
