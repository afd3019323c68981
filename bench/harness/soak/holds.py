"""The holds that expire, sent by wrk at full speed: abandoned carts."""

import json
import subprocess

from harness import tools
from harness.databases import LOAD
from harness.load import CORES
from harness.soak.release import PRODUCTS
from harness.soak.report import Kind

TTL = 60  # seconds


class ExpiringHolds:
    """Runs wrk, slice by slice."""

    def __init__(self, port: int, connections: int):
        self.port, self.connections = port, connections

    def run(self, seconds: float) -> Kind:
        """Sends holds for this long."""
        threads = min(self.connections, max(1, CORES // 2))
        command = [
            tools.find("wrk"), f"-t{threads}", f"-c{self.connections}", f"-d{seconds:.0f}s", "--timeout", "10s",
            "-s", str(LOAD / "soak.lua"), f"http://127.0.0.1:{self.port}", "--", str(PRODUCTS), str(TTL),
        ]  # fmt: skip
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        seen = json.loads(output[output.index('{"seconds"'):])
        failures = {name: count for name, count in seen["statuses"].items() if name != "201"}
        failures |= {name: seen[name] for name in ("broken", "timeouts") if seen[name]}
        done = seen["statuses"].get("201", 0)
        return Kind(done / seen["seconds"], seen["p50_ms"], seen["p99_ms"], failures)
