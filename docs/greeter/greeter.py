"""A service in Python: it greets people, and counts in Postgres how often. Usage: `greeter.py [migrate]`."""
import json, os, queue, signal, sys, threading, time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

try:
    import psycopg2
except ImportError:
    sys.exit("greeter.py needs psycopg2: install python3-psycopg2 (Debian) or psycopg2-binary (pip)")

SCHEMA_VERSION = 1
UNREACHABLE = 75
OPENAPI = {
    "openapi": "3.1.0",
    "info": {"title": "greeter", "version": "0.1.0"},
    "tags": [{"name": "greeter"}],
    "paths": {
        "/greetings/{name}": {
            "get": {
                "operationId": "greet",
                "summary": "Greet someone",
                "tags": ["greeter"],
                "parameters": [{"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}],
                "responses": {
                    "200": {
                        "description": "The greeting, with a count.",
                        "content": {"text/plain": {"schema": {"type": "string"}}},
                    },
                },
            }
        }
    },
}
draining = threading.Event()
database_is_reachable = threading.Event()
requests_in_flight = 0
request_ended = threading.Condition()  # Guards the number of requests in flight.

# The connections that no request uses. `None` stands for one that must be opened first.
idle = queue.LifoQueue()
for _ in range(int(os.environ.get("DATABASE_POOL_SIZE", "8"))):
    idle.put(None)


def log(level, message):
    print(json.dumps({"level": level, "message": message}), flush=True)


def connect():
    # A server that does not respond is an error after some seconds.
    return psycopg2.connect(os.environ["DATABASE_URL"], connect_timeout=2, tcp_user_timeout=4000)


@contextmanager
def transaction():
    """Waits for a connection of the pool, and commits at the end."""
    connection = idle.get(timeout=2)
    try:
        if connection is None or connection.closed:
            connection = connect()
        with connection, connection.cursor() as cursor:
            yield cursor
    finally:
        idle.put(connection)


def check_database():
    """Checks the database once a second, on a connection of its own: load on the pool must not fail /readyz."""
    connection = None
    while True:
        try:
            connection = connection or connect()
            with connection, connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            database_is_reachable.set()
        except psycopg2.Error as error:
            if database_is_reachable.is_set():
                log("warn", f"the database is unavailable: {error}")
            database_is_reachable.clear()
            connection = None
        time.sleep(1)


def migrate():
    """Exits with 0, with 1 after an SQL error, or with 75 if the database is unreachable.

    The last line of its output becomes part of the object's status, through the termination log.
    """
    try:
        with connect() as database, database.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS greeting (name text PRIMARY KEY, count bigint NOT NULL)")
        status, message = 0, json.dumps({"schemaVersion": SCHEMA_VERSION})
    except psycopg2.OperationalError as error:
        status, message = UNREACHABLE, str(error)
    except psycopg2.Error as error:
        status, message = 1, f"greeter.py: {error}"
    log("error" if status else "info", message)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        with open("/dev/termination-log", "w") as file:
            file.write(message)
    return status


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def reply(self, status, text, content_type="text/plain", headers=()):
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        has_body = self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers
        # While draining, clients must reconnect to another pod. An unread body would be taken for the next request.
        if draining.is_set() or has_body:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, *args):
        pass

    def log_message(self, format, *args):
        log("info", format % args)


class Api(Handler):
    def do_GET(self):
        global requests_in_flight
        with request_ended:
            requests_in_flight += 1
        try:
            self.respond()
        finally:
            with request_ended:
                requests_in_flight -= 1
                request_ended.notify_all()

    def respond(self):
        if self.path == "/openapi.json":
            return self.reply(200, json.dumps(OPENAPI), "application/json")
        # The gateway does not change the path of a request.
        name = unquote(self.path.partition("?")[0].removeprefix("/greetings")).strip("/") or "world"
        is_committing = False
        try:
            with transaction() as cursor:
                cursor.execute(
                    "INSERT INTO greeting VALUES (%s, 1) ON CONFLICT (name) DO UPDATE SET count = greeting.count + 1 RETURNING count",
                    (name,),
                )
                count = cursor.fetchone()[0]
                is_committing = True
            self.reply(200, f"Hello, {name}! ({count})\n")
        except (psycopg2.Error, queue.Empty) as error:
            log("error", f"no connection or no result: {error!r}")
            # Before COMMIT is sent, nothing is changed. After that, the greeting may have been counted.
            headers = [("x-outcome", "unknown")] if is_committing else []
            self.reply(503, "the database is unavailable\n", headers=headers)
        except ValueError:
            self.reply(400, "a name must not contain a NUL character\n")


class Admin(Handler):
    def do_GET(self):
        if self.path == "/livez":  # Independent of the database: a restart would not fix it.
            self.reply(200, "ok\n")
        elif self.path == "/readyz":
            if draining.is_set():
                self.reply(503, "draining\n")
            elif not database_is_reachable.is_set():
                self.reply(503, "the database is unavailable\n")
            else:
                self.reply(200, "ok\n")
        elif self.path == "/metrics":
            self.reply(200, f"process_cpu_seconds_total {time.process_time()}\n")
        else:
            self.reply(404, "this port serves /livez, /readyz and /metrics\n")


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        log("warn", f"a connection failed: {sys.exc_info()[1]!r}")


def listen(variable, default, handler):
    host, port = os.environ.get(variable, default).rsplit(":", 1)
    server = Server((host, int(port)), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def seconds(variable, default):
    return float(os.environ.get(variable, default).removesuffix("s"))


def serve():
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    threading.Thread(target=check_database, daemon=True).start()
    api = listen("HTTP_ADDR", "0.0.0.0:8080", Api)
    listen("ADMIN_ADDR", "0.0.0.0:9090", Admin)
    log("info", "greeter is up")
    stop.wait()
    draining.set()
    time.sleep(seconds("DRAIN_DELAY", "5s"))
    api.shutdown()
    api.server_close()
    with request_ended:
        request_ended.wait_for(lambda: requests_in_flight == 0, timeout=seconds("SHUTDOWN_TIMEOUT", "25s"))
    return 0


sys.exit(migrate() if sys.argv[1:] == ["migrate"] else serve())
