"""A minimal Kubernetes API server for the gateway's discovery: lists and watches of the objects that are put."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

NAMESPACE = "bench"
CREATED = "2026-01-01T00:00:00Z"


class Resource:
    """The objects of one kind, and their history."""

    def __init__(self, path: str, group: str, kind: str):
        self.path, self.group, self.kind = path, group, kind
        self.objects: dict[str, dict] = {}
        self.events: list[tuple[int, bytes]] = []
        self.watches: list[BinaryIO] = []


class ApiServer(ThreadingHTTPServer):
    """The server. `put` plays the part of the cluster."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.RLock()
        self.version = 1
        self.services = Resource(f"/api/v1/namespaces/{NAMESPACE}/services", "v1", "Service")
        self.slices = Resource(
            f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices", "discovery.k8s.io/v1", "EndpointSlice"
        )

    def put(self, resource: Resource, name: str, metadata: dict, **fields) -> float:
        """Creates or changes an object and announces it. Returns the time just before, by `time.perf_counter`."""
        with self.lock:
            self.version += 1
            metadata = {
                "name": name, "namespace": NAMESPACE, "uid": f"uid-{name}", "creationTimestamp": CREATED,
                "resourceVersion": str(self.version), **metadata,
            }  # fmt: skip
            kind = "MODIFIED" if name in resource.objects else "ADDED"
            entry = {"apiVersion": resource.group, "kind": resource.kind, "metadata": metadata, **fields}
            resource.objects[name] = entry
            event = json.dumps({"type": kind, "object": entry}).encode() + b"\n"
            resource.events.append((self.version, event))
            changed = time.perf_counter()
            for watch in list(resource.watches):
                try:
                    write_chunk(watch, event)
                except OSError:
                    resource.watches.remove(watch)
            return changed

    def route(self, name: str, paths: list[str]) -> float:
        """A Service, with the annotation that the operator would write."""
        route = json.dumps({"paths": paths})
        return self.put(self.services, name, {"annotations": {"hedgerow.dev/route": route}}, spec={})

    def endpoints(self, name: str, addresses: list[str], port: int) -> float:
        """The EndpointSlice of a service."""
        ready = {"ready": True, "serving": True, "terminating": False}
        return self.put(
            self.slices, f"{name}-1", {"labels": {"kubernetes.io/service-name": name}}, addressType="IPv4",
            ports=[{"name": "http", "port": port, "protocol": "TCP"}],
            endpoints=[{"addresses": [address], "conditions": ready} for address in addresses],
        )  # fmt: skip

    def kubeconfig(self, path: Path) -> Path:
        """A kubeconfig for this server. JSON is YAML."""
        context = {"cluster": "bench", "user": "bench", "namespace": NAMESPACE}
        path.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": f"http://127.0.0.1:{self.server_port}"}}],
            "contexts": [{"name": "bench", "context": context}], "users": [{"name": "bench", "user": {}}],
        }))  # fmt: skip
        return path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ApiServer

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:  # noqa: N802 (the name is the library's)
        url = urlsplit(self.path)
        asked = {name: values[-1] for name, values in parse_qs(url.query).items()}
        known = {resource.path: resource for resource in (self.server.services, self.server.slices)}
        resource = known.get(url.path)
        if resource is None:
            self.respond(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404})
        elif asked.get("watch") in ("true", "1"):
            self.watch(resource, asked)
        else:
            self.list(resource, asked)

    def list(self, resource: Resource, asked: dict[str, str]) -> None:
        with self.server.lock:
            names = sorted(resource.objects)
            begin = int(asked.get("continue", 0))
            end = begin + int(asked.get("limit", 0)) if asked.get("limit") else len(names)
            metadata = {"resourceVersion": str(self.server.version)}
            if end < len(names):
                metadata["continue"] = str(end)
            items = [resource.objects[name] for name in names[begin:end]]
        kind = f"{resource.kind}List"
        self.respond(200, {"apiVersion": resource.group, "kind": kind, "metadata": metadata, "items": items})

    def watch(self, resource: Resource, asked: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        since = int(asked.get("resourceVersion") or 0)
        with self.server.lock:
            for version, event in resource.events:
                if version > since:
                    write_chunk(self.wfile, event)
            resource.watches.append(self.wfile)
        time.sleep(int(asked.get("timeoutSeconds", 300)))
        with self.server.lock:
            # Otherwise the client has disconnected.
            if self.wfile in resource.watches:
                resource.watches.remove(self.wfile)
                write_chunk(self.wfile, b"")

    def respond(self, status: int, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments) -> None:
        """Logs nothing."""


def write_chunk(stream: BinaryIO, content: bytes) -> None:
    """A chunk of a body; an empty one ends it."""
    stream.write(b"%x\r\n%s\r\n" % (len(content), content))
    stream.flush()


@contextmanager
def api_server() -> Iterator[ApiServer]:
    """Runs the server."""
    with ApiServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
