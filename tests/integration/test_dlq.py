"""Dead letters on a real Kafka: listed without their contents, and replayed once each."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from app import dlq, dlq_show
from app.adapters import dead_letters
from app.adapters.admin import delete_topics
from app.adapters.topics import apply_topics, wanted_topics
from app.config import Settings, load_settings
from app.dead_letter import DeadLetter, Source, Wanted
from app.demo.cluster import Kafka
from app.demo.worker import environment
from app.dlq_show import Shown
from app.emit import Route, letters
from app.errors import BrokerUnavailable, RejectCode
from app.records import Header, Letter, Outbound, Reject
from tests.app.builders import record_batch

PARTITIONS = 2
CARD = b"4111111111111111"
EVERYTHING = Wanted()


def how(
    rate_per_s: float = 1e6,
    records_max: int | None = None,
    count_max: int = 3,
    *,
    dry_run: bool = False,
) -> dlq.How:
    """Replay without waiting."""
    return dlq.How(rate_per_s, records_max, count_max, dry_run)


@pytest.fixture
def settings(kafka: Kafka) -> Iterator[Settings]:
    """Topics of our own."""
    name = f"dlq-{uuid.uuid4().hex[:8]}"
    settings = load_settings(
        bootstrap_servers=kafka.bootstrap, group_id=name, topic_prefix=f"{name}-",
        partitions=PARTITIONS,
    )  # fmt: skip
    apply_topics(settings)
    yield settings
    delete_topics(kafka.bootstrap, [topic.name for topic in wanted_topics(settings)])


def dead(
    settings: Settings,
    offsets: Sequence[int],
    code: RejectCode = RejectCode.BAD_MAGIC,
    *,
    partition: int = 0,
    headers: Sequence[tuple[str, bytes | None]] = (),
    letter_bytes_max: int = 100_000,
    value: bytes = CARD,
) -> None:
    """Write dead letters as a worker does, of records that lay at these offsets."""
    rows = [(partition, offset, b"k%d" % offset, value + b" %d" % offset) for offset in offsets]
    its = [headers] * len(rows)
    batch = record_batch(rows, topic=settings.topic("transactions"), headers=its)
    route = Route("", "", settings.topic("dead_letters"), letter_bytes_max)
    rejects = [Reject(row, code, "decode") for row in range(len(offsets))]
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    for each in letters(batch, rejects, route).letters:
        producer.produce(
            each.topic, each.value, each.key, each.partition, headers=list(each.headers)
        )
    assert producer.flush(30) == 0


def sent(settings: Settings, topic: str | None = None) -> list[DeadLetter]:
    """All committed records of the transactions topic."""
    return [
        DeadLetter(
            m.partition() or 0, m.offset() or 0, 0, m.key(), m.value(),
            dead_letters._headers(m),
        )
        for m in dead_letters.scan(settings, topic or settings.topic("transactions"))
    ]  # fmt: skip


def replays_of(settings: Settings) -> Counter[str]:
    """How often each source position was replayed, as a reader of committed records counts."""
    return Counter(record.says("riskwire.replay.of") for record in sent(settings))


def test_a_replay_sends_each_record_as_it_came_and_once(settings: Settings) -> None:
    """Key, value, headers and partition are the record's own; a second replay sends nothing."""
    trace = ("trace", b"7"), ("trace", None), ("riskwire.replay.count", b"1")
    dead(settings, [5, 9], headers=trace, partition=1)
    dead(settings, [9], headers=trace, partition=1)  # at least once: the same position again
    dry = dlq.Replay(settings, how(dry_run=True)).run(EVERYTHING)
    assert dry == {dlq.SENT: 2, dlq.DONE: 1}
    assert sent(settings) == []
    assert dlq.Replay(settings, how()).run(EVERYTHING) == {dlq.SENT: 2, dlq.DONE: 1}
    assert dlq.Replay(settings, how()).run(EVERYTHING) == {dlq.SENT: 0, dlq.DONE: 3}
    first, second = sent(settings)
    assert (first.partition, first.key, first.value) == (1, b"k5", CARD + b" 5")
    assert (second.key, second.value) == (b"k9", CARD + b" 9")
    at = Source(settings.topic("transactions"), 1, 5)
    assert first.headers[:2] == (Header("trace", b"7"), Header("trace", None))
    names = ["riskwire.error.first_seen", "riskwire.replay.count", "riskwire.replay.of"]
    assert [header.name for header in first.headers[2:]] == names
    assert first.headers[3:] == (
        Header("riskwire.replay.count", b"2"),
        Header("riskwire.replay.of", str(at).encode()),
    )


