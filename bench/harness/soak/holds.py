"""The holds that expire, sent by wrk at full speed: abandoned carts."""

from harness import load
from harness.soak.release import PRODUCTS
from harness.soak.report import Kind

TTL = 60  # seconds


class ExpiringHolds:
    """Runs wrk, slice by slice."""

    def __init__(self, port: int, connections: int):
        self.port, self.connections = port, connections

    def run(self, seconds: float) -> Kind:
        """Sends holds for this long."""
        seen = load.holds(self.port, seconds, self.connections, 10, PRODUCTS, TTL)
        failures = {name: count for name, count in seen["statuses"].items() if name != "201"}
        failures |= {name: seen[name] for name in ("broken", "timeouts") if seen[name]}
        done = seen["statuses"].get("201", 0)
        return Kind(done / seen["seconds"], seen["p50_ms"], seen["p99_ms"], failures)
