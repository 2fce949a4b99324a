"""What a worker's memory comes to at most, by its settings: all queues and caches have a bound.

The bounds do not depend on how large records are. They are met one by one, hardly ever together:
the state only fills where so many entities come, images only where all of it changed at once.
"""

from dataclasses import dataclass
from pathlib import Path

from app.config import Settings
from features.blob import CUSTOMER_BYTES_MAX, SHARE_BYTES_MAX
from features.contract import LIVE
from features.state import State

PROGRAM_BYTES = 512 << 20
"""Python, compiled loops, model, ONNX Runtime and librdkafka: measured 330 to 400 MiB."""
RECORD_BYTES = 512
"""What librdkafka and the columns keep of a record beside its bytes."""
FETCHED_RECORDS = 100_000
"""librdkafka's queued.min.messages."""
ENTITY_BYTES = 512
"""Of an entity beside its row: places in the tables; key and objects of its image."""


@dataclass(frozen=True, slots=True)
class MemoryCap:
    """Bytes by what takes them."""

    program: int
    state: int
    images: int
    input: int
    output: int

    @property
    def total(self) -> int:
        """All together."""
        return self.program + self.state + self.images + self.input + self.output


def memory_cap(settings: Settings) -> MemoryCap:
    """The most memory that a worker with these settings takes."""
    customers, shares = settings.state_customers_max, settings.state_shares_max
    rows = State.empty(customers, shares, settings.partitions, LIVE)  # zeros, not touched
    state = sum(column.nbytes for column in rows)
    batches = (settings.queue_batches_max + 2) * settings.batch_records_max * RECORD_BYTES
    return MemoryCap(
        program=PROGRAM_BYTES,
        state=state + (customers + shares) * ENTITY_BYTES,
        images=customers * CUSTOMER_BYTES_MAX + shares * SHARE_BYTES_MAX,
        # The fetch queue, an answer on its way, batches, and one that met larger records than ever.
        input=settings.queue_bytes_max * 13 // 4 + FETCHED_RECORDS * RECORD_BYTES + batches,
        output=2 * (settings.inflight_bytes_max + settings.inflight_records_max * RECORD_BYTES),
    )


def process_memory(pid: int) -> tuple[int, int]:
    """Resident bytes of a process, now and at most so far (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    found = dict(line.split(":", 1) for line in lines)
    now, most = (int(found[name].split()[0]) << 10 for name in ("VmRSS", "VmHWM"))
    return now, most
