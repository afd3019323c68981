"""A service in Python: it greets people, and counts in Postgres how often. Usage: `greeter.py [migrate]`."""
import json, os, signal, sys, threading, time
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


def connect():
    return psycopg2.connect(os.environ["DATABASE_URL"], connect_timeout=2)


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
    print(message, flush=True)
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        with open("/dev/termination-log", "w") as log:
            log.write(message)
    return status


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def reply(self, status, text, content_type="text/plain"):
        body = text.encode()
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        has_body = self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers
        # While draining, clients must reconnect to another pod. An unread body would be taken for the next request.
        if draining.is_set() or has_body:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Api(Handler):
    def do_GET(self):
        if self.path == "/openapi.json":
            return self.reply(200, json.dumps(OPENAPI), "application/json")
        # The gateway does not change the path of a request.
        name = unquote(self.path.partition("?")[0].removeprefix("/greetings")).strip("/") or "world"
        try:
            with connect() as database, database.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO greeting VALUES (%s, 1) ON CONFLICT (name) DO UPDATE SET count = greeting.count + 1 RETURNING count",
                    (name,),
                )
                self.reply(200, f"Hello, {name}! ({cursor.fetchone()[0]})\n")
        except psycopg2.Error:
            self.reply(503, "the database is unavailable\n")
        except ValueError:
            self.reply(400, "a name must not contain a NUL character\n")


class Admin(Handler):
    def do_GET(self):
        if self.path == "/livez":  # Independent of the database: a restart would not fix it.
            self.reply(200, "ok\n")
        elif self.path == "/readyz":
            try:
                connect().close()
                self.reply(503 if draining.is_set() else 200, "\n")
            except psycopg2.Error as error:
                self.reply(503, str(error))
        elif self.path == "/metrics":
            self.reply(200, f"process_cpu_seconds_total {time.process_time()}\n")
        else:
            self.reply(404, "this port serves /livez, /readyz and /metrics\n")


def listen(variable, default, handler):
    host, port = os.environ.get(variable, default).rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def serve():
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    listen("HTTP_ADDR", "0.0.0.0:8080", Api)
    listen("ADMIN_ADDR", "0.0.0.0:9090", Admin)
    stop.wait()
    draining.set()
    time.sleep(float(os.environ.get("DRAIN_DELAY", "5s").rstrip("s")))
    return 0


sys.exit(migrate() if sys.argv[1:] == ["migrate"] else serve())
