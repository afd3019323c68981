"""The databases of both sides, on the throwaway server that `hedgerow postgres` started around this process."""

import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from harness import tools

ROOT = Path(__file__).resolve().parents[2]
LOAD = ROOT / "bench/load"
# Per service: the script that brings its database to the state in which a round begins, and the table whose rows
# its writes add to.
STATE = {"users": (LOAD / "users.sql", "users"), "inventory": (LOAD / "stock.sql", "movement")}


def psql(database: str, *arguments: str) -> str:
    """Runs psql, which ends the benchmark at the first error, and returns its rows."""
    command = [tools.find("psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, *arguments]
    quiet = {**os.environ, "PGOPTIONS": "-c client_min_messages=warning"}
    return subprocess.run(command, env=quiet, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


class Database:
    """The database of one service on one side."""

    def __init__(self, service: str, side: str):
        """Creates it, empty and anew."""
        self.name = f"{service}_{side}"
        self.script, self.table = STATE[service]
        self.migrations = sorted((ROOT / "migrations" / service).glob("*.sql"))
        drop = f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)"
        psql("postgres", "-c", drop, "-c", f"CREATE DATABASE {self.name}")

    def migrate(self) -> None:
        """Gives it the schema of the service's own migrations."""
        for file in self.migrations:
            psql(self.name, "--single-transaction", "-f", str(file))

    @property
    def url(self) -> str:
        """As the services read it."""
        return urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{self.name}").geturl()

    @property
    def libpq_url(self) -> str:
        """As asyncpg reads it: host and user come from PGHOST and PGUSER."""
        return f"postgres:///{self.name}"

    def reset(self) -> None:
        """Brings it to the state in which a round begins."""
        psql(self.name, "-f", str(self.script))

    def rows(self) -> int:
        """How many rows its writes have added to."""
        return int(psql(self.name, "-c", f"SELECT count(*) FROM {self.table}"))
