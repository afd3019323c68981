"""The figures: what is measured, and its floor and aim."""

import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from harness import load, parity
from harness.load import Outcome
from harness.processes import await_response, memory_mb
from harness.sides import PROBE, Builds, Side

STARTS = 20
IDLE_SECONDS = 3


@dataclass
class Settings:
    """How long to measure for."""

    rounds: int
    seconds: int
    warmup: int
    peer_pool: int | None = None  # overrides that of the kind


@dataclass
class Result:
    """One line of the table."""

    title: str
    unit: str  # "x": a ratio, higher is better; "times", "ms", "µs", "MB": a cost, lower is better
    value: float
    low: float
    high: float
    floor: float
    aim: float
    ours: list[Outcome] = field(default_factory=list)
    theirs: list[Outcome] = field(default_factory=list)
    others: dict[str, list[Outcome]] = field(default_factory=dict)

    def reaches(self, mark: float) -> bool:
        """Whether the value is at least as good as `mark`."""
        return self.value >= mark if self.unit == "x" else self.value <= mark


def say(text: str) -> None:
    """Reports progress on stderr."""
    print(text, file=sys.stderr, flush=True)


@dataclass
class Kind:
    """A kind of request, by its name in requests.lua."""

    name: str
    service: str
    writes: bool
    peer_pool: int  # per worker; README.md says how it was chosen

    def round(self, side: Side, settings: Settings, tag: str, connections: int = load.CONNECTIONS) -> Outcome:
        """Runs one round: reset, warm-up, measured load, and a check of the rows written."""
        if self.writes:
            side.database.reset()
        before = side.database.rows()
        warm = load.wrk(side.port, self.name, settings.warmup, f"{tag}w", connections)
        outcome = load.wrk(side.port, self.name, settings.seconds, tag, connections)
        if self.writes:
            written = side.database.rows() - before
            responses = warm.requests + outcome.requests
            check_rows(self.name, written, responses, 2 * connections)
        return outcome


def check_rows(kind: str, written: int, responses: int, cut_off: int) -> None:
    """Exits if rows are missing, or if there are more than the requests cut off at the end of a run explain."""
    if not responses <= written <= responses + cut_off:
        raise SystemExit(f"bench: {kind}: {written} rows for {responses} requests")


GET_STOCK = Kind("get-stock", "inventory", writes=False, peer_pool=8)
SET_STOCK = Kind("set-stock", "inventory", writes=True, peer_pool=16)
RESERVE_HOT = Kind("reserve-hot", "inventory", writes=True, peer_pool=16)
RESERVE_SPREAD = Kind("reserve-spread", "inventory", writes=True, peer_pool=16)
ADD_USER = Kind("add-user", "users", writes=True, peer_pool=16)


def compare(title: str, floor: float, aim: float, settings: Settings, ours: Callable, theirs: Callable) -> Result:
    """Alternates between the two sides and passes each the number of the round."""
    ours_seen, theirs_seen = [], []
    for number in range(settings.rounds):
        ours_seen.append(ours(number))
        theirs_seen.append(theirs(number))
        say(f"  round {number + 1}: {ours_seen[-1].per_second:,.0f}/s against {theirs_seen[-1].per_second:,.0f}/s")
    ratios = [a.per_second / b.per_second for a, b in zip(ours_seen, theirs_seen)]
    value = statistics.median(o.per_second for o in ours_seen) / statistics.median(t.per_second for t in theirs_seen)
    return Result(title, "x", value, min(ratios), max(ratios), floor, aim, ours_seen, theirs_seen)


def against_fastapi(title: str, kind: Kind, floor: float, aim: float):
    """Requests per second over FastAPI's."""

    def measure(builds: Builds, settings: Settings) -> list[Result]:
        pool = settings.peer_pool or kind.peer_pool
        with builds.ours(kind.service) as ours, builds.peer(kind.service, pool) as peer:
            parity.check(kind.service, ours, peer)
            for side in (ours, peer):
                side.database.reset()
            return [
                compare(title, floor, aim, settings, lambda n: kind.round(ours, settings, f"r{n}"),
                        lambda n: kind.round(peer, settings, f"r{n}"))  # fmt: skip
            ]

    return measure


def against_pgbench(title: str, floor: float, aim: float):
    """Requests per second over those of the bare select."""

    def measure(builds: Builds, settings: Settings) -> list[Result]:
        with builds.ours("inventory") as ours:

            def select(_number: int) -> Outcome:
                load.pgbench(ours.database.name, "select.sql", settings.warmup)
                return load.pgbench(ours.database.name, "select.sql", settings.seconds)

            return [compare(title, floor, aim, settings, lambda n: GET_STOCK.round(ours, settings, f"r{n}"), select)]

    return measure


def reserve(title: str, kind: Kind, others: int, floor: float, aim: float):
    """Reservations per second over those of `pgbench`, which writes the same rows with one statement each."""

    def measure(builds: Builds, settings: Settings) -> list[Result]:
        with builds.ours("inventory") as ours:

            def statement(_number: int) -> Outcome:
                ours.database.reset()
                load.pgbench(ours.database.name, "reserve.sql", settings.warmup, others=others)
                before = ours.database.rows()
                outcome = load.pgbench(ours.database.name, "reserve.sql", settings.seconds, others=others)
                if ours.database.rows() - before != outcome.requests:
                    raise SystemExit("bench: reserve.sql did not write as many rows as it reported")
                return outcome

            return [compare(title, floor, aim, settings, lambda n: kind.round(ours, settings, f"r{n}"), statement)]

    return measure


