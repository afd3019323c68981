"""The programs the benchmark needs, and the peer's Python environment."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

# Program: its Debian package.
PROGRAMS = {"wrk": "wrk", "pgbench": "postgresql", "psql": "postgresql-client"}


def find(program: str) -> str | None:
    """Its path; Debian keeps the programs of a server version in a folder of their own."""
    found = shutil.which(program)
    if found is None:
        candidates = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda p: float(p.parts[4]))
        found = str(candidates[-1]) if candidates else None
    return found


def require() -> None:
    """Installs what is missing where that can be done, and else ends with the line that does it."""
    missing = [package for program, package in PROGRAMS.items() if find(program) is None]
    if not missing:
        return
    install = f"apt-get install -y --no-install-recommends {' '.join(missing)}"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        sys.exit(f"bench: {', '.join(missing)} missing; on Debian: sudo {install}")
    subprocess.run(["apt-get", "update", "-q"], check=True, stdout=sys.stderr)
    subprocess.run(install.split(), check=True, stdout=sys.stderr)


def version(*command: str) -> str:
    """The first line of what `command` says about itself."""
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return ran.stdout.splitlines()[0].strip() if ran.stdout else "unknown"


def environment(requirements: Path) -> Path:
    """The `python` of an environment with exactly these requirements, made on first use and kept in the cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hedgerow-bench"
    key = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = cache / f"python-{key}"
    if not (home / "complete").exists():
        print("bench: making the peer's Python environment", file=sys.stderr)
        shutil.rmtree(home, ignore_errors=True)
        made = subprocess.run([sys.executable, "-m", "venv", str(home)], stdout=sys.stderr)
        if made.returncode != 0:
            sys.exit("bench: this Python cannot make environments; on Debian: sudo apt-get install -y python3-venv")
        pip = [str(home / "bin/python"), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        (home / "complete").touch()
    return home / "bin/python"
