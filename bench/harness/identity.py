"""The figures of identity: tokens at the gateway and between services, logins, and keys that rotate."""

import http.client
import json
import os
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlencode

from harness import gateway, load, proxies
from harness.databases import psql
from harness.figures import PROBE, Result, Settings, compare, say
from harness.load import CONNECTIONS, Outcome
from harness.processes import Process, await_response, free_port
from harness.sides import Builds

ISSUER = "https://bench.example"
USERS = 1000
# The one of log-in in requests.lua, and one that is wrong.
PASSWORD, WRONG = "a tall heron waits", "a small heron waits"
# The cores that logins have: `bench/run` binds itself and all that it starts to them.
CORES = 2
LOGINS = 32  # at once, fewer than may wait
FLOOD = 500
MEMORY_LIMIT = 256 * 2**20
# A new key every 35 s, because verifiers look for unknown keys at most once in 30 s.
ROTATION = {
    "AUTH_KEY_ROTATION": "40s", "AUTH_KEY_LEAD": "5s", "AUTH_KEY_POLL": "1s", "AUTH_TOKEN_LIFETIME": "60s",
}  # fmt: skip
ROTATING_SECONDS = 120
RATE = 2000  # while keys rotate
TRIES = 200  # of each kind of email
# A new token and one that was seen before, by the issuer's name.
VERIFIED = re.compile(
    r'^auth_tokens_verified_total\{issuer="(\w+)",outcome="(?:accepted|remembered)"\} (\d+)', re.MULTILINE
)


class Issuer:
    """A replica of `users` that issues tokens."""

    def __init__(self, process: Process, port: int):
        self.process, self.port = process, port
        self.client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def send(self, method: str, path: str, body: dict, number: int = 0, form: bool = False) -> tuple[int, dict]:
        """Sends a request from the address of a user, as a gateway would."""
        kind = "application/x-www-form-urlencoded" if form else "application/json"
        headers = {"Content-Type": kind, "X-Forwarded-For": f"10.0.{number // 256}.{number % 256}"}
        self.client.request(method, path, urlencode(body) if form else json.dumps(body), headers)
        response = self.client.getresponse()
        content = response.read()
        return response.status, json.loads(content) if content else {}

    def expect(self, status: int, *request, **options) -> dict:
        """Sends a request. Exits if the status of the response is another one."""
        seen, fields = self.send(*request, **options)
        if seen != status:
            self.process.fail(f"{request[:2]}: {seen} {fields}")
        return fields

    def log_in(self, number: int) -> dict:
        """Logs a user in. Returns the tokens."""
        return self.expect(200, "POST", "/auth/login", {"email": email(number), "password": PASSWORD}, number)


def email(number: int) -> str:
    """The email address of a user."""
    return f"user-{number}@example.com"


def accepted(port: int) -> dict[str, str]:
    """The settings of a process that accepts the tokens of the issuer."""
    keys = f"http://127.0.0.1:{port}/.well-known/jwks.json"
    return {"AUTH_ISSUERS": json.dumps([{"issuer": ISSUER, "jwks_url": keys}])}


@contextmanager
def issuers(
    builds: Builds, count: int = 1, settings: dict[str, str] | None = None, wrapper: list[str] | None = None
) -> Iterator[list[Issuer]]:
    """Runs replicas of `users` that issue tokens, with users who all have the same password."""
    database = builds.database("users")
    kek = builds.logs / "kek"
    kek.write_bytes(os.urandom(32))
    ports = [free_port() for _ in range(count)]
    env = {
        # A request without a token may do everything, so users can be made.
        "AUTH": "open", "AUTH_ISSUER_URL": ISSUER, "AUTH_KEK_FILE": str(kek), "AUTH_TOKEN_LIFETIME": "1h",
        **accepted(ports[0]), **(settings or {}),
    }  # fmt: skip
    with ExitStack() as stack:
        replicas = []
        for port in ports:
            process, _ = builds.service("users", database, port=port, settings=env, wrapper=wrapper)
            stack.enter_context(process)
            await_response(process, port, "/.well-known/jwks.json")
            replicas.append(Issuer(process, port))
        user = replicas[0].expect(201, "POST", "/users", {"name": "Ada", "email": "ada@example.com"})
        replicas[0].expect(204, "PUT", f"/users/{user['id']}/password", {"new": PASSWORD})
        psql(database.name, "-c", f"""
            INSERT INTO users (id, name, email)
                SELECT gen_random_uuid(), 'Ada', 'user-' || n || '@example.com' FROM generate_series(1, {USERS}) AS n;
            INSERT INTO credential (user_id, phc)
                SELECT id, (SELECT phc FROM credential) FROM users WHERE email LIKE 'user-%';
            ANALYZE;""")  # fmt: skip
        yield replicas


