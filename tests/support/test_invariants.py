"""The invariant checker accepts valid data and reports each kind of damage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from ojs_cluster.keys import Keyspace
from ojs_cluster.server.embedded.servers import Embedded
from tests.support.invariants import check_invariants
from tests.support.servers import observer

KEYS = Keyspace(64)
SHARD = KEYS.shard_of_queue("mail")
ELSEWHERE = next(shard for shard in KEYS if shard is not SHARD)


def job_id(shard: int, serial: int = 0) -> str:
    return f"019461a8-1a2b-7{shard:03x}-8e4f-{serial:012x}"


HERE = job_id(SHARD.index)
FOREIGN = job_id(ELSEWHERE.index)


@pytest.fixture
def db(standalone: Embedded) -> Iterator[redis.Redis]:
    with observer(standalone) as client:
        assert isinstance(client, redis.Redis)
        yield client


def put_available(db: redis.Redis, id_: str = HERE) -> None:
    db.hset(SHARD.job(id_), mapping={"s": "available", "q": "mail", "p": 100})
    db.zadd(SHARD.queue_available("mail"), {id_: 1})


def test_valid_data_has_no_problems(db: redis.Redis, standalone: Embedded) -> None:
    put_available(db)
    put_available(db, FOREIGN)
    db.hset(ELSEWHERE.job(FOREIGN), "@", str(SHARD.index))
    active = job_id(SHARD.index, 1)
    db.hset(SHARD.job(active), mapping={"s": "active", "q": "mail", "a": 2, "d": 500})
    db.hset(SHARD.job(active), mapping={"st": 291, "to": 9, "xp": 7})
    db.zadd(SHARD.active, {active: 500})
    db.zadd(SHARD.execution_deadlines, {active: 300})
    db.hset(SHARD.queue_counters("mail"), mapping={"active": 1, "seq": 2, "created": 1})

    report = check_invariants(standalone)

    assert report.problems == []
    assert report.count() == {"available": 2, "active": 1}
    assert report.attempts[active] == 2


def test_each_kind_of_damage_is_named(db: redis.Redis, standalone: Embedded) -> None:
    def damage(text: str) -> None:
        problems = check_invariants(standalone).problems
        assert any(text in problem for problem in problems), problems
        db.flushall()

    put_available(db)
    db.zrem(SHARD.queue_available("mail"), HERE)
    damage("is not in q:mail")

    put_available(db)
    db.zadd(SHARD.due, {HERE: 1})
    damage("due names")

    db.zadd(SHARD.finished, {HERE: 1})
    damage("no such job")

    db.hset(SHARD.job(HERE), mapping={"s": "active", "q": "mail", "d": 500})
    db.zadd(SHARD.active, {HERE: 499})
    damage("its own field says 500")

    put_available(db)
    db.hset(SHARD.queue_counters("mail"), "completed", 1)
    damage("mail counts 1 completed, there are 0")

    db.hset(ELSEWHERE.job(job_id(ELSEWHERE.index)), mapping={"s": "available", "q": "mail"})
    damage(f"lies in shard {ELSEWHERE.index}")

    put_available(db, FOREIGN)
    damage("no alias leads to the job")

    db.hset(
        KEYS.shard_of_fingerprint("0" * 64).lock("0" * 64), mapping={"holder": HERE, "shard": 1}
    )
    damage("the index of locks disagree")

    db.hset(SHARD.transaction(HERE), mapping={"plan": "x", "owed": 7})
    damage("is committed, but has no outbox entry")

    db.hset(SHARD.transaction(HERE), mapping={"dead": 1})
    damage("the index of aborted ones disagree")

    db.hset(ELSEWHERE.job(FOREIGN), "@", str(SHARD.index))
    damage("leads to no job")

    db.xadd(KEYS.meta.audit, {"x": "y"})
    damage("does not end by itself")


def test_damage_to_a_cron_job_is_named(db: redis.Redis, standalone: Embedded) -> None:
    meta = KEYS.meta

    def put(**fields: str) -> None:
        db.flushall()
        db.hset(meta.cron("c"), "next_occurrence", "500")
        for name, value in fields.items():
            db.hset(meta.cron("c"), name, value)
        db.zadd(meta.crons, {"c": 500})
        db.zadd(meta.cron_names, {"c": 0})

    def damage(text: str) -> None:
        problems = check_invariants(standalone).problems
        assert any(text in problem for problem in problems), problems

    put()
    assert check_invariants(standalone).problems == []
    db.zadd(meta.crons, {"c": 499})
    damage("is due at 500.0, the index says 499")
    put()
    db.delete(meta.cron("c"))
    damage("is indexed and does not exist")
    put()
    db.zrem(meta.cron_names, "c")
    damage("not listed")
    put(deleted="1")
    damage("is deleted and still there")
    put(firing="x")
    damage("maintenance without a time")
    put(held_runs="a b", open_runs="b", next_maintenance="400")
    damage("holds runs that it does not know")
