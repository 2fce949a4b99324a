"""x"""
import io, time, fastavro, schemas, dataclasses, numpy as np
from tests.integration.test_worker import *
from tests.integration.test_worker import world, unused_port
import verify
LH = schemas.load("fraud_label").single_object_header

def send_label(world, i, t, known, fraud, customer, terminal, partition):
    b=io.BytesIO()
    fastavro.schemaless_writer(b, schemas.load("fraud_label").parsed, dict(transaction_id=f"x{i}", customer_id=customer, terminal_id=terminal, event_time=t, known_at=known, fraud=fraud, source="ANALYST"))
    world._producer.produce(world.names["LABELS"], LH+b.getvalue(), customer.encode(), partition)

def test_it(world):
    rng=np.random.default_rng(5)
    now=time.time_ns()//1000
    n=6000
    ts=np.sort(rng.integers(now-40*86_400_000_000, now-1_000_000, n))
    for i,t in enumerate(ts.tolist()):
        c=int(rng.integers(0,40)); 
        world.send_good(i, partition=c%4, customer_id=f"c{c}", terminal_id=f"t{int(rng.integers(0,30))}", event_time=t+int(rng.integers(-60_000_000,1)), amount_minor=int(rng.integers(0,50000)))
        if rng.random()<.3:
            send_label(world, i, t, min(t+int(rng.integers(0,6*86_400_000_000)),now), bool(rng.random()<.4), f"c{c}", f"t{i%30}", c%4)
    for value,key in BROKEN.values(): world.send(value,key,1,headers=[("trace",b"7")])
    world.flush()
    w=world.worker(alignment="mark").wait_ready()
    world.wait_committed()
    time.sleep(3)
    env=w.environment
    r=verify.run(world.bootstrap, world.redis_url, environ=env)
    print("\n".join(r.lines()))
    w.stop()
    r=verify.run(world.bootstrap, world.redis_url, environ=env)
    print("\n".join(r.lines()))
    assert r.holds