def write_tokens(path: Path, tokens: list[str]) -> None:
    """Writes a file of tokens, one in each line, at once."""
    new = path.with_suffix(".new")
    new.write_text("".join(f"{token}\n" for token in tokens))
    new.rename(path)


def through_gateway(builds: Builds, settings: Settings) -> list[Result]:
    """Requests per second with verified tokens over those through the same gateway without issuers and tokens."""
    tokens = builds.logs / "tokens"
    with issuers(builds) as [users], proxies.upstream(builds) as behind:
        write_tokens(tokens, [users.log_in(number)["access_token"] for number in range(1, CONNECTIONS + 1)])
        routes = proxies.routed_by_flags(behind.a, behind.b)
        revoked = {"AUTH_REVOKED_URL": f"http://127.0.0.1:{users.port}/auth/revoked"}
        verifying = routes | accepted(users.port) | revoked
        with (
            proxies.gateway(builds, verifying, "/openapi.json", "gateway-verifying") as ours,
            proxies.gateway(builds, routes) as theirs,
        ):
            if get(ours.port, proxies.PROBE)[0] != 401:
                raise SystemExit("bench: the gateway does not ask for tokens")
            return [
                compare(
                    f"gateway with {CONNECTIONS} tokens over without", 0.93, 0.97, settings,
                    lambda _: gateway.Load("with-tokens", str(tokens)).through(ours, settings),
                    lambda _: gateway.Load("proxied", "gzip").through(theirs, settings),
                )
            ]  # fmt: skip


