"""The services of a release: two replicas of users and inventory behind the gateway, on the ephemeral Postgres."""

import os
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from harness.databases import psql
from harness.processes import Process, await_response, free_port, memory_mb
from harness.sides import PROBE
from harness.soak.client import Client

PRODUCTS = 3000
STOCK = 1_000_000_000
# Products of which there are few, so that holds compete for them.
SCARCE = 50
SCARCE_STOCK = 500
REPLICAS = 2


class Replica:
    """A process that can be killed and started again on its ports."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str], log: Path, probe: str):
        self.name, self.argv, self.log, self.probe = name, argv, log, probe
        self.port = free_port()
        self.env = {**os.environ, **env, "HTTP_ADDR": f"127.0.0.1:{self.port}", "ADMIN_ADDR": "127.0.0.1:0"}
        self.env["DRAIN_DELAY"] = "0s"
        self.lock = threading.Lock()
        self.process = Process(self.argv, self.env, self.log)
        await_response(self.process, self.port, self.probe)

    def restart(self) -> None:
        """Kills it without warning and starts it again."""
        with self.lock:
            self.process.kill()
            self.process = Process(self.argv, self.env, self.log)
            await_response(self.process, self.port, self.probe)

    def memory_mb(self) -> float:
        with self.lock:
            return memory_mb(self.process.pid)[0]

    def __enter__(self) -> "Replica":
        return self

    def __exit__(self, *_error) -> None:
        with self.lock:
            self.process.stop()


class Release:
    """The running services. `stack` stops them."""

    def __init__(self, binaries: Path, logs: Path, stack: ExitStack):
        self.databases = ("users", "inventory")
        for name in self.databases:
            psql("postgres", "-c", f"CREATE DATABASE {name}")
            env = {**os.environ, "DATABASE_URL": self.url(name)}
            with (logs / "migrate.log").open("ab") as log:
                subprocess.run([binaries / name, "migrate"], env=env, check=True, stdout=log, stderr=log)
        self.replicas: list[Replica] = []

        def start(service: str, number: int, env: dict[str, str], probe: str) -> Replica:
            name = f"{service}-{number}"
            argv = [str(binaries / service)]
            replica = stack.enter_context(Replica(name, argv, env, logs / f"{name}.log", probe))
            self.replicas.append(replica)
            return replica

        grpc = [free_port() for _ in range(REPLICAS)]
        for number, port in enumerate(grpc):
            env = {"DATABASE_URL": self.url("inventory"), "GRPC_ADDR": f"127.0.0.1:{port}"}
            start("inventory", number, env, PROBE["inventory"])
        callee = "http://" + ",".join(f"127.0.0.1:{port}" for port in grpc)
        for number in range(REPLICAS):
            start("users", number, {"DATABASE_URL": self.url("users"), "INVENTORY_GRPC_URL": callee}, PROBE["users"])
        self.services = list(self.replicas)
        hosts = {
            service: ",".join(f"http://127.0.0.1:{r.port}" for r in self.services if r.name.startswith(service))
            for service in self.databases
        }
        routes = f"users:/users={hosts['users']} inventory:/inventory,/reservations={hosts['inventory']}"
        gateway = start("gateway", 0, {"ROUTES": routes, "ACCESS_LOG": "false"}, PROBE["inventory"])
        self.gateway_port = gateway.port

    @staticmethod
    def url(database: str) -> str:
        return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{database}").geturl()

    def seed(self) -> None:
        """Adds the products."""
        client = Client(self.gateway_port)
        amounts = {f"product-{n + 1}": STOCK for n in range(PRODUCTS)}
        amounts |= {f"scarce-{n + 1}": SCARCE_STOCK for n in range(SCARCE)}
        for product, amount in amounts.items():
            client.call("PUT", f"/inventory/{product}", {"stock": amount})
        psql("inventory", "-c", "VACUUM ANALYZE")

    def memory(self) -> dict[str, float]:
        """The resident memory of each process, in MB."""
        return {replica.name: replica.memory_mb() for replica in self.replicas}

    def tables(self) -> dict[str, tuple[float, int, int]]:
        """Of each table: its size with indexes in MB, its live rows and its dead ones."""
        found = {}
        for database in self.databases:
            rows = psql(database, "-c", """
                SELECT relname, pg_total_relation_size(relid), n_live_tup, n_dead_tup FROM pg_stat_user_tables
                WHERE relname <> '_sqlx_migrations' ORDER BY relname""")  # fmt: skip
            for row in rows.splitlines():
                name, size, live, dead = row.split("|")
                found[name] = (int(size) / 1e6, int(live), int(dead))
        return found
