"""The databases of both sides, on the ephemeral server that `hedgerow postgres` started for this process."""

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from harness import tools

ROOT = Path(__file__).resolve().parents[2]
LOAD = ROOT / "bench/load"
# Per service: the script that resets its database before a round, and the table to which its writes add rows.
STATE = {"users": (LOAD / "users.sql", "users"), "inventory": (LOAD / "stock.sql", "movement")}


def psql(database: str, *arguments: str) -> str:
    """Runs psql and returns its rows. The first error ends the benchmark."""
    command = [tools.find("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, *arguments]
    quiet = {**os.environ, "PGOPTIONS": "-c client_min_messages=warning"}
    return subprocess.run(command, env=quiet, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Database:
    """The database of one service on one side."""

    def __init__(self, service: str, side: str):
        """Drops and creates it."""
        self.name = f"{service}_{side}"
        self.script, self.table = STATE[service]
        self.migrations = sorted((ROOT / "migrations" / service).glob("*.sql"))
        drop = f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)"
        psql("postgres", "-c", drop, "-c", f"CREATE DATABASE {self.name}")

    def migrate(self) -> None:
        """Runs the service's migrations."""
        for file in self.migrations:
            psql(self.name, "--single-transaction", "-f", str(file))

    @property
    def url(self) -> str:
        """The URL for the services."""
        return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{self.name}").geturl()

    @property
    def libpq_url(self) -> str:
        """The URL for asyncpg, which takes host and user from PGHOST and PGUSER."""
        return f"postgres:///{self.name}"

    def reset(self) -> None:
        """Resets it to the state before a round."""
        psql(self.name, "-f", str(self.script))

    def rows(self) -> int:
        """The number of rows in the table of its writes."""
        return int(psql(self.name, "-c", f"SELECT count(*) FROM {self.table}"))
