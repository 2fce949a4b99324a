"""`riskwire doctor`: is everything there that a worker needs, and if not, what to do.

In: settings. Out: one `Check` for each question, printed as lines or JSON; exit status 0 only if
none failed. A check never stops the others: what it raises becomes its failure. Adapters look;
what they see is judged here.
"""

import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Literal

from rich.console import Console
from rich.text import Text

from app.adapters import facts, onnx
from app.adapters.facts import RedisFacts
from app.adapters.follow import Seen, sample
from app.adapters.registry import SchemaRegistry
from app.adapters.topics import (
    CLEANUP,
    MESSAGE_BYTES,
    RETENTION,
    RETENTION_BYTES,
    TIMESTAMP_TYPE,
    Topic,
    brokers,
    describe_topics,
    wanted_topics,
)
from app.config import Settings
from app.errors import ModelError, NativeTransportError, RiskwireError
from app.meta import namespace
from app.partitioner import partition_of
from app.prepare import subjects
from app.progress import REBUILD_DAYS
from features.contract import DAY_US, contract_id
from models import manifest

LIBRARIES = ("confluent-kafka", "faust-streaming", "fastavro", "numba", "numpy", "redis")
BROKER_TIMEOUT_S = 5.0
SAMPLE_RECORDS = 200
# The cause of a dead letter, and what Kafka adds to a record, on top of the value.
LETTER_OVERHEAD_BYTES = 4096
DAY_MS = DAY_US // 1000
APPLY = "run `riskwire topics apply`"
MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "bold red")}


@dataclass(frozen=True, slots=True)
class Check:
    """The answer to one question; `advice` says what to do where the state is not ok."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    advice: str = ""


Question = Callable[[Settings], Iterator[Check]]


def run(settings: Settings, *, as_json: bool) -> int:
    """Ask everything, print it; 1 if a check failed."""
    checks = examine(settings)
    failed = any(check.state == "fail" for check in checks)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(c) for c in checks]}))  # noqa: T201
    else:
        _print(checks)
    return 1 if failed else 0


def examine(settings: Settings) -> list[Check]:
    """Ask every question; Kafka's topics only where Kafka answers."""
    checks = [
        *_asked("installation", installation, settings),
        *_asked("native transport", native_transport, settings),
        *_asked("model", model, settings),
        *_asked("Redis", redis, settings),
        *_asked("schema registry", registry, settings),
        *_asked("Kafka", kafka, settings),
    ]
    if checks[-1].state == "ok":
        checks += [
            *_asked("topics", topics, settings),
            *_asked("partitioner", partitioner, settings),
        ]
    return checks


def _asked(name: str, question: Question, settings: Settings) -> Iterator[Check]:
    try:
        yield from question(settings)
    except RiskwireError as error:
        yield Check(name, "fail", str(error), ADVICE.get(name, ""))
    except Exception as error:  # noqa: BLE001 -- whatever it is, the other checks go on
        yield Check(name, "fail", f"{type(error).__name__}: {error}", ADVICE.get(name, ""))


ADVICE = {
    "Kafka": "check RISKWIRE_BOOTSTRAP_SERVERS, RISKWIRE_KAFKA_OPTIONS and that the brokers run",
    "Redis": "check RISKWIRE_REDIS_URL and that the server runs",
    "schema registry": "check RISKWIRE_SCHEMA_REGISTRY_URL and RISKWIRE_SCHEMA_REGISTRY_AUTH",
    "topics": APPLY,
}


def installation(_settings: Settings) -> Iterator[Check]:
    """Versions of Python and of the libraries, and whether ONNX Runtime is there once."""
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {metadata.version(name)}" for name in LIBRARIES]
    yield Check("installation", "ok", ", ".join(versions))
    wheel = onnx.installed_wheel(_is_installed)
    yield Check("ONNX Runtime", "ok", f"{wheel} {metadata.version(wheel)}")


def native_transport(settings: Settings) -> Iterator[Check]:
    """Whether librdkafka's C API can be used as tested."""
    from app.adapters import librdkafka  # noqa: PLC0415 -- may itself refuse to load

    try:
        yield Check("native transport", "ok", f"librdkafka {librdkafka.check()}")
    except (NativeTransportError, OSError, AttributeError) as error:
        state: Literal["warn", "ok"] = "warn" if settings.transport == "native" else "ok"
        yield Check(
            "native transport",
            state,
            f"{error}; the worker uses `objects`, which is slower",
            "install the confluent-kafka version of the lock file",
        )


def model(settings: Settings) -> Iterator[Check]:
    """Whether the model fits its manifest and this program, and what will run it."""
    scorer = onnx.load_scorer(settings.model, settings.providers)
    yield Check("model", "ok", f"{scorer.model_id}, features {scorer.feature_contract_id}")
    there = facts.onnx_providers()
    yield Check("provider", "ok", f"{scorer.provider} will be used; there are {', '.join(there)}")


