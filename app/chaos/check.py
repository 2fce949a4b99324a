"""What must hold in the end, from what lies in Kafka (until the independent checker is there)."""

from collections import defaultdict

from app.adapters.follow import Decoder
from app.adapters.topics import lag, watermarks
from app.chaos.reader import Digests, Reader, read_all
from app.config import Settings

READ_S_MAX = 30.0
SOURCE = "riskwire.error.source."


def check(settings: Settings, reader: Reader) -> tuple[dict[str, str], list[str]]:
    """Each law and what is said of it, and what broke them."""
    records = read_all(settings)
    whole = Digests()
    decode = Decoder("risk_score")
    scores, letters = settings.topic("scores"), settings.topic("dead_letters")
    scored: dict[int, list[int]] = defaultdict(list)
    dead: dict[int, list[int]] = defaultdict(list)
    for record in records:
        whole.add(record)
        if record.topic == scores:
            fields = decode(record.value)
            assert fields is not None
            scored[record.partition].append(fields["source_offset"])
        elif record.topic == letters and (
            record.headers.get(SOURCE + "topic") or b""
        ).decode() == settings.topic("transactions"):
            dead[record.partition].append(int(record.headers[SOURCE + "offset"] or b"-1"))
    broken = []
    counts = {"scores": sum(map(len, scored.values())), "letters": sum(map(len, dead.values()))}
    for p, (low, high) in watermarks(settings, settings.topic("transactions")).items():
        both = scored[p] + dead[p]
        missing = set(range(low, high)) - set(both)
        doubled = len(both) - len(set(both))
        if missing:
            broken.append(
                f"C1 partition {p}: {len(missing)} records without outcome: {sorted(missing)[:10]}"
            )
        if doubled:
            twice = sorted({o for o in both if both.count(o) > 1}) if doubled < 50 else []
            broken.append(f"C2 partition {p}: {doubled} outcomes twice {twice[:10]}")
        for name, its in (("scores", scored[p]), ("dead letters", dead[p])):
            if its != sorted(its):
                broken.append(f"C3 partition {p}: {name} out of order")
    for role in ("transactions", "labels"):
        left = {p: n for p, n in lag(settings, settings.topic(role)).items() if n}
        if left:
            broken.append(f"C5 {role}: not committed {left}")
    if not reader.ended(whole.last, READ_S_MAX):
        broken.append(f"C4 the concurrent reader did not see all: {reader.fault}")
    if reader.digests.found() != whole.found():
        differ = {at for at in whole.found() if whole.found()[at] != reader.digests.found().get(at)}
        broken.append(f"C4 the concurrent reader saw other records in {sorted(differ)}")
    broken += [f"C4 {each}" for each in reader.digests.disordered]
    return {"C1-C5": str(counts)}, broken
