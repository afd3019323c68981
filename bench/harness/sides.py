"""The two sides of a comparison, our service and FastAPI, each with a port and a database."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.databases import ROOT, Database
from harness.processes import Process, await_response, await_line, free_port

PEER = ROOT / "bench/peers/fastapi"
PEER_WORKERS = 2
POOL_SIZE = 8  # of our service in all: its default
# A GET that returns 200 whatever the database contains, and takes one query.
PROBE = {"users": "/users?limit=1", "inventory": "/inventory/x"}


@dataclass
class Side:
    """A running server."""

    port: int
    database: Database


class Builds:
    """The programs of both sides, and the folder for their output."""

    def __init__(self, binaries: Path, python: Path, logs: Path):
        self.binaries, self.python, self.logs = binaries, python, logs

    def database(self, service: str, side: str = "ours") -> Database:
        """Creates a database for our service and lets the service migrate it."""
        database = Database(service, side)
        env = {**os.environ, "DATABASE_URL": database.url}
        with (self.logs / "migrate.log").open("ab") as log:
            subprocess.run([self.binaries / service, "migrate"], env=env, check=True, stdout=log, stderr=log)
        database.reset()
        return database

    def service(
        self, service: str, database: Database, pdeathsig: bool = True, port: int | None = None,
        settings: dict[str, str] | None = None, wrapper: list[str] | None = None,
    ) -> tuple[Process, int]:  # fmt: skip
        """Starts one of our services, with these settings in addition to its own. Returns at once, with its port."""
        port = port or free_port()
        env = {
            **os.environ,
            "DATABASE_URL": database.url,
            "DATABASE_POOL_SIZE": str(POOL_SIZE),
            "HTTP_ADDR": f"127.0.0.1:{port}",
            "GRPC_ADDR": "127.0.0.1:0",
            "ADMIN_ADDR": "127.0.0.1:0",
            "DRAIN_DELAY": "0s",
            **(settings or {}),
        }
        log = self.logs / f"{service}-{port}.log"
        return Process([*(wrapper or []), str(self.binaries / service), "serve"], env, log, pdeathsig), port

    @contextmanager
    def ours(self, service: str, database: Database | None = None) -> Iterator[Side]:
        """Runs our service, by default on a new database."""
        database = database or self.database(service)
        process, port = self.service(service, database)
        with process:
            await_response(process, port, PROBE[service])
            yield Side(port, database)

    @contextmanager
    def replicas(self, count: int) -> Iterator[list[Side]]:
        """Runs replicas of `inventory` on one database."""
        database = self.database("inventory")
        with ExitStack() as stack:
            sides = []
            for _ in range(count):
                process, port = self.service("inventory", database)
                stack.enter_context(process)
                await_response(process, port, PROBE["inventory"])
                sides.append(Side(port, database))
            yield sides

    @contextmanager
    def statement(self) -> Iterator[Side]:
        """Runs the peer that reserves with one statement through sqlx."""
        database = Database("inventory", "statement")
        database.migrate()
        database.reset()
        port = free_port()
        env = {**os.environ, "DATABASE_URL": database.url, "HTTP_ADDR": f"127.0.0.1:{port}"}
        with Process([str(self.binaries / "bench-sqlx")], env, self.logs / "bench-sqlx.log") as process:
            await_response(process, port, "/ready")
            yield Side(port, database)

    @contextmanager
    def peer(self, service: str, pool_size: int) -> Iterator[Side]:
        """Runs the same service on FastAPI. The pool is per worker."""
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
