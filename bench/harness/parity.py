"""Checks that both sides do the same: the same requests get the same responses and leave the same rows."""

import http.client
import json

from harness.databases import psql
from harness.sides import Side

TYPED = {"Content-Type": "application/json"}
HOLD = '{"items": [{"product_id": "100001", "quantity": 1}]}'
ADA = '{"name": "Ada Lovelace", "email": "ada@example.com"}'

# Method, path, body. Only bodies of successful responses are compared.
REQUESTS = {
    "inventory": [
        ("GET", "/inventory/100000", None),
        ("GET", "/inventory/no-such-product", None),
        ("GET", "/inventory/..hidden", None),
        ("GET", "/inventory/" + "x" * 129, None),
        ("GET", "/inventory/a%07b", None),
        ("POST", "/inventory/100000", '{"stock": 7}'),
        ("POST", "/inventory/100000", '{"stock": 9007199254740991}'),
        ("POST", "/inventory/parity", '{"stock": 5}'),
        ("POST", "/inventory/parity", '{"stock": 0}'),
        ("GET", "/inventory/parity", None),
        ("POST", "/inventory/parity", '{"stock": 9007199254740992}'),
        ("POST", "/inventory/parity", '{"stock": -1}'),
        ("POST", "/inventory/parity", '{"stock": "1"}'),
        ("POST", "/inventory/parity", '{"stock": 1, "more": 2}'),
        ("POST", "/inventory/parity", "{}"),
        ("POST", "/inventory/parity", "[]"),
        ("POST", "/inventory/parity", '{"stock": 1'),
        ("POST", "/inventory/parity", ""),
        ("POST", "/reservations", HOLD),
        ("POST", "/reservations", HOLD.replace("1}", '3}, {"product_id": "100001", "quantity": 2}')),
        ("POST", "/reservations", HOLD.replace("100001", "no-such-product")),
        ("POST", "/reservations", HOLD.replace("1}", "9007199254740991}")),
        ("POST", "/reservations", HOLD.replace("1}", "0}")),
        ("POST", "/reservations", HOLD.replace("1}", '"1"}')),
        ("POST", "/reservations", HOLD.replace("100001", "a/b")),
        ("POST", "/reservations", HOLD.replace("]", '], "ttl_seconds": 0')),
        ("POST", "/reservations", '{"items": []}'),
        ("POST", "/reservations", "{}"),
        ("POST", "/reservations", '{"items": '),
    ],
    "users": [
        ("POST", "/users", ADA),
        ("POST", "/users", ADA.replace("ada@", "Ada@")),
        ("POST", "/users", ADA.replace("ada@example.com", "ada")),
        ("POST", "/users", ADA.replace("ada@", "a" * 250 + "@")),
        ("POST", "/users", ADA.replace("Ada Lovelace", " ")),
        ("POST", "/users", ADA.replace("Ada Lovelace", "A" * 201)),
        ("POST", "/users", ADA.replace('"name"', '"nickname"')),
        ("POST", "/users", "{}"),
        ("POST", "/users", '{"name": '),
    ],
}

# The columns that depend neither on randomness nor on the clock.
ROWS = {
    "inventory": [
        "SELECT product_id, on_hand, reserved, version, next_expiry IS NULL FROM stock ORDER BY 1",
        "SELECT product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reason,"
        " reservation_id IS NULL FROM movement ORDER BY 1, 2",
        "SELECT product_ids, quantities, state, expires_at = date_trunc('second', expires_at)"
        " FROM reservation ORDER BY 1, 2",
        # The two sides may work in different seconds.
        "SELECT product_id, sum(quantity), sum(holds), bool_and(expires_at IN (SELECT expires_at FROM reservation))"
        " FROM expiry GROUP BY 1 ORDER BY 1",
    ],
    "users": ["SELECT name, email, version FROM users ORDER BY email"],
}


def check(service: str, ours: Side, peer: Side) -> None:
    """Exits if the two sides differ."""
    for method, path, body in REQUESTS[service]:
        responses = [_send(side.port, method, path, body) for side in (ours, peer)]
        _same(f"{method} {path[:40]} {body or ''}", *responses)
    for query in ROWS[service]:
        _same(query, *(psql(side.database.name, "-c", query) for side in (ours, peer)))


def _same(what: str, ours: object, peer: object) -> None:
    if ours != peer:
        raise SystemExit(f"bench: the sides differ: {what}\n  ours: {str(ours)[:500]}\n  peer: {str(peer)[:500]}")


def _send(port: int, method: str, path: str, body: str | None) -> tuple:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, TYPED if body is not None else {})
        response = connection.getresponse()
        content = response.read()
        kind = response.headers.get_content_type()
    finally:
        connection.close()
    if response.status >= 400:
        return response.status, kind
    fields = json.loads(content)
    # Only their names can be compared.
    changing = {name: None for name in ("id", "created_at", "updated_at", "expires_at") if name in fields}
    located = response.headers.get("Location") is not None
    return response.status, kind, response.headers.get("ETag"), located, fields | changing
