"""The figures of the gateway: against nginx and HAProxy, added latency, and many services."""

import http.client
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

from harness import kubernetes, load, proxies
from harness.figures import Result, Settings, compare, say
from harness.kubernetes import ApiServer
from harness.load import CONNECTIONS, Outcome
from harness.processes import memory_mb
from harness.proxies import Proxy, Upstream
from harness.sides import Builds

SERVICES = 1000
CHANGES = 20
CHANGE_DEADLINE = 10  # seconds
SAMPLE_INTERVAL = 0.1  # seconds


@dataclass
class Load:
    """The load of requests.lua, to a proxy or directly to its upstream."""

    kind: str
    tag: str = "r"
    connections: int = CONNECTIONS

    def through(self, proxy: Proxy, settings: Settings) -> Outcome:
        """Runs one round: warm-up, measured load, and a check of the access log."""
        proxy.empty_log()
        warm = self.run(proxy.port, settings.warmup)
        used = proxy.cpu()
        outcome = self.run(proxy.port, settings.seconds)
        outcome.cpu_us = (proxy.cpu() - used) / outcome.requests * 1e6
        proxy.check_log(warm.requests + outcome.requests)
        return outcome

    def straight(self, port: int, settings: Settings) -> Outcome:
        """Runs one round without a proxy."""
        self.run(port, settings.warmup)
        return self.run(port, settings.seconds)

    def run(self, port: int, seconds: float) -> Outcome:
        """Runs the load for some seconds."""
        return load.wrk(port, self.kind, seconds, self.tag, self.connections)


def against(name: str, peer: Callable, requests: Load, floor: float, aim: float, tail: tuple[float, float] | None):
    """Requests per second over a peer's, and p99 of the same rounds over the peer's (`tail`: floor and aim)."""

    def measure(builds: Builds, settings: Settings) -> list[Result]:
        with (
            proxies.upstream(builds) as behind,
            proxies.gateway(builds, proxies.routed_by_flags(behind.a, behind.b)) as ours,
            peer(builds, behind.a, behind.b) as theirs,
        ):
            for proxy in (ours, theirs):
                proxies.check(proxy)
            rate = compare(
                f"gateway against {name}", floor, aim, settings, lambda _: requests.through(ours, settings),
                lambda _: requests.through(theirs, settings),
            )  # fmt: skip
            rate.others["the upstream alone"] = [requests.straight(behind.a, settings)]
        if tail is None:
            return [rate]
        ratios = [a.p99_ms / b.p99_ms for a, b in zip(rate.ours, rate.theirs)]
        value = median(rate.ours, "p99_ms") / median(rate.theirs, "p99_ms")
        return [rate, Result(f"gateway p99 against {name}'s", "times", value, min(ratios), max(ratios), *tail)]

    return measure


def against_nginx_before_inventory(title: str, floor: float, aim: float):
    """Requests per second over nginx's, with `inventory` and its database behind both."""

    def measure(builds: Builds, settings: Settings) -> list[Result]:
        requests = Load("get-stock")
        with builds.ours("inventory") as behind:
            ports = (behind.port, behind.port)
            with (
                proxies.gateway(builds, proxies.routed_by_flags(*ports)) as ours,
                proxies.nginx(builds, *ports) as theirs,
            ):
                rate = compare(
                    title, floor, aim, settings, lambda _: requests.through(ours, settings),
                    lambda _: requests.through(theirs, settings),
                )  # fmt: skip
                rate.others["inventory alone"] = [requests.straight(behind.port, settings)]
        return [rate]

    return measure


def latency(title: str, floor: float, aim: float):
    """p50 of one client through the gateway, minus that without it; the peers are measured in the same rounds."""

    def measure(builds: Builds, settings: Settings) -> list[Result]:
        request = Load("proxied", "identity", connections=1)
        with (
            proxies.upstream(builds) as behind,
            proxies.gateway(builds, proxies.routed_by_flags(behind.a, behind.b)) as ours,
            proxies.nginx(builds, behind.a, behind.b) as nginx,
            proxies.haproxy(builds, behind.a, behind.b) as haproxy,
        ):
            seen: dict[str, list[Outcome]] = {}
            for number in range(settings.rounds):
                for proxy in (ours, nginx, haproxy):
                    seen.setdefault(proxy.name, []).append(request.through(proxy, settings))
                seen.setdefault("the upstream alone", []).append(request.straight(behind.a, settings))
                last = ", ".join(f"{name} {outcomes[-1].p50_ms * 1e3:.0f} µs" for name, outcomes in seen.items())
                say(f"  round {number + 1}: {last}")
        ours, alone = seen.pop(ours.name), seen["the upstream alone"]
        added = [(a.p50_ms - b.p50_ms) * 1e3 for a, b in zip(ours, alone)]
        value = (median(ours, "p50_ms") - median(alone, "p50_ms")) * 1e3
        return [Result(title, "µs", value, min(added), max(added), floor, aim, ours, others=seen)]

    return measure


def memory(title: str, floor: float, aim: float):
    """The gateway's maximum memory while requests go to all of many services."""

    def measure(builds: Builds, settings: Settings) -> list[Result]:
        with many_services(builds) as (_cluster, _behind, ours):
            seen = []
            with loaded(ours, settings.warmup + settings.seconds) as load_of_all:
                while not load_of_all.done():
                    seen.append(memory_mb(ours.process.pid)[0])
                    time.sleep(SAMPLE_INTERVAL)
                ours.check_log(load_of_all.result().requests)
        return [Result(title, "MB", max(seen), min(seen), max(seen), floor, aim)]

    return measure


