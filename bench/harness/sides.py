"""The two sides of a comparison, ours and FastAPI's, each a server on a port with a database of its own."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.databases import ROOT, Database
from harness.processes import Process, await_answer, await_line, free_port

PEER = ROOT / "bench/peers/fastapi"
PEER_WORKERS = 2
POOL_SIZE = 8  # ours, in all: the services' default
# A GET that answers 200 whatever the database holds, and takes one query.
PROBE = {"users": "/users?limit=1", "inventory": "/inventory/x"}


@dataclass
class Side:
    """A server that is up."""

    port: int
    database: Database


class Builds:
    """Where both sides' programs are, and where their output goes."""

    def __init__(self, binaries: Path, python: Path, logs: Path):
        self.binaries, self.python, self.logs = binaries, python, logs

    def database(self, service: str) -> Database:
        """A new database for our service, migrated by the service itself."""
        database = Database(service, "ours")
        env = {**os.environ, "DATABASE_URL": database.url}
        with (self.logs / "migrate.log").open("ab") as log:
            subprocess.run([self.binaries / service, "migrate"], env=env, check=True, stdout=log, stderr=log)
        database.reset()
        return database

    def service(self, service: str, database: Database, tethered: bool = True) -> tuple[Process, int]:
        """Starts a service of ours; returns at once, with its port."""
        port = free_port()
        env = {
            **os.environ,
            "DATABASE_URL": database.url,
            "DATABASE_POOL_SIZE": str(POOL_SIZE),
            "HTTP_ADDR": f"127.0.0.1:{port}",
            "GRPC_ADDR": "127.0.0.1:0",
            "ADMIN_ADDR": "127.0.0.1:0",
            "DRAIN_DELAY": "0s",
        }
        log = self.logs / f"{service}.log"
        return Process([str(self.binaries / service), "serve"], env, log, tethered), port

    @contextmanager
    def ours(self, service: str) -> Iterator[Side]:
        """Our service, serving."""
        database = self.database(service)
        process, port = self.service(service, database)
        with process:
            await_answer(process, port, PROBE[service])
            yield Side(port, database)

    @contextmanager
    def replicas(self, count: int) -> Iterator[list[Side]]:
        """Replicas of `inventory`, on one database."""
        database = self.database("inventory")
        with ExitStack() as stack:
            sides = []
            for _ in range(count):
                process, port = self.service("inventory", database)
                stack.enter_context(process)
                await_answer(process, port, PROBE["inventory"])
                sides.append(Side(port, database))
            yield sides

    @contextmanager
    def statement(self) -> Iterator[Side]:
        """The peer that reserves by one statement through sqlx, serving."""
        database = Database("inventory", "statement")
        database.migrate()
        database.reset()
        port = free_port()
        env = {**os.environ, "DATABASE_URL": database.url, "HTTP_ADDR": f"127.0.0.1:{port}"}
        with Process([str(self.binaries / "bench-sqlx")], env, self.logs / "bench-sqlx.log") as process:
            await_answer(process, port, "/ready")
            yield Side(port, database)

    @contextmanager
    def peer(self, service: str, pool_size: int) -> Iterator[Side]:
        """The same on FastAPI, serving; the pool is of each worker."""
        database = Database(service, "peer")
        database.migrate()
        database.reset()
        port = free_port()
        env = {
            **os.environ,
            f"{service.upper()}_DATABASE_URL": database.libpq_url,
            "DATABASE_POOL_SIZE": str(pool_size),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with ExitStack() as stack:
            for worker in range(PEER_WORKERS):
                argv = [str(self.python), str(PEER / "app.py"), str(port)]
                process = stack.enter_context(Process(argv, env, self.logs / f"fastapi-{service}-{worker}.log"))
                await_line(process, "listening")
            yield Side(port, database)
