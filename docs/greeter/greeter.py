"""A service that is not written in Rust: it greets, and counts how often. `greeter.py [serve|migrate]`"""
import json, os, signal, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg2

SCHEMA = 1
UNREACHABLE = 75
draining = threading.Event()


def connect():
    return psycopg2.connect(os.environ["DATABASE_URL"], connect_timeout=2)


def migrate():
    """Exit 0, or 1 for an SQL error, or 75 when the database cannot be reached. The last words reach the object's status."""
    try:
        with connect() as database, database.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS greeting (name text PRIMARY KEY, count bigint NOT NULL)")
        status, words = 0, json.dumps({"schemaVersion": SCHEMA})
    except psycopg2.OperationalError as error:
        status, words = UNREACHABLE, str(error)
    except psycopg2.Error as error:
        status, words = 1, f"greeter.py: {error}"
    print(words, flush=True)
    with open("/dev/termination-log", "w") as log:
        log.write(words)
    return status


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def answer(self, status, text):
        self.send_response(status)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(text)))
        has_body = self.headers.get("content-length", "0") != "0" or "transfer-encoding" in self.headers
        if draining.is_set() or has_body:  # Clients move to another pod; a body that nobody reads is no next request.
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format, *args):
        pass


class Api(Handler):
    def do_GET(self):
        name = self.path.removeprefix("/greetings").strip("/") or "world"  # Routed paths come as they are.
        try:
            with connect() as database, database.cursor() as cursor:
                cursor.execute(
                    "INSERT INTO greeting VALUES (%s, 1) ON CONFLICT (name) DO UPDATE SET count = greeting.count + 1 RETURNING count",
                    (name,),
                )
                self.answer(200, f"Hello, {name}! ({cursor.fetchone()[0]})\n")
        except psycopg2.Error:
            self.answer(503, "the database does not answer\n")


class Admin(Handler):
    def do_GET(self):
        if self.path == "/livez":  # Never touches the database: a restart would not mend it.
            self.answer(200, "ok\n")
        elif self.path == "/readyz":
            try:
                connect().close()
                self.answer(503 if draining.is_set() else 200, "\n")
            except psycopg2.Error as error:
                self.answer(503, str(error))
        elif self.path == "/metrics":
            self.answer(200, f"process_cpu_seconds_total {time.process_time()}\n")
        else:
            self.answer(404, "the admin port has /livez, /readyz and /metrics\n")


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
