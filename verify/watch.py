"""A reader beside (C4): writes down what a read_committed reader sees while the workers work.

A line for each record of an output topic: topic, partition, offset, checksum. `read` is the
inverse; a line that was cut off by a kill counts for nothing.
"""

import threading
from pathlib import Path

from confluent_kafka import TopicPartition

from verify.evidence import CannotDecide
from verify.kafka import AT_END, Consumers, record_of
from verify.laws import OUTPUTS, Seen, checksum
from verify.settings import Settings

POLL_S, STOP_S = 0.2, 120.0


class Watch:
    """Reads in a thread of its own from `start` to `stop`."""

    def __init__(self, settings: Settings, path: Path) -> None:
        """Begin a new file."""
        self._settings, self._path = settings, path
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self.run, name="riskwire-verify-watch")

    def start(self) -> "Watch":
        """Begin to read."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Read to the end of what is there, and end; where that is not to be had, in STOP_S."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S)

    def run(self) -> None:
        """Read until stopped and then to the end."""
        settings = self._settings
        names = {settings.topics[role] for role in OUTPUTS}
        at = [TopicPartition(n, p, 0) for n in sorted(names) for p in range(settings.partitions)]
        consumer = Consumers(settings).open()
        consumer.assign(at)
        ended: set[tuple[str | None, int | None]] = set()
        with self._path.open("w", encoding="utf-8") as file:
            while not (self._stopping.is_set() and len(ended) == len(at)):
                for message in consumer.consume(1000, POLL_S):
                    its = (message.topic(), message.partition())
                    error = message.error()
                    if error is not None:
                        if error.code() == AT_END:
                            ended.add(its)
                        continue  # a broker that is away comes back
                    ended.discard(its)
                    record = record_of(message)
                    file.write(f"{its[0]} {its[1]} {record.offset} {checksum(record)}\n")
                file.flush()
        consumer.close()


def read(path: Path) -> Seen:
    """What a watch wrote; raises CannotDecide where there is no such file."""
    seen: dict[tuple[str, int], dict[int, int]] = {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except OSError as error:
        raise CannotDecide(f"{path} cannot be read: {error.strerror}") from None
    for line in lines:
        if len(parts := line.split()) == 4:
            topic, partition, offset, crc = parts
            seen.setdefault((topic, int(partition)), {})[int(offset)] = int(crc)
    return seen