def changes(floor: float, aim: float, even: tuple[float, float]):
    """The time until requests follow a change, and the throughput in the second of a change over the mean of those
    before and after it (`even`: floor and aim)."""

    def measure(builds: Builds, _settings: Settings) -> list[Result]:
        with many_services(builds) as (cluster, behind, ours), loaded(ours, 2 * CHANGES + 3) as load_of_all:
            moving = Moving(cluster, behind, ours)
            followed: dict[str, list[float]] = {}
            marks = []
            begin = time.perf_counter() + 1
            for number in range(2 * CHANGES + 2):
                wait_until(begin + number)
                marks.append((time.perf_counter(), behind.requests()))
                ours.empty_log()
                if number % 2 and number < 2 * CHANGES:
                    wait_until(begin + number + 0.5)
                    change = moving.route if number % 4 == 1 else moving.endpoints
                    followed.setdefault(change.__name__, []).append(change() * 1e3)
            load_of_all.result()
        rates = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(marks)]
        shares = [rates[n] / statistics.mean((rates[n - 1], rates[n + 1])) for n in range(1, 2 * CHANGES, 2)]
        say(f"  {statistics.median(rates):,.0f}/s during the changes")
        results = []
        for name, title in (("route", "route"), ("endpoints", "endpoint")):
            taken = followed[name]
            title = f"until a changed {title} takes effect, {SERVICES:,} services"
            results.append(Result(title, "ms", statistics.median(taken), min(taken), max(taken), floor, aim))
        title = "throughput in the second of a change over that around it"
        results.append(Result(title, "x", statistics.median(shares), min(shares), max(shares), *even))
        return results

    return measure


class Moving:
    """A service that changes, and a client that follows it on one connection."""

    def __init__(self, cluster: ApiServer, behind: Upstream, ours: Proxy):
        self.cluster, self.port = cluster, behind.many
        self.client = http.client.HTTPConnection("127.0.0.1", ours.port, timeout=CHANGE_DEADLINE)
        self.number, self.replica = 0, 1
        self.cluster.endpoints("moving", [self.home], self.port)
        self.follow(self.cluster.route("moving", [self.path]))

    @property
    def path(self) -> str:
        return f"/moving-{self.number}"

    @property
    def home(self) -> str:
        return f"127.3.0.{self.replica}"

    def route(self) -> float:
        """Seconds until requests to its new path succeed."""
        before = self.path
        self.number += 1
        taken = self.follow(self.cluster.route("moving", [self.path]))
        if self.send(before)[0] != 404:
            raise SystemExit("bench: a service is still reachable under its old path")
        return taken

    def endpoints(self) -> float:
        """Seconds until its new endpoint responds."""
        self.replica = 3 - self.replica
        return self.follow(self.cluster.endpoints("moving", [self.home], self.port))

    def follow(self, changed: float) -> float:
        """Sends requests until the response comes from the new place."""
        while time.perf_counter() < changed + CHANGE_DEADLINE:
            status, body = self.send(self.path)
            if status == 200 and f'"endpoint":"{self.home}"'.encode() in body:
                return time.perf_counter() - changed
        raise SystemExit("bench: the gateway did not follow a change")

    def send(self, path: str) -> tuple[int, bytes]:
        """Sends one request."""
        self.client.request("GET", f"{path}/100000")
        response = self.client.getresponse()
        return response.status, response.read()


@contextmanager
def many_services(builds: Builds) -> Iterator[tuple[ApiServer, Upstream, Proxy]]:
    """The gateway in a cluster of services with a route and two endpoints each, once it knows all of them."""
    with proxies.upstream(builds) as behind, kubernetes.api_server() as cluster:
        for number in range(1, SERVICES + 1):
            cluster.route(f"service-{number}", [f"/service-{number}"])
            cluster.endpoints(f"service-{number}", [home(number, 1), home(number, 2)], behind.many)
        kubeconfig = cluster.kubeconfig(builds.logs / "kubeconfig")
        settings = {"KUBECONFIG": str(kubeconfig), "NAMESPACE": kubernetes.NAMESPACE}
        with proxies.gateway(builds, settings, f"/service-{SERVICES}/100000") as ours:
            yield cluster, behind, ours


def home(number: int, replica: int) -> str:
    """The address of an endpoint of a service."""
    return f"127.{replica}.{number // 250}.{number % 250 + 1}"


@contextmanager
def loaded(ours: Proxy, seconds: float) -> Iterator[Future]:
    """Sends requests to random services in the background."""
    ours.empty_log()
    with ThreadPoolExecutor(1) as executor:
        yield executor.submit(load.wrk, ours.port, "routes", seconds, str(SERVICES))


def wait_until(moment: float) -> None:
    """Sleeps until a moment, unless it has passed."""
    time.sleep(max(0, moment - time.perf_counter()))


def median(outcomes: list[Outcome], name: str) -> float:
    """The median over the rounds."""
    return statistics.median(getattr(outcome, name) for outcome in outcomes)


# HAProxy up to 2.8 has no minimum length for compression and would compress every response, so the load asks for none.
FIGURES = {
    "gateway-nginx": against("nginx", proxies.nginx, Load("proxied", "gzip"), 0.75, 1, tail=(1.5, 1)),
    "gateway-haproxy": against("HAProxy", proxies.haproxy, Load("proxied", "identity"), 0.7, 0.95, tail=None),
    "gateway-get": against_nginx_before_inventory("`GET /inventory/{id}`, gateway against nginx", 0.75, 1),
    "gateway-latency": latency("latency added by the gateway, p50, one client", 150, 80),
    "gateway-memory": memory(f"memory with {SERVICES:,} services, {CONNECTIONS} connections, RSS", 40, 20),
    "gateway-routes": changes(50, 5, even=(0.95, 0.99)),
}