def get(port: int, path: str) -> tuple[int, str]:
    """The status and the body of the response to a GET."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        client.request("GET", path)
        response = client.getresponse()
        return response.status, response.read().decode()
    finally:
        client.close()


def verify(builds: Builds, settings: Settings) -> list[Result]:
    """The time to verify a token, in a process that does nothing else."""
    seen: dict[str, list[float]] = {"a token seen before": [], "a new token": []}
    for _ in range(settings.rounds):
        command = [str(builds.binaries / "examples/verify")]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        for name, amount in (line.removesuffix(" µs").split(":") for line in lines):
            if name in seen:
                seen[name].append(float(amount))
    results = []
    for (name, times), marks in zip(seen.items(), ((3, 1), (30, 15))):
        results.append(Result(f"verifying {name}", "µs", statistics.median(times), min(times), max(times), *marks))
    return results


def logins(builds: Builds, settings: Settings) -> list[Result]:
    """Logins per second over the hashes per second of a process that does nothing else."""
    with issuers(builds) as [users]:

        def log_in(_number: int) -> Outcome:
            load.wrk(users.port, "log-in", settings.warmup, str(USERS), LOGINS)
            return load.wrk(users.port, "log-in", settings.seconds, str(USERS), LOGINS)

        def hash_only(_number: int) -> Outcome:
            command = [str(builds.binaries / "bench-identity"), "argon2id", str(CORES), str(settings.seconds)]
            ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            seen = json.loads(ran.stdout)
            return Outcome(seen["hashes"], seen["hashes"] / seen["seconds"])

        return [compare("logins over argon2id alone", 0.8, 0.95, settings, log_in, hash_only)]


def flood(builds: Builds, settings: Settings) -> list[Result]:
    """The p99 of other requests during a flood of logins over that without, and the memory that the flood takes."""
    with (
        limited_memory() as wrapper, issuers(builds, wrapper=wrapper) as [users], ThreadPoolExecutor(1) as background,
    ):  # fmt: skip
        sides: list[list[Outcome]] = [[], []]
        requests = lambda: load.wrk(users.port, "paced-users", settings.seconds, "r", 16)  # noqa: E731
        for number in range(settings.rounds):
            sides[1].append(requests())
            logging_in = background.submit(
                load.wrk, users.port, "flood", settings.warmup + settings.seconds + 1, str(USERS), FLOOD, may_fail=True
            )
            time.sleep(settings.warmup)
            sides[0].append(requests())
            done = logging_in.result()
            users.process.check()
            say(f"  round {number + 1}: p99 {sides[0][-1].p99_ms} ms beside {done.requests - done.failed} logins, "
                f"{sides[1][-1].p99_ms} ms without")  # fmt: skip
        peak = peak_mb(users.process.pid)
    times = [a.p99_ms / b.p99_ms for a, b in zip(*sides)]
    value = statistics.median(o.p99_ms for o in sides[0]) / statistics.median(o.p99_ms for o in sides[1])
    title = f"peak memory of `users`, {FLOOD} parallel logins" + (", limit 256 MiB" if wrapper else "")
    return [
        Result(f"p99 of requests during {FLOOD} parallel logins over without", "times", value, min(times), max(times),
               2, 1.2, *sides),
        Result(title, "MB", peak, peak, peak, MEMORY_LIMIT / 1e6, 200),
    ]  # fmt: skip


@contextmanager
def limited_memory() -> Iterator[list[str]]:
    """The start of a command that runs in a control group with the limit, or nothing where that is not possible."""
    root = Path("/sys/fs/cgroup")
    root, limit = (root, "memory.max") if (root / "cgroup.controllers").exists() else (
        root / "memory", "memory.limit_in_bytes")  # fmt: skip
    group = root / f"hedgerow-bench-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(MEMORY_LIMIT))
    except OSError as error:
        say(f"  without a memory limit: {error}")
        if group.exists():
            group.rmdir()
        yield []
        return
    try:
        yield ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group)]
    finally:
        group.rmdir()


def peak_mb(pid: int) -> float:
    """The peak of the resident memory of a process, in MB (10^6 bytes)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6


def rotation(builds: Builds, settings: Settings) -> list[Result]:
    """The requests that fail while keys rotate, with two replicas that make and use them."""
    tokens = builds.logs / "tokens"
    with issuers(builds, 2, ROTATION) as replicas, ThreadPoolExecutor(1) as background:
        held = [replicas[number % 2].log_in(number) for number in range(1, CONNECTIONS + 1)]
        write_tokens(tokens, [each["access_token"] for each in held])
        homes = ",".join(f"http://127.0.0.1:{each.port}" for each in replicas)
        routed = {"ROUTES": f"users:/auth={homes}", **accepted(replicas[0].port)}
        with proxies.gateway(builds, routed, "/openapi.json") as ours:
            keys = set()
            seconds = max(ROTATING_SECONDS, settings.seconds)
            requests = background.submit(load.wrk, ours.port, "paced-with-tokens", seconds, str(tokens), may_fail=True)
            number = 0
            while not requests.done():
                # Each token is replaced about every 16 s.
                at = number % CONNECTIONS
                form = {"grant_type": "refresh_token", "refresh_token": held[at]["refresh_token"]}
                held[at] = replicas[number % 2].expect(200, "POST", "/oauth2/token", form, form=True)
                write_tokens(tokens, [each["access_token"] for each in held])
                keys.add(held[at]["access_token"].partition(".")[0])
                number += 1
                time.sleep(0.25)
            outcome = requests.result()
    say(f"  {outcome.per_second:,.0f}/s, {len(keys)} keys, {outcome.failed} of {outcome.requests:,} requests failed")
    if len(keys) < 3:
        raise SystemExit(f"bench: only {len(keys)} keys signed")
    if outcome.per_second < RATE:
        raise SystemExit(f"bench: only {outcome.per_second:,.0f} requests per second")
    title = f"requests that failed while {len(keys)} keys signed in turn, {outcome.per_second:,.0f} requests/s"
    return [Result(title, "failed", outcome.failed, outcome.failed, outcome.failed, 0, 0, [outcome])]


