#!/usr/bin/env python3
"""Keeps a service's contract: `migrate`, `serve`, `/readyz`. Its file name is the service's, and all it answers.

Beside it, NAME.json holds the environment it was last given, NAME.log what happened to it; a file
NAME.broken makes `serve` fail, NAME.stubborn makes it stay on SIGTERM.
"""
import http.server, json, os, pathlib, signal, subprocess, sys, threading

here = pathlib.Path(sys.argv[0])
command = sys.argv[1]


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
    sys.exit("broken as asked")
signal.signal(signal.SIGTERM, terminated)
threading.Thread(target=listen("HTTP_ADDR", Requests).serve_forever, daemon=True).start()
server = listen("ADMIN_ADDR", Probes)
note("serving")
server.serve_forever()