def redis(settings: Settings) -> Iterator[Check]:
    """Whether Redis answers, keeps what it is given, and holds the model's state."""
    try:
        its = contract_id(manifest.read(settings.model).manifest.timing)
        contract = namespace(its, settings.state_namespace)
    except ModelError:  # the model's own check says so
        contract = ""
    found = facts.redis_facts(settings, contract)
    yield Check("Redis", "ok", f"version {found.version}, {found.keys:,} keys")
    if found.policy not in ("", "noeviction"):
        yield Check(
            "Redis eviction",
            "warn",
            f"maxmemory-policy is {found.policy}: state may vanish, and its customers then score as"
            " new ones",
            "set maxmemory-policy noeviction, and enough maxmemory",
        )
    if found.aof is False and settings.snapshot_dir is None:
        yield Check(
            "Redis persistence",
            "warn",
            "there is no append-only file, and no snapshot is kept: after a restart of Redis all"
            " state is built anew from the oldest records, and a backfilled past is lost",
            "set RISKWIRE_SNAPSHOT_DIR on every worker, or appendonly yes in Redis",
        )
    if contract:
        yield from judge_state(settings.partitions, contract, found)


def judge_state(partitions: int, contract: str, found: RedisFacts) -> Iterator[Check]:
    """Say whose the state of each partition is, and where there is none for the model."""
    other = {meta.partitions for meta in found.metas.values()} - {partitions}
    if other:
        counts = ", ".join(map(str, sorted(other)))
        yield Check(
            "state",
            "fail",
            f"it was made for {counts} partitions, RISKWIRE_PARTITIONS is {partitions}",
            "set RISKWIRE_PARTITIONS to the count that the transactions topic has",
        )
        return
    missing = sorted(set(range(partitions)) - found.metas.keys())
    if missing:
        strangers = sorted(found.contracts - {contract})
        kept = f"; Redis holds that of {', '.join(strangers)}" if strangers else ""
        yield Check(
            "state",
            "warn",
            f"there is none of feature contract {contract} in partitions {_listed(missing)}: their"
            f" customers score as new ones until the topics are read again{kept}",
            "stop the workers and run `riskwire features backfill --history FILE` (or --simulate to"
            " try it), or set RISKWIRE_MODEL to the model that the state was made for",
        )
    else:
        detail = f"feature contract {contract} in {partitions} partitions; {_owners(found)}"
        yield Check("state", "ok", detail)


def _owners(found: RedisFacts) -> str:
    """Who owns which partitions, and which nobody does."""
    owned: dict[str, list[int]] = {}
    for partition, meta in sorted(found.metas.items()):
        owned.setdefault("nobody" if meta.released else meta.owner, []).append(partition)
    return "; ".join(f"{owner} owns {_listed(places)}" for owner, places in sorted(owned.items()))


