"""The steady state: figures that only show after the first minutes, on one replica of `inventory` with 64 clients."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from harness import load
from harness.databases import psql
from harness.figures import GET_STOCK, Result, Settings, say
from harness.load import CONNECTIONS, Outcome
from harness.sides import Builds, Side

PRODUCTS = 3000
SLICE = 20  # seconds
TTL = 60  # seconds, of holds that expire
LIVE_HOLDS = 1_000_000

# The products of holds.lua, instead of those of the other figures.
SEED = f"""
    TRUNCATE stock, movement, reservation, expiry, idempotency CASCADE;
    INSERT INTO stock (product_id, on_hand, version)
        SELECT 'product-' || n, 1000000000, 1 FROM generate_series(1, {PRODUCTS}) AS n;
    INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved)
        SELECT product_id, 1, 'set', on_hand, 0, on_hand, 0 FROM stock;
    ANALYZE;
"""


def expiring(builds: Builds, minutes: int) -> list[Result]:
    """Holds of a minute that nobody commits: the worst slice over the first minute."""
    with seeded(builds) as side:
        rates = [run(side, TTL).per_second for _ in slices("expiring", minutes)]
    first = statistics.mean(rates[: 60 // SLICE])
    title = f"holds of {TTL} s that all expire, {minutes} min: worst {SLICE} s over the first minute"
    every = [rate / first for rate in rates]
    return [Result(title, "x", min(every), min(every), max(every), 0.6, 0.8)]


def committed(builds: Builds, minutes: int) -> list[Result]:
    """Holds that are committed at once: the last minute over the first, and what a hold and its commit cost on disk."""
    with seeded(builds) as side:
        before = size(side)
        rates = [run(side).per_second for _ in slices("committed", minutes)]
        holds = int(psql(side.database.name, "-c", "SELECT count(*) FROM reservation"))
        each = (size(side) - before) / holds
    minute = 60 // SLICE
    first, last = statistics.mean(rates[:minute]), statistics.mean(rates[-minute:])
    title = f"holds that are committed, {minutes} min: the last minute over the first"
    every = [rate / first for rate in rates]
    return [
        Result(title, "x", last / first, min(every), max(every), 0.9, 1),
        Result("disk for a hold and its commit", "bytes", each, each, each, 1200, 900),
    ]


def live(builds: Builds, _minutes: int) -> list[Result]:
    """Reads beside a million live holds over reads beside none, and what a live hold costs on disk."""
    with seeded(builds) as side, builds.ours("inventory") as empty:
        before, held = size(side), 0
        while held < LIVE_HOLDS:
            run(side, 86_400)
            held = int(psql(side.database.name, "-c", "SELECT count(*) FROM reservation"))
            say(f"  {held:,} live holds")
        each = (size(side) - before) / held
        # The products of the reads, beside those that are held.
        psql(side.database.name, "-c", """
            INSERT INTO stock (product_id, on_hand, version)
            SELECT id::text, 1000000000, 1 FROM generate_series(100000, 109999) AS id""")  # fmt: skip
        psql(side.database.name, "-c", "VACUUM ANALYZE")
        settings, seen = Settings(rounds=5, seconds=5, warmup=1), []
        for number in range(settings.rounds):
            seen.append([GET_STOCK.round(one, settings, f"r{number}").p50_ms for one in (side, empty)])
            say(f"  round {number + 1}: p50 {seen[-1][0]} ms beside {held:,} holds, {seen[-1][1]} ms beside none")
    with_holds, without = zip(*seen)
    times = [a / b for a, b in seen]
    value = statistics.median(with_holds) / statistics.median(without)
    title = f"GET p50 beside {LIVE_HOLDS:,} live holds over that beside none"
    return [
        Result(title, "times", value, min(times), max(times), 1.2, 1.0),
        Result("disk for a live hold", "bytes", each, each, each, 600, 450),
    ]


FIGURES: dict[str, Callable[[Builds, int], list[Result]]] = {"expiring": expiring, "committed": committed, "live": live}


@contextmanager
def seeded(builds: Builds) -> Iterator[Side]:
    """Runs `inventory` on a database of its own with the products of this load."""
    database = builds.database("inventory", "steady")
    psql(database.name, "-c", SEED)
    with builds.ours("inventory", database) as side:
        yield side


def slices(name: str, minutes: int) -> Iterator[int]:
    """The numbers of the slices."""
    count = minutes * 60 // SLICE
    for number in range(count):
        yield number
        say(f"  {name}: {(number + 1) * SLICE} of {count * SLICE} s")


def run(side: Side, ttl: int | None = None) -> Outcome:
    """Runs the load for a slice. A request that fails or takes more than 2 s ends the run."""
    seen = load.holds(side.port, SLICE, CONNECTIONS, 2, PRODUCTS, ttl)
    if set(seen["statuses"]) - {"200", "201"} or seen["broken"] or seen["timeouts"]:
        raise SystemExit(f"bench: holds: requests failed: {seen}")
    requests = sum(seen["statuses"].values())
    say(f"  {requests / seen['seconds']:,.0f}/s, p50 {seen['p50_ms']} ms, p99 {seen['p99_ms']} ms")
    return Outcome(requests, requests / seen["seconds"], seen["p50_ms"], seen["p99_ms"])


def size(side: Side) -> int:
    """The size of the database in bytes."""
    return int(psql(side.database.name, "-c", f"SELECT pg_database_size('{side.database.name}')"))
