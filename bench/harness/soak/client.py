"""An HTTP client that repeats a request until it knows the outcome."""

import http.client
import json
import time
import uuid
from collections.abc import Callable

# A request of which nothing definite is known after this many seconds counts as unknown.
PATIENCE = 60


class Client:
    """One connection. `seen` is told the status of each attempt, or what broke, and how long it took."""

    def __init__(self, port: int, seen: Callable[[str, float], None] = lambda _status, _seconds: None):
        self.port, self.seen = port, seen
        self.connection: http.client.HTTPConnection | None = None

    def call(self, method: str, path: str, body: object = None, key: bool = False) -> tuple[int | None, object]:
        """Returns status and body of the first response below 500. Every request must be safe to repeat: with `key` it
        gets an idempotency key. The status is None if there was no such response in time."""
        headers = {"content-type": "application/json"} if body is not None else {}
        if key:
            headers["idempotency-key"] = str(uuid.uuid4())
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            status, response = self._try(method, path, json.dumps(body) if body is not None else None, headers)
            if status is not None and status < 500:
                return status, response
            time.sleep(0.2)
        return None, None

    def _try(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> tuple[int | None, object]:
        start = time.monotonic()
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=70)
            self.connection.request(method, path, body, headers)
            response = self.connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            self.seen(type(error).__name__, time.monotonic() - start)
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            return None, None
        self.seen(str(response.status), time.monotonic() - start)
        is_json = "json" in (response.headers.get("content-type") or "")
        return response.status, json.loads(content) if is_json and content else None