def tail(title: str, kind: Kind, floor: float, aim: float):
    """p99 over p50 of the same requests."""

    def measure(builds: Builds, settings: Settings) -> list[Result]:
        with builds.ours(kind.service) as ours:
            seen = [kind.round(ours, settings, f"r{n}") for n in range(settings.rounds)]
        times = [outcome.p99_ms / outcome.p50_ms for outcome in seen]
        return [Result(title, "times", statistics.median(times), min(times), max(times), floor, aim, seen)]

    return measure


def alone(title: str, kind: Kind, floor: float, aim: float):
    """Median latency of a single client over that of the peer with one statement."""

    def measure(builds: Builds, settings: Settings) -> list[Result]:
        with builds.ours(kind.service) as ours, builds.statement() as peer:
            sides = [[], []]
            for n in range(settings.rounds):
                for side, seen in zip((ours, peer), sides):
                    seen.append(kind.round(side, settings, f"r{n}", connections=1))
                say(f"  round {n + 1}: {sides[0][-1].p50_ms} ms against {sides[1][-1].p50_ms} ms")
        times = [one.p50_ms / other.p50_ms for one, other in zip(*sides)]
        value = statistics.median(o.p50_ms for o in sides[0]) / statistics.median(o.p50_ms for o in sides[1])
        return [Result(title, "times", value, min(times), max(times), floor, aim, *sides)]

    return measure


def replicas(title: str, kind: Kind, floor: float, aim: float):
    """Requests per second of three replicas, each with its own clients, over those of one of them."""

    def measure(builds: Builds, settings: Settings) -> list[Result]:
        with builds.replicas(3) as sides, ThreadPoolExecutor(len(sides)) as threads:

            def together(number: int) -> Outcome:
                database = sides[0].database
                database.reset()
                before = database.rows()
                responses = 0
                for seconds, tag in ((settings.warmup, f"r{number}w"), (settings.seconds, f"r{number}")):
                    run = lambda side: load.wrk(side.port, kind.name, seconds, tag)  # noqa: B023, E731
                    seen = list(threads.map(run, sides))
                    responses += sum(outcome.requests for outcome in seen)
                check_rows(kind.name, database.rows() - before, responses, 2 * load.CONNECTIONS * len(sides))
                slowest = max(seen, key=lambda outcome: outcome.p99_ms)
                requests, rate = (sum(column) for column in zip(*((o.requests, o.per_second) for o in seen)))
                return Outcome(requests, rate, slowest.p50_ms, slowest.p99_ms)

            one = lambda n: kind.round(sides[0], settings, f"r{n}")  # noqa: E731
            return [compare(title, floor, aim, settings, together, one)]

    return measure


def start(title: str, floor: float, aim: float):
    """Milliseconds from spawning `inventory` to its first 200, over a real socket."""

    def measure(builds: Builds, _settings: Settings) -> list[Result]:
        database = builds.database("inventory")
        taken = []
        for number in range(-2, STARTS):
            began = time.perf_counter()
            process, port = builds.service("inventory", database, pdeathsig=False)
            try:
                await_response(process, port, PROBE["inventory"])
                if number >= 0:  # the first two load the program into the page cache
                    taken.append((time.perf_counter() - began) * 1e3)
            finally:
                process.kill()
        return [Result(title, "ms", statistics.median(taken), min(taken), max(taken), floor, aim)]

    return measure


def memory(title: str, floor: float, aim: float):
    """Memory of each service while idle, after its first request."""

    def measure(builds: Builds, _settings: Settings) -> list[Result]:
        results = []
        for service in ("users", "inventory"):
            process, port = builds.service(service, builds.database(service))
            with process:
                await_response(process, port, PROBE[service])
                time.sleep(IDLE_SECONDS)
                for name, mb in zip(("RSS", "PSS"), memory_mb(process.pid)):
                    results.append(Result(f"{title}, `{service}`, {name}", "MB", mb, mb, mb, floor, aim))
        return results

    return measure


FIGURES = {
    "get": against_fastapi("`GET /inventory/{id}` against FastAPI", GET_STOCK, 8, 12),
    "select": against_pgbench("`GET /inventory/{id}` against `pgbench`", 1.1, 1.5),
    "user": against_fastapi("`POST /users` against FastAPI", ADD_USER, 2, 4),
    "stock": against_fastapi("`POST /inventory/{id}` against FastAPI", SET_STOCK, 2, 4),
    "hot": reserve("`POST /reservations`, one product, against `pgbench`", RESERVE_HOT, 0, 12, 18),
    "spread": reserve("`POST /reservations`, 10,000 products, against `pgbench`", RESERVE_SPREAD, 9999, 1.5, 2.5),
    "hot-fastapi": against_fastapi("`POST /reservations`, one product, against FastAPI", RESERVE_HOT, 10, 15),
    "spread-fastapi": against_fastapi("`POST /reservations`, 10,000 products, against FastAPI", RESERVE_SPREAD, 5, 8),
    "tail": tail("`POST /reservations`, one product, p99 over p50", RESERVE_HOT, 6, 3),
    "alone": alone("`POST /reservations`, one client, p50 over that of one statement", RESERVE_SPREAD, 1.15, 1),
    "replicas": replicas("`POST /reservations`, one product, three replicas over one", RESERVE_HOT, 0.8, 1.2),
    "start": start("start to first response, `inventory`", 50, 15),
    "memory": memory("idle memory", 25, 15),
}