def _listed(numbers: Sequence[int]) -> str:
    """Numbers in order, runs of them as first-last."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def registry(settings: Settings) -> Iterator[Check]:
    """Whether the schema registry, where there is one, knows all that is written."""
    if not settings.schema_registry_url:
        yield Check("schema registry", "ok", "none: Avro's single-object encoding is used")
        return
    known = SchemaRegistry(settings)
    ids = [f"{subject} {known.register(subject, text)}" for subject, text in subjects(settings)]
    yield Check("schema registry", "ok", f"schema ids: {', '.join(ids)}")


def kafka(settings: Settings) -> Iterator[Check]:
    """Whether a broker answers."""
    yield Check("Kafka", "ok", ", ".join(brokers(settings, BROKER_TIMEOUT_S)))


def topics(settings: Settings) -> Iterator[Check]:
    """Whether the topics are there and fit each other."""
    yield from judge_topics(settings, describe_topics(settings))


def judge_topics(settings: Settings, found: Mapping[str, Topic]) -> Iterator[Check]:
    """Say what is wrong with the topics that exist."""
    missing = [topic.name for topic in wanted_topics(settings) if topic.name not in found]
    if missing:
        yield Check("topics", "fail", f"missing: {', '.join(missing)}", APPLY)
    arriving = found.get(settings.topic("transactions"))
    letters = found.get(settings.topic("dead_letters"))
    if arriving is None:
        return
    counts = {t.name: t.partitions for t in found.values()}
    if arriving.partitions != settings.partitions:
        yield Check(
            "partitions",
            "fail",
            f"{arriving.name} has {arriving.partitions}, RISKWIRE_PARTITIONS is"
            f" {settings.partitions}: no worker would own its state",
            f"set RISKWIRE_PARTITIONS={arriving.partitions} on every worker",
        )
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        yield Check(
            "partitions",
            "fail",
            f"the counts differ: {listed}; labels lie beside their transactions, outputs too",
            f"make new topics with one count (RISKWIRE_PARTITIONS, RISKWIRE_TOPIC_PREFIX), {APPLY}",
        )
    elif not missing and arriving.partitions == settings.partitions:
        yield Check("topics", "ok", f"{len(found)} topics with {arriving.partitions} partitions")
    if arriving.config[TIMESTAMP_TYPE] != "LogAppendTime":
        detail = f"{arriving.name} keeps the producer's time: append_time is not the broker's"
        yield Check("timestamps", "warn", detail, APPLY)
    yield from _retention(arriving)
    if (outcomes := found.get(settings.topic("labels"))) is not None:
        yield from _retention(outcomes)
    if (marks := found.get(settings.topic("watermarks"))) is not None:
        yield from _kept_watermarks(marks)
    if letters is not None:
        yield _letter_size(settings, arriving, letters)


def _retention(topic: Topic) -> Iterator[Check]:
    """Whether a log is kept long enough to build the state anew from it."""
    name, kept_ms = f"retention of {topic.name}", int(topic.config.get(RETENTION, -1))
    if 0 <= kept_ms < REBUILD_DAYS * DAY_MS:
        yield Check(
            name,
            "warn",
            f"it keeps {kept_ms / DAY_MS:.3g} days: if Redis loses the state, what is older is lost"
            f" with it; the longest window reaches {REBUILD_DAYS} days back",
            f"set {RETENTION} of the topic to {REBUILD_DAYS * DAY_MS} or more, or set"
            " RISKWIRE_SNAPSHOT_DIR",
        )
    if int(topic.config.get(RETENTION_BYTES, -1)) >= 0:
        yield Check(
            name,
            "warn",
            "it is cut by size, however short the time that is left of it",
            f"set {RETENTION_BYTES} of the topic to -1, or set RISKWIRE_SNAPSHOT_DIR",
        )
    if "compact" in topic.config.get(CLEANUP, ""):
        yield Check(
            f"clean-up of {topic.name}",
            "fail",
            "it is compacted: of each customer only the last record stays, so no state can be built"
            " anew from it",
            f"set {CLEANUP} of the topic to delete",
        )


def _kept_watermarks(topic: Topic) -> Iterator[Check]:
    """Whether watermarks are kept as long as the logs that they are about."""
    policy, kept_ms = topic.config.get(CLEANUP, "compact"), int(topic.config.get(RETENTION, -1))
    if "delete" in policy and 0 <= kept_ms < REBUILD_DAYS * DAY_MS:
        yield Check(
            f"clean-up of {topic.name}",
            "fail",
            f"it is deleted after {kept_ms / DAY_MS:.3g} days: state that is built anew would see"
            " late records earlier than it did at first",
            APPLY,
        )


def _letter_size(settings: Settings, arriving: Topic, letters: Topic) -> Check:
    """Whether any record that can come in fits into a dead letter."""
    needed = int(arriving.config[MESSAGE_BYTES]) + LETTER_OVERHEAD_BYTES
    room = min(int(letters.config[MESSAGE_BYTES]), settings.message_bytes_max)
    if room >= needed:
        return Check("dead letters", "ok", f"room for {room:,} bytes, {needed:,} needed at most")
    return Check(
        "dead letters",
        "fail",
        f"{arriving.name} takes records of {needed:,} bytes, {letters.name} only {room:,}: a broken"
        " record of that size would stop its partition",
        f"set RISKWIRE_MESSAGE_BYTES_MAX to {needed} or more, {APPLY}",
    )


def partitioner(settings: Settings) -> Iterator[Check]:
    """Whether the producers put a key where Java's partitioner would."""
    name = settings.topic("transactions")
    topic = describe_topics(settings).get(name)
    if topic is not None:
        yield judge_partitions(sample(settings, name, SAMPLE_RECORDS), topic.partitions)


def judge_partitions(records: Sequence[Seen], partitions: int) -> Check:
    """Compare each record's partition with its key's."""
    keyed = [record for record in records if record.key]
    if not keyed:
        return Check("partitioner", "ok", "no record to look at yet")
    wrong = sum(r.partition != partition_of(r.key or b"", partitions) for r in keyed)
    if not wrong:
        return Check("partitioner", "ok", f"murmur2, by the last {len(keyed)} records")
    return Check(
        "partitioner",
        "warn",
        f"{wrong} of the last {len(keyed)} keys are not where Java's murmur2 puts them:"
        " a customer's transactions and labels may be on different partitions",
        "set partitioner=murmur2_random in every librdkafka producer (its default is CRC32)",
    )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _print(checks: Sequence[Check]) -> None:
    console = Console(highlight=False)
    for check in checks:
        mark, style = MARKS[check.state]
        line = Text.assemble((mark, style), f"  {check.name}: {check.detail}")
        console.print(line, soft_wrap=True)
        if check.advice and check.state != "ok":
            console.print(Text(f"      -> {check.advice}"), soft_wrap=True)
