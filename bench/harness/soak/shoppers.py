"""Clients that hold, commit, release, read and register, and remember what they were told."""

import multiprocessing
import random
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from harness.soak.client import Client
from harness.soak.holds import TTL
from harness.soak.release import PRODUCTS, SCARCE
from harness.soak.report import Kind, percentile

PROCESSES = 2
THREADS = 4  # each
# Of the responses that a thread was given it remembers so many of each sort, to check them at the end.
REMEMBERED = 2000
EXPECTED = {"200", "201", "204", "404", "409"}


@dataclass
class Told:
    """What the clients were told. Units are by product."""

    slices: list[dict[str, Kind]] = field(default_factory=list)
    committed: Counter = field(default_factory=Counter)
    # Commits of which nothing definite is known.
    perhaps: Counter = field(default_factory=Counter)
    # Reservations and the state they must have; users and their emails.
    reservations: dict[str, str] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)
    # Responses that contradict earlier ones.
    wrong: list[str] = field(default_factory=list)


class Shopper:
    """One client on a thread of its own."""

    def __init__(self, port: int, start: float, slice_seconds: float):
        self.start, self.slice_seconds = start, slice_seconds
        # By slice and kind: the times of the expected responses, and the count of the others.
        self.times: dict = defaultdict(lambda: defaultdict(list))
        self.failures: dict = defaultdict(lambda: defaultdict(Counter))
        self.kind = ""
        self.told = Told()
        self.client = Client(port, self.seen)
        self.scarce_in_mind = 0

    def seen(self, status: str, seconds: float) -> None:
        number = int((time.monotonic() - self.start) / self.slice_seconds)
        if status in EXPECTED:
            self.times[number][self.kind].append(seconds)
        else:
            self.failures[number][self.kind][status] += 1

    def call(self, kind: str, *arguments, **options) -> tuple[int | None, object]:
        self.kind = kind
        return self.client.call(*arguments, **options)

    def run(self, until: threading.Event) -> None:
        while not until.is_set():
            chance = random.random()
            if chance < 0.5:
                self.shop()
            elif chance < 0.9:
                self.call("read", "GET", f"/inventory/{product()}")
            else:
                self.register()

    def shop(self) -> None:
        items = Counter(product() for _ in range(random.choice((1, 1, 1, 2, 4))))
        body = {"items": [{"product_id": name, "quantity": amount} for name, amount in items.items()]}
        status, held = self.call("hold", "POST", "/reservations", body | {"ttl_seconds": TTL}, key=True)
        if status != 201:
            return
        path, chance = f"/reservations/{held['id']}", random.random()
        if chance < 0.6:
            self.end(path, "commit", "committed", items)
        elif chance < 0.8:
            self.end(path, "release", "released", items)

    def end(self, path: str, action: str, state: str, items: Counter) -> None:
        """Commits or releases. Either can come too late, after an outage."""
        status, response = self.call(action, "POST", f"{path}/{action}")
        if action == "commit":
            if status == 200:
                self.told.committed.update(items)
            elif status is None:
                self.told.perhaps.update(items)
        if status == 200:
            if action == "commit" and response["state"] != state:
                self.told.wrong.append(f"{path}: committed, and it is {response['state']}")
            remember(self.told.reservations, path, response["state"])
        elif status == 404:
            self.told.wrong.append(f"{path}: acknowledged, and unknown when it was to be {state}")

    def register(self) -> None:
        email = f"{random.getrandbits(64):x}@example.com"
        status, user = self.call("user", "POST", "/users", {"name": "Ada", "email": email})
        if status == 201:
            remember(self.told.users, f"/users/{user['id']}", email)


def remember(kept: dict, name: str, value: str) -> None:
    """Keeps a random choice of bounded size."""
    if len(kept) < REMEMBERED:
        kept[name] = value
    elif random.random() < 0.1:
        del kept[random.choice(list(kept)) if random.random() < 0.01 else next(iter(kept))]
        kept[name] = value


def product() -> str:
    if random.random() < 0.1:
        return f"scarce-{random.randint(1, SCARCE)}"
    return f"product-{random.randint(1, PRODUCTS)}"


def work(port: int, start: float, slice_seconds: float, until, results) -> None:
    """The main function of a process."""
    shoppers = [Shopper(port, start, slice_seconds) for _ in range(THREADS)]
    threads = [threading.Thread(target=shopper.run, args=(until,), daemon=True) for shopper in shoppers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plain = [
        (
            {number: dict(kinds) for number, kinds in shopper.times.items()},
            {number: dict(kinds) for number, kinds in shopper.failures.items()},
            shopper.told,
        )
        for shopper in shoppers
    ]
    results.put(plain)


class Shoppers:
    """All clients; use it in a `with`."""

    def __init__(self, port: int, slice_seconds: float):
        self.slice_seconds = slice_seconds
        context = multiprocessing.get_context("fork")
        self.until, self.results = context.Event(), context.Queue()
        arguments = (port, time.monotonic(), slice_seconds, self.until, self.results)
        self.processes = [context.Process(target=work, args=arguments, daemon=True) for _ in range(PROCESSES)]
        for process in self.processes:
            process.start()

    def stop(self) -> Told:
        """Ends the load and returns what was told."""
        self.until.set()
        all_of_them = [shopper for _ in self.processes for shopper in self.results.get(timeout=180)]
        told = Told()
        times: dict = defaultdict(lambda: defaultdict(list))
        failures: dict = defaultdict(lambda: defaultdict(Counter))
        for some_times, some_failures, one in all_of_them:
            for number, kinds in some_times.items():
                for kind, seconds in kinds.items():
                    times[number][kind] += seconds
            for number, kinds in some_failures.items():
                for kind, counts in kinds.items():
                    failures[number][kind].update(counts)
            told.committed.update(one.committed)
            told.perhaps.update(one.perhaps)
            told.reservations |= one.reservations
            told.users |= one.users
            told.wrong += one.wrong
        kinds = sorted({kind for by_kind in (*times.values(), *failures.values()) for kind in by_kind})
        for number in range(max(times, default=-1) + 1):
            told.slices.append({kind: self._kind(times[number][kind], failures[number][kind]) for kind in kinds})
        return told

    def _kind(self, seconds: list[float], failures: Counter) -> Kind:
        p50, p99 = (percentile(seconds, part) * 1000 for part in (0.5, 0.99))
        return Kind(len(seconds) / self.slice_seconds, p50, p99, dict(failures))

    def __enter__(self) -> "Shoppers":
        return self

    def __exit__(self, *_error) -> None:
        self.until.set()
        for process in self.processes:
            process.terminate()
