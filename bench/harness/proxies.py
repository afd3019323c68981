"""The gateway and its peers, nginx and HAProxy, in front of one shared upstream."""

import http.client
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness import tools
from harness.databases import ROOT
from harness.processes import Process, await_response, cpu_seconds, free_port
from harness.sides import Builds

PEERS = ROOT / "bench/peers"
PROBE = "/inventory/100000"
# About the response of `GET /inventory/{id}`, and one that is worth compressing.
RESPONSE = (
    '{"product_id":"100000","stock":42,"on_hand":45,"reserved":3,"name":"A garden chair of ash wood, oiled",'
    '"updated_at":"2026-01-31T12:00:00Z"'
)
LONG = json.dumps([f"chair {number}" for number in range(150)])
# The headers that arrive at an endpoint, by nginx's names.
SEEN = json.dumps({
    "request_id": "$http_x_request_id", "forwarded_for": "$http_x_forwarded_for",
    "forwarded_proto": "$http_x_forwarded_proto",
})[:-1]  # fmt: skip
TOO_LARGE = 64 * 1024 * 1024
LOG_DEADLINE = 5  # seconds
# HAProxy drops a line when two threads write at once: about 0.02%.
LOG_LOSS = 0.001


@dataclass
class Upstream:
    """The upstream of all proxies: two endpoints, and one on every loopback address."""

    process: Process
    a: int
    b: int
    many: int
    status: int

    def requests(self) -> int:
        """The number of requests it has received."""
        connection = http.client.HTTPConnection("127.0.0.1", self.status, timeout=5)
        try:
            connection.request("GET", "/")
            seen = connection.getresponse().read().decode()
        finally:
            connection.close()
        return int(re.search(r"^ \d+ \d+ (\d+)", seen, re.MULTILINE)[1])


@dataclass
class Proxy:
    """A running proxy: our gateway or a peer."""

    name: str
    process: Process
    port: int
    access_log: Path

    def empty_log(self) -> None:
        """Truncates the access log, so that rounds do not fill the disk."""
        os.truncate(self.access_log, 0)

    def check_log(self, requests: int) -> None:
        """Exits if responses have no line in the access log. Lines may be written late."""
        deadline = time.monotonic() + LOG_DEADLINE
        while (lines := _lines(self.access_log)) < requests * (1 - LOG_LOSS):
            if time.monotonic() > deadline:
                raise SystemExit(f"bench: {self.name}: {lines} lines of access log for {requests} requests")
            time.sleep(0.1)

    def cpu(self) -> float:
        """CPU seconds it has used."""
        return cpu_seconds(self.process.pid)


@contextmanager
def upstream(builds: Builds) -> Iterator[Upstream]:
    """Runs the upstream."""
    ports = {name: free_port() for name in ("a", "b", "many", "status")}
    texts = {"RESPONSE": RESPONSE, "LONG": LONG, "SEEN": SEEN}
    with _nginx(builds, PEERS / "upstream/nginx.conf", "upstream", ports | texts) as (process, _home):
        for name in ("a", "b", "many"):
            await_response(process, ports[name], PROBE)
        yield Upstream(process, **ports)


@contextmanager
def nginx(builds: Builds, a: int, b: int) -> Iterator[Proxy]:
    """Runs nginx in front of endpoints on these ports."""
    ports = {"port": free_port(), "a": a, "b": b}
    with _nginx(builds, PEERS / "nginx/nginx.conf", "nginx", ports) as (process, home):
        await_response(process, ports["port"], PROBE)
        yield Proxy("nginx", process, ports["port"], home / "access.log")


@contextmanager
def haproxy(builds: Builds, a: int, b: int) -> Iterator[Proxy]:
    """Runs HAProxy in front of endpoints on these ports."""
    port = free_port()
    with tempfile.TemporaryDirectory(dir=builds.logs) as home:
        template = PEERS / "haproxy/haproxy.cfg"
        config = _filled(template, Path(home), {"port": port, "a": a, "b": b})
        log = builds.logs / "haproxy.log"
        with Process([tools.find("haproxy"), "-db", "-f", str(config)], dict(os.environ), log) as process:
            await_response(process, port, PROBE)
            yield Proxy("haproxy", process, port, log)


