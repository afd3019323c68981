"""The processes of the benchmark, each in its own process group."""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

START_DEADLINE = 30  # seconds


class Process:
    """A running program; use it in a `with`, or call `stop`."""

    def __init__(self, argv: list[str], env: dict[str, str], log: Path, pdeathsig: bool = True):
        # With a parent-death signal it stops when this one is killed. That costs an exec, so timed starts do without.
        wrapper = ["setpriv", "--pdeathsig", "TERM", "--"] if pdeathsig and shutil.which("setpriv") else []
        self.name, self.log = log.stem, log
        log.unlink(missing_ok=True)
        with log.open("ab") as output:  # so that it can be truncated
            self.child = subprocess.Popen(
                wrapper + argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    def check(self) -> None:
        """Exits if the process has ended."""
        if self.child.poll() is not None:
            self.fail(f"ended with {self.child.returncode}")

    def fail(self, reason: str) -> NoReturn:
        """Exits with the last output of this process."""
        tail = self.log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"bench: {self.name}: {reason}; its output:\n{tail}")

    def kill(self) -> None:
        """Kills it and everything it has started."""
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.child.wait()

    def stop(self) -> None:
        """Terminates it, and kills it after 10 s."""
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            pass
        self.kill()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_error) -> None:
        self.stop()


def free_port() -> int:
    """A free TCP port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_response(process: Process, port: int, path: str) -> None:
    """Waits until a GET of `path` returns 200."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()

    def responds() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                connection.sendall(request)
                return connection.recv(4096).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    _await(process, responds, f"200 from GET {path}")


def await_line(process: Process, text: str) -> None:
    """Waits until the process has written `text`, for processes that share their port."""
    _await(process, lambda: text in process.log.read_text(errors="replace"), f"line with {text!r}")


def _await(process: Process, happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + START_DEADLINE
    while not happened():
        process.check()
        if time.monotonic() > deadline:
            process.fail(f"no {what} within {START_DEADLINE} s")
        time.sleep(0.0002)


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident (RSS) and proportional (PSS) memory of a process, in MB (10^6 bytes)."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, amount, _unit = line.split()
        fields[name] = int(amount) * 1024 / 1e6
    return fields["Rss:"], fields["Pss:"]


def cpu_seconds(group: int) -> float:
    """CPU time of a process and its children, in user and kernel mode."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
