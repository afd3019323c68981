#!/usr/bin/env python3
"""Keeps a service's contract: `migrate`, `serve`, `/readyz`. Its file name is the service's.

Beside it, NAME.json holds the environment it was last given, NAME.log what happened to it; a file
NAME.broken makes `serve` fail, NAME.stubborn makes it stay on SIGTERM.
"""
import http.server, json, os, pathlib, signal, subprocess, sys

here = pathlib.Path(sys.argv[0])
command = sys.argv[1]


def note(what):
    with open(here.with_suffix(".log"), "a") as log:
        log.write(f"{what} {os.getpid()}\n")


def terminated(*_):
    note("terminated")
    if not here.with_suffix(".stubborn").exists():
        os._exit(0)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


if command == "migrate":
    here.with_suffix(".json").write_text(json.dumps(dict(os.environ)))
    sql = "CREATE TABLE IF NOT EXISTS starts (at timestamptz DEFAULT now()); INSERT INTO starts DEFAULT VALUES"
    sys.exit(subprocess.run(["psql", os.environ["DATABASE_URL"], "-qXc", sql]).returncode)

if here.with_suffix(".broken").exists():
    sys.exit("broken as asked")
signal.signal(signal.SIGTERM, terminated)
host, port = os.environ["ADMIN_ADDR"].rsplit(":", 1)
server = http.server.HTTPServer((host, int(port)), Handler)
note("serving")
server.serve_forever()
