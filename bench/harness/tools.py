"""The programs that the benchmark needs, and the peer's Python environment."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Program and Debian package.
PROGRAMS = {
    "wrk": "wrk", "pgbench": "postgresql", "psql": "postgresql-client", "nginx": "nginx", "haproxy": "haproxy",
}  # fmt: skip
# Debian runs this script to ask whether a package may start its service.
POLICY = Path("/usr/sbin/policy-rc.d")


def find(program: str) -> str | None:
    """The path of a program. On Debian, not all of them are in PATH."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if found is None:
        candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda p: float(p.parts[4]))
        found = str(candidates[-1]) if candidates else None
    return found


def require(programs: Iterable[str] = PROGRAMS) -> None:
    """Installs what is missing of these programs if possible, or exits with the command that does."""
    missing = [PROGRAMS[program] for program in programs if find(program) is None]
    if not missing:
        return
    install = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"bench: {', '.join(missing)} missing; on Debian: sudo {install}")
    subprocess.run(["apt-get", "update", "-q"], check=True, stdout=sys.stderr)
    with _none_started():
        subprocess.run(install.split(), check=True, stdout=sys.stderr)


@contextmanager
def _none_started() -> Iterator[None]:
    """Keeps packages from starting their services, such as a web server on port 80."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink()


def version(*command: str) -> str:
    """The first line of the output of `command`."""
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return ran.stdout.splitlines()[0].strip() if ran.stdout else "unknown"


def environment(requirements: Path) -> Path:
    """The `python` of an environment with exactly these requirements, created on first use and cached."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hedgerow-bench"
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = cache / f"python-{key}"
    if not (home / "complete").exists():
        print("bench: creating the peer's Python environment", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        made = subprocess.run([sys.executable, "-m", "venv", str(home)], stdout=sys.stderr)
        if made.returncode != 0:
            sys.exit("bench: this Python cannot create a venv; on Debian: sudo apt-get install -y python3-venv")
        pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        (home / "complete").touch()
    return home / "bin/python"
