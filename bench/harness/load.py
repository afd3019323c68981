"""The load generators: wrk for both HTTP sides, pgbench for the database alone."""

import json
import os
import re
import subprocess
from dataclasses import dataclass

from harness import tools
from harness.databases import LOAD

CONNECTIONS = 64
CORES = os.cpu_count() or 1


@dataclass
class Outcome:
    """The result of one run of a load generator."""

    requests: int
    per_second: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_us: float | None = None  # of the server, per request
    failed: int = 0


def wrk(
    port: int, kind: str, seconds: float, tag: str, connections: int = CONNECTIONS, may_fail: bool = False
) -> Outcome:
    """Sends requests of a kind (see requests.lua). Unless they `may_fail`, a failure, or a status of 400 or more, ends
    the benchmark."""
    threads = min(connections, max(1, CORES // 2))
    command = [
        tools.find("wrk"), f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s",
        "-s", str(LOAD / "requests.lua"), f"http://127.0.0.1:{port}", "--", kind, tag,
    ]  # fmt: skip
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seen = json.loads(output[output.index('{"requests"'):])
    if seen["failed"] and not may_fail or not seen["requests"]:
        raise SystemExit(f"bench: {kind}: requests failed: {seen}")
    rate = seen["requests"] / seen["seconds"]
    return Outcome(seen["requests"], rate, seen["p50_ms"], seen["p99_ms"], failed=seen["failed"])


def holds(port: int, seconds: float, connections: int, timeout: int, products: int, ttl: int | None = None) -> dict:
    """Holds products, and commits each hold if there is no `ttl` (see holds.lua). Returns what wrk has seen."""
    threads = min(connections, max(1, CORES // 2))
    command = [
        tools.find("wrk"), f"-t{threads}", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", f"{timeout}s",
        "-s", str(LOAD / "holds.lua"), f"http://127.0.0.1:{port}", "--", str(products), *([] if ttl is None else [str(ttl)]),
    ]  # fmt: skip
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output[output.index('{"seconds"'):])


def pgbench(database: str, script: str, seconds: float, **variables: int) -> Outcome:
    """Runs a script with prepared statements."""
    defined = [f"-D{name}={value}" for name, value in variables.items()]
    command = [
        tools.find("pgbench"), "-n", "-M", "prepared", "-c", str(CONNECTIONS), "-j", str(CORES), "-T", str(seconds),
        *defined, "-f", str(LOAD / script), database,
    ]  # fmt: skip
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout
    done = re.search(r"actually processed: (\d+)", output)
    rate = re.search(r"tps = ([\d.]+)", output)
    failed = re.search(r"failed transactions: (\d+)", output)
    if not done or not rate or (failed and failed[1] != "0"):
        raise SystemExit(f"bench: pgbench failed:\n{output}")
    return Outcome(int(done[1]), float(rate[1]))
