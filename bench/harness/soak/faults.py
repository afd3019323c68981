"""What goes wrong during the soak, one thing at a time."""

import itertools
import random
import threading
import time

from harness.databases import psql
from harness.soak.release import PRODUCTS, Release

LOCK_SECONDS = 5


class Faults:
    """Causes a fault each `interval` seconds; use it in a `with`. `log` says what and when."""

    def __init__(self, release: Release, interval: float):
        self.release, self.interval = release, interval
        self.start = time.monotonic()
        self.log: list[str] = []
        self.ended, self.idle = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        replicas = itertools.cycle(self.release.services)
        kinds = itertools.cycle((self._kill, self._terminate, self._lock))
        while not self.ended.wait(self.interval):
            self.log.append(f"{time.monotonic() - self.start:.0f} s: {next(kinds)(next(replicas))}")
        self.idle.set()
        # What it has started would be terminated with this thread, by the parent-death signal.
        threading.Event().wait()

    def _kill(self, replica) -> str:
        replica.restart()
        return f"{replica.name} killed and started again"

    def _terminate(self, _replica) -> str:
        database = random.choice(self.release.databases)
        psql("postgres", "-c", f"""
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = '{database}' AND backend_type = 'client backend' ORDER BY random() LIMIT 1""")  # fmt: skip
        return f"a connection to the database {database} terminated"

    def _lock(self, _replica) -> str:
        product = f"product-{random.randint(1, PRODUCTS)}"
        lock = f"SELECT FROM stock WHERE product_id = '{product}' FOR UPDATE"
        psql("inventory", "-c", "BEGIN", "-c", lock, "-c", f"SELECT pg_sleep({LOCK_SECONDS})", "-c", "COMMIT")
        return f"the row of {product} locked for the {LOCK_SECONDS} s before"

    def stop(self) -> None:
        """Waits for the end of the current fault."""
        self.ended.set()
        if self.thread.is_alive():
            self.idle.wait()

    def __enter__(self) -> "Faults":
        self.start = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *_error) -> None:
        self.ended.set()
