"""What a worker compiles before its first record: everything, or the first alert would wait."""

import json
import subprocess
import sys

CODE = """
import asyncio, json
from app import encode, decide, decode
from app.config import load_settings
from app.metrics import Metrics
from app.warm_up import warm_up
from app.wiring import build
from features import kernel
from models import explain, forest

asyncio.run(warm_up(build(load_settings(partitions=4), Metrics()).parts))
loops = (
    decode._decode_rows, kernel.advance, kernel.learn, forest._run, decide._strongest,
    explain._look_up, encode._encode, encode._encode_alerts,
)
print(json.dumps({loop.__name__: len(loop.signatures) for loop in loops}))
"""


def test_every_loop_on_the_way_is_compiled() -> None:
    """Alerts, their reasons and outcomes too; each once."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, check=True, text=True, timeout=300
    )
    assert set(json.loads(done.stdout.splitlines()[-1]).values()) == {1}
