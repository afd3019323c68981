"""The output: a table, and RESULTS.md."""

import os
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

from harness import tools
from harness.databases import psql
from harness.figures import Result
from harness.load import CONNECTIONS, Outcome

# The headings of the parts of RESULTS.md that come from other runs, in their order.
STEADY = "\n## The steady state\n"
IDENTITY = "\n## Identity\n"
OPERATOR = "\n## The operator\n"


def table(results: list[Result]) -> str:
    """The figures with their floors and aims, in Markdown."""
    rows = [("figure", "measured", "range", "floor", "aim", "")]
    for result in results:
        value, low, high = (_amount(amount, result.unit) for amount in (result.value, result.low, result.high))
        spread = f"{low} to {high}" if result.low != result.high else ""
        floor, aim = (_amount(mark, result.unit) for mark in (result.floor, result.aim))
        rows.append((result.title, f"**{value}**", spread, floor, aim, verdict(result)))
    return _markdown(rows)


def verdict(result: Result) -> str:
    """Whether a figure meets its aim or floor."""
    if not result.reaches(result.floor):
        return "FLOOR MISSED"
    return "aim met" if result.reaches(result.aim) else "floor met"


def raw(results: Iterable[Result]) -> str:
    """The medians behind the ratios, in Markdown. They depend on the machine."""
    rows = [("figure", "side", "requests/s", "p50", "p99", "CPU per request", "each round")]
    for result in results:
        for side, outcomes in (("ours", result.ours), ("theirs", result.theirs), *result.others.items()):
            if outcomes:
                rounds = " ".join(f"{outcome.per_second:,.0f}" for outcome in outcomes)
                rate = f"{statistics.median(outcome.per_second for outcome in outcomes):,.0f}"
                times = (("p50_ms", "ms"), ("p99_ms", "ms"), ("cpu_us", "µs"))
                medians = (_median(outcomes, name, unit) for name, unit in times)
                rows.append((result.title, side, rate, *medians, rounds))
    return _markdown(rows)


def facts(python: Path, busy: float) -> str:
    """The machine and the versions, as a Markdown list."""
    packages = tools.version(str(python), "-c", _VERSIONS)
    lines = [
        f"Machine: {_cpu()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; "
        f"load average before the run {busy:.1f}.",
        f"Postgres {psql('postgres', '-c', 'SHOW server_version')}, "
        f"fsync {psql('postgres', '-c', 'SHOW fsync')}, "
        f"synchronous_commit {psql('postgres', '-c', 'SHOW synchronous_commit')}; all sides over its Unix socket.",
        f"Peer: Python {platform.python_version()}, {packages}.",
        f"Load: {tools.version(tools.find('wrk'), '-v').split(' Copyright')[0]}, "
        f"{tools.version(tools.find('pgbench'), '--version')}; {CONNECTIONS} connections.",
        f"The gateway's peers: {tools.version(tools.find('nginx'), '-v').removeprefix('nginx version: ')}, "
        f"{tools.version(tools.find('haproxy'), '-v').split(' - ')[0]}.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def write(path: Path, command: str, about: str, results: list[Result]) -> None:
    """Writes RESULTS.md."""
    text = f"""# Results

`{command}` of {time.strftime("%Y-%m-%d", time.gmtime())}; see README.md for the method.

{about}

{table(results)}

A figure is the ratio of both sides' medians (for latency, the difference), and its range is that of the rounds. Start
and changes are the median and range of all times. Memory under load is the maximum, and its range that of all samples.

## Behind the ratios
Medians of the rounds on this machine. They mean little on another one.

{raw(results)}
"""
    # The figures of the other runs are kept.
    before = path.read_text() if path.exists() else ""
    path.write_text(text.rstrip("\n") + "\n" + before[_start(before, STEADY, IDENTITY, OPERATOR):])


def write_steady(path: Path, command: str, results: list[Result]) -> None:
    """Writes the part of RESULTS.md about the steady state."""
    _write_part(path, command, results, STEADY, (IDENTITY, OPERATOR))


def write_identity(path: Path, command: str, results: list[Result]) -> None:
    """Writes the part of RESULTS.md about identity."""
    _write_part(path, command, results, IDENTITY, (OPERATOR,))


def _write_part(path: Path, command: str, results: list[Result], heading: str, later: tuple[str, ...]) -> None:
    """Replaces a part, or inserts it before those that come later."""
    before = path.read_text()
    about = f"`{command}` of {time.strftime('%Y-%m-%d', time.gmtime())}; see README.md for the method."
    text = f"{heading}{about}\n\n{table(results)}\n"
    path.write_text(before[: _start(before, heading, *later)] + text + before[_start(before, *later):])


def _start(text: str, *headings: str) -> int:
    """Where the first of these parts begins; the end of the text if there is none."""
    return min((at for heading in headings if (at := text.find(heading)) >= 0), default=len(text))


_VERSIONS = """
from importlib.metadata import version
print(", ".join(f"{name} {version(name)}" for name in ("fastapi", "uvicorn", "uvloop", "httptools", "asyncpg")))
"""


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _amount(amount: float, unit: str) -> str:
    digits = 2 if unit in ("x", "times") and amount < 10 else 1
    return f"{amount:.{digits}f}" + (unit if unit == "x" else f" {unit}")


def _median(outcomes: list[Outcome], name: str, unit: str) -> str:
    times = [getattr(outcome, name) for outcome in outcomes]
    if None in times:
        return ""
    time = statistics.median(times)
    return f"{time:.{1 if time >= 1 else 3}f} {unit}"


def _markdown(rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(lines)