def login_time(builds: Builds, _settings: Settings) -> list[Result]:
    """How much the median times of failed logins differ: a known email and an unknown one."""
    taken: dict[str, list[float]] = {"user": [], "nobody": []}
    with issuers(builds) as [users]:
        for number in range(-10, TRIES):  # the first 20 are discarded
            for name in sorted(taken, reverse=number % 2 == 0):
                login = {"email": f"{name}-{number + 11}@example.com", "password": WRONG}
                began = time.perf_counter()
                users.expect(401, "POST", "/auth/login", login, number=number + (1000 if name == "user" else 3000))
                if number >= 0:
                    taken[name].append((time.perf_counter() - began) * 1e3)
    known, unknown = (statistics.median(times) for times in taken.values())
    say(f"  {known:.2f} ms for a known email, {unknown:.2f} ms for an unknown one")
    value = abs(known / unknown - 1) * 100
    return [Result(f"login time, known against unknown email, {TRIES} each", "%", value, value, value, 5, 2)]


def between_services(builds: Builds, settings: Settings) -> list[Result]:
    """gRPC calls to `inventory` per second, each with the token of the service and of a user, over those without."""
    folder = builds.logs / "identities"
    folder.mkdir(exist_ok=True)
    subprocess.run([str(builds.binaries / "bench-identity"), "tokens", str(folder)], check=True)
    keys = f"file://{folder / 'keys.json'}"
    issuers_of_both = json.dumps([
        {"issuer": "services", "jwks_url": keys, "kind": "service"},
        {"issuer": "users", "jwks_url": keys, "audience": "hedgerow"},
    ])  # fmt: skip
    database = builds.database("inventory")
    with ExitStack() as stack:

        def start(callee: dict[str, str], caller: dict[str, str]) -> tuple[int, int]:
            """Starts `inventory` and its caller. Returns the caller's port, and that of the callee's metrics."""
            grpc, admin = free_port(), free_port()
            addresses = {"GRPC_ADDR": f"127.0.0.1:{grpc}", "ADMIN_ADDR": f"127.0.0.1:{admin}"}
            process, port = builds.service("inventory", database, settings=callee | addresses)
            stack.enter_context(process)
            await_response(process, port, PROBE["inventory"])
            url = {"INVENTORY_GRPC_URL": f"http://127.0.0.1:{grpc}"}
            process, port = builds.service("bench-identity", database, settings=caller | url)
            stack.enter_context(process)
            await_response(process, port, "/calls")
            return port, admin

        accepting = {"AUTH_ISSUERS": issuers_of_both}
        ours, metrics = start(
            accepting | {"AUTH_AUDIENCE": "inventory", "AUTH_ALLOW_FROM": "bench-identity"},
            accepting | {"AUTH_TOKEN_DIR": str(folder)},
        )
        theirs, _ = start({}, {})

        def rate(port: int, kind: str) -> Callable[[int], Outcome]:
            def measure(_number: int) -> Outcome:
                load.wrk(port, kind, settings.warmup, str(folder / "user"))
                return load.wrk(port, kind, settings.seconds, str(folder / "user"))

            return measure

        title = "gRPC calls to `inventory` with tokens of the service and a user over without"
        result = compare(title, 0.95, 1, settings, rate(ours, "call-with-tokens"), rate(theirs, "call"))
        verified: dict[str, int] = {}
        for issuer, count in VERIFIED.findall(get(metrics, "/metrics")[1]):
            verified[issuer] = verified.get(issuer, 0) + int(count)
        if min(verified.get(issuer, 0) for issuer in ("services", "users")) < sum(o.requests for o in result.ours):
            raise SystemExit(f"bench: inventory did not verify the tokens of the calls: {verified}")
    return [result]


FIGURES = {
    "gateway": through_gateway,
    "verify": verify,
    "logins": logins,
    "flood": flood,
    "rotation": rotation,
    "login-time": login_time,
    "grpc": between_services,
}