def test_filters_caps_and_strangers(settings: Settings) -> None:
    """Only what is meant is sent; what came back too often or is no letter is counted instead."""
    dead(settings, range(4), RejectCode.TRUNCATED)
    dead(settings, [10, 11], RejectCode.BAD_KEY, partition=1)
    dead(settings, [20], headers=[("riskwire.replay.count", b"3")])
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    producer.produce(settings.topic("dead_letters"), b"no letter", partition=0)
    assert producer.flush(30) == 0
    few = Wanted(codes=frozenset({"TRUNCATED"}))
    assert dlq.Replay(settings, how(records_max=3)).run(few) == {dlq.SENT: 3}
    later = Wanted(since_ms=time.time_ns() // 1_000_000 + 60_000)
    assert dlq.Replay(settings, how()).run(later) == {dlq.SENT: 0}
    there = Wanted(partition=1, until_ms=later.since_ms)
    assert dlq.Replay(settings, how()).run(there) == {dlq.SENT: 2}
    rest = dlq.Replay(settings, how()).run(EVERYTHING)
    assert rest == {dlq.SENT: 1, dlq.DONE: 5, dlq.CAPPED: 1, dlq.FOREIGN: 1}
    assert max(replays_of(settings).values()) == 1


def test_omitted_bytes_are_read_at_their_source(settings: Settings) -> None:
    """Where the record is still there it is sent from there; where not, it is counted as gone."""
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers})
    producer.produce(
        settings.topic("transactions"), b"long", b"k", 0, headers=[("riskwire.replay.count", b"1")]
    )
    assert producer.flush(30) == 0
    dead(settings, [0, 77], RejectCode.VALUE_TOO_LARGE, letter_bytes_max=1)
    assert dlq.Replay(settings, how()).run(EVERYTHING) == {dlq.SENT: 1, dlq.GONE: 1}
    again = sent(settings)[1]
    assert (again.key, again.value, again.replays) == (b"k", b"long", 2)


def test_a_later_replay_fences_one_that_hangs(settings: Settings) -> None:
    """What the earlier one had open never counts: the later one sends all, the earlier no more."""
    dead(settings, range(10))
    hanging = dlq.opened(settings)
    record = Letter(settings.topic("transactions"), 0, b"k", b"never committed", ())

    def outbounds() -> Iterator[Outbound]:
        yield Outbound((), (record,), "")
        assert dlq.Replay(settings, how()).run(EVERYTHING) == {dlq.SENT: 10}

    with pytest.raises(BrokerUnavailable):
        hanging.transact(outbounds(), {}, None)
    hanging.close(0)
    assert dlq.Replay(settings, how()).run(EVERYTHING) == {dlq.SENT: 0, dlq.DONE: 10}
    assert sorted(replays_of(settings).values()) == [1] * 10


def test_kill_9_in_the_middle_replays_each_letter_once(settings: Settings, tmp_path: Path) -> None:
    """Whenever it is killed, running it again sends what is missing and nothing twice."""
    count = 3000
    dead(settings, range(count))
    command = [sys.executable, "-m", "app.cli", "dlq", "replay", "--rate", "2500", "--json"]
    variables = {**os.environ, **environment(settings)}
    killed_at = []
    for _ in range(3):
        seen = len(sent(settings))
        log = (tmp_path / "log").open("wb")
        with log, subprocess.Popen(command, env=variables, stdout=log, stderr=log) as run:
            end_s = time.monotonic() + 60
            while run.poll() is None and _written(settings) <= seen:
                assert time.monotonic() < end_s
            run.kill()
        killed_at.append(len(sent(settings)))
    done = subprocess.run(command, env=variables, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    tally = json.loads(done.stdout)
    assert tally[dlq.SENT] + tally[dlq.DONE] == count
    assert killed_at[0] < count
    found = replays_of(settings)
    assert len(found) == count
    assert set(found.values()) == {1}


def _written(settings: Settings) -> int:
    """The end of the transactions topic's first partition, open transactions included."""
    consumer = Consumer(
        {"bootstrap.servers": settings.bootstrap_servers, "group.id": "x",
         "isolation.level": "read_uncommitted"}
    )  # fmt: skip
    at = TopicPartition(settings.topic("transactions"), 0)
    _, end = consumer.get_watermark_offsets(at, timeout=10)
    consumer.close()
    return int(end)


def test_lists_and_shows_without_contents(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts and lines name codes and places; contents only where they are asked for."""
    dead(settings, [1, 2], RejectCode.TRUNCATED, headers=[("evil\x1b[2J", CARD)])
    dead(settings, [3], RejectCode.BAD_KEY, partition=1)
    dlq.ls(settings, EVERYTHING, each=False, as_json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["code"], row["letters"]) for row in rows] == [("TRUNCATED", 2), ("BAD_KEY", 1)]
    dlq.ls(settings, EVERYTHING, each=False, as_json=False)
    dlq.ls(settings, EVERYTHING, each=True, as_json=False)
    assert dlq_show.show(settings, "0:1", None, Shown(values=False, full=False)) == 0
    out = capsys.readouterr().out
    assert f"{settings.topic('transactions')}/1/3" in out
    assert "what to do" in out
    assert CARD.decode() not in out
    assert "\x1b[2J" not in out
    source = f"{settings.topic('transactions')}/1/3"
    assert dlq_show.show(settings, None, source, Shown(values=True, full=False)) == 0
    assert CARD.decode() in capsys.readouterr().out
    assert dlq_show.show(settings, "1:55", None, Shown(values=True, full=True)) == 1
