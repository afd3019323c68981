#!/usr/bin/env python3
"""Follows the contract of a service: `migrate`, `/readyz`. It responds to requests with its file name.

Next to it, NAME.json contains the environment it was last started with, NAME.log its events. A file NAME.broken makes it
fail, NAME.stubborn makes it ignore SIGTERM. On a terminal it prints a line.
"""
import http.server, json, os, pathlib, signal, subprocess, sys, threading

here = pathlib.Path(sys.argv[0])
command = sys.argv[1] if len(sys.argv) > 1 else "serve"


def note(what):
    with open(here.with_suffix(".log"), "a") as log:
        log.write(f"{what} {os.getpid()}\n")


def terminated(*_):
    note("terminated")
    if not here.with_suffix(".stubborn").exists():
        os._exit(0)


class Probes(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


class Requests(Probes):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        name = here.name.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(name)))
        self.end_headers()
        self.wfile.write(name)


def listen(variable, handler):
    host, port = os.environ[variable].rsplit(":", 1)
    return http.server.ThreadingHTTPServer((host, int(port)), handler)


here.with_suffix(".json").write_text(json.dumps(dict(os.environ)))
if command == "migrate":
    note("migrating")
    sql = "CREATE TABLE IF NOT EXISTS starts (at timestamptz DEFAULT now()); INSERT INTO starts DEFAULT VALUES"
    sys.exit(subprocess.run(["psql", os.environ["DATABASE_URL"], "-qXc", sql]).returncode)

if here.with_suffix(".broken").exists():
    sys.exit("broken by its file")
signal.signal(signal.SIGTERM, terminated)
threading.Thread(target=listen("HTTP_ADDR", Requests).serve_forever, daemon=True).start()
server = listen("ADMIN_ADDR", Probes)
note("serving")
if sys.stdout.isatty():
    print("serving\nwithout an end", end="", flush=True)
server.serve_forever()