@contextmanager
def gateway(builds: Builds, settings: dict[str, str], probe: str = PROBE, name: str = "gateway") -> Iterator[Proxy]:
    """Runs our gateway with these settings in addition to its defaults."""
    port, log = free_port(), builds.logs / f"{name}.log"
    env = {
        **os.environ,
        "HTTP_ADDR": f"127.0.0.1:{port}",
        "ADMIN_ADDR": "127.0.0.1:0",
        "DRAIN_DELAY": "0s",
        # Everything is on. No load reaches the rate limit.
        "RATE_LIMIT": "10000000/s",
        **settings,
    }
    with Process([str(builds.binaries / "gateway"), "serve"], env, log) as process:
        await_response(process, port, probe)
        yield Proxy(name, process, port, log)


def routed_by_flags(a: int, b: int) -> dict[str, str]:
    """The gateway's settings outside a cluster, for endpoints on these ports."""
    return {"ROUTES": f"inventory:/inventory=http://127.0.0.1:{a},http://127.0.0.1:{b}"}


def check(proxy: Proxy) -> None:
    """Exits if a proxy does not do what is measured."""
    expect = _expectation(proxy)
    body = {"Content-Length": str(TOO_LARGE)}
    expect("the response of an endpoint", json.loads(_send(proxy.port, PROBE).body)["stock"] == 42)
    expect("404 for an unknown path", _send(proxy.port, "/nobody").status == 404)
    expect("413 for a body that is too large", _send(proxy.port, PROBE, "POST", body).status == 413)

    forged = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
    response = _send(proxy.port, "/inventory/seen", headers=forged)
    seen = json.loads(response.body)
    expect("the client's address", seen["forwarded_for"] == "127.0.0.1")
    expect("the client's scheme", seen["forwarded_proto"] == "http")
    expect("a request id", seen["request_id"] and response.headers.get("X-Request-ID") == seen["request_id"])

    expect("compression", _send(proxy.port, "/inventory/long", headers={"Accept-Encoding": "gzip"})
           .headers.get("Content-Encoding") == "gzip")  # fmt: skip
    endpoints = {json.loads(_send(proxy.port, PROBE).body)["endpoint"] for _ in range(100)}
    expect("both endpoints", endpoints == {"a", "b"})


@dataclass
class Response:
    """A response, read to its end."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


def _send(port: int, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> Response:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=headers or {})
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())
    finally:
        connection.close()


def _expectation(proxy: Proxy) -> Callable[[str, object], None]:
    def expect(what: str, holds: object) -> None:
        if not holds:
            raise SystemExit(f"bench: {proxy.name} does not do what is measured: {what}")

    return expect


@contextmanager
def _nginx(builds: Builds, template: Path, name: str, values: dict) -> Iterator[tuple[Process, Path]]:
    with tempfile.TemporaryDirectory(dir=builds.logs) as folder:
        home = Path(folder)
        command = [tools.find("nginx"), "-e", "stderr", "-p", folder, "-c", str(_filled(template, home, values))]
        with Process(command, dict(os.environ), builds.logs / f"{name}.log") as process:
            yield process, home


def _filled(template: Path, home: Path, values: dict) -> Path:
    """Writes a configuration to `home`, with the values in place of each `@NAME@` of the template."""
    named = {name.upper(): str(value) for name, value in values.items()} | {"HOME": str(home)}
    filled = home / template.name
    filled.write_text(re.sub(r"@([A-Z]+)@", lambda found: named[found[1]], template.read_text()))
    return filled


def _lines(path: Path) -> int:
    with path.open("rb") as log:
        return sum(part.count(b"\n") for part in iter(lambda: log.read(1 << 20), b""))
