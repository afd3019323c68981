"""The peer: the measured endpoints of `users` and `inventory` on FastAPI and asyncpg, written for speed.

It has the rules and the schema of the services, and leaves out everything else that they do: no metrics, no
request ids, no logs. `bench/README.md` explains the choices.

`python app.py PORT` is one worker; any number may share the port.
"""

import os
import socket
import sys
import time
from contextlib import asynccontextmanager
from typing import Annotated
from uuid import UUID

import asyncpg
import orjson
import uvicorn
from fastapi import FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field

POOL_SIZE = int(os.environ.get("DATABASE_POOL_SIZE", "8"))  # per worker
MAX_COUNT = 2**53 - 1

GET_STOCK = "SELECT product_id, on_hand, reserved, version FROM stock WHERE product_id = $1"
# One statement is one transaction and one round trip. After a lock wait, `old` has the newest version of the row, so
# the deltas are correct with any number of concurrent writers.
SET_STOCK = """
WITH old AS (
    SELECT on_hand FROM stock WHERE product_id = $1 FOR UPDATE
), new AS (
    UPDATE stock SET on_hand = $2, version = version + 1
    FROM old WHERE product_id = $1 AND reserved <= $2
    RETURNING stock.on_hand, reserved, version, old.on_hand AS before
), entry AS (
    INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved)
    SELECT $1, version, 'set', on_hand - before, 0, on_hand, reserved FROM new
)
SELECT on_hand, reserved, version FROM new
"""
# Like the service: the row is invisible until its first movement.
ADD_STOCK = "INSERT INTO stock (product_id) VALUES ($1) ON CONFLICT DO NOTHING"
# Like load/reserve.sql, for one item.
RESERVE = """
WITH clock AS MATERIALIZED (
    SELECT date_trunc('second', clock_timestamp() + make_interval(secs => $4) + interval '999999 us') AS expires_at
), product AS (
    UPDATE stock SET reserved = reserved + $3, version = version + 1,
                     next_expiry = least(next_expiry, (SELECT expires_at FROM clock))
    WHERE product_id = $2 AND on_hand - reserved >= $3 AND (next_expiry IS NULL OR next_expiry > clock_timestamp())
    RETURNING product_id, on_hand, reserved, version
), held AS (
    INSERT INTO reservation (id, state, expires_at, product_ids, quantities)
    SELECT $1, 'held', expires_at, ARRAY[product_id], ARRAY[$3::bigint] FROM clock, product
), expiring AS (
    INSERT INTO expiry (product_id, expires_at, quantity, holds) SELECT product_id, expires_at, $3, 1 FROM clock, product
    ON CONFLICT (product_id, expires_at) DO UPDATE
        SET quantity = expiry.quantity + excluded.quantity, holds = expiry.holds + excluded.holds
), entry AS (
    INSERT INTO movement (product_id, version, kind, on_hand_delta, reserved_delta, on_hand, reserved, reservation_id)
    SELECT product_id, version, 'hold', 0, $3, on_hand, reserved, $1 FROM clock, product
)
SELECT expires_at FROM clock, product
"""
ADD_USER = """
INSERT INTO users (id, name, email) VALUES ($1, $2, $3)
RETURNING created_at, updated_at, version
"""

pools: dict[str, asyncpg.Pool] = {}


async def keep(_connection: asyncpg.Connection) -> None:
    """Stands in for asyncpg's reset at each release, which costs a round trip and has nothing to reset here."""


@asynccontextmanager
async def lifespan(_app: FastAPI):
    for name in ("users", "inventory"):
        if url := os.environ.get(f"{name.upper()}_DATABASE_URL"):
            pools[name] = await asyncpg.create_pool(
                url, min_size=POOL_SIZE, max_size=POOL_SIZE, reset=keep, max_inactive_connection_lifetime=0
            )
    yield
    for pool in pools.values():
        await pool.close()


app = FastAPI(
    title="peer", lifespan=lifespan, openapi_url=None, telemetry={"tracing": False, "metrics": False, "logs": False}
)

# The rules are patterns and bounds, so all of a request is validated inside pydantic's Rust core.
# No control characters (C0, DEL, C1) and no slash; one or two leading dots only if other characters follow.
PRODUCT_ID = r"^(?:\.{0,2}[^./\x00-\x1f\x7f-\x9f]|\.{3})[^/\x00-\x1f\x7f-\x9f]*$"
ProductId = Annotated[str, Path(max_length=128, pattern=PRODUCT_ID)]


class NewUser(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*[^\s\x00\x1c-\x1f][^\x00]*$")]
    email: Annotated[
        str,
        Field(  # The HTML standard's "valid e-mail address".
            max_length=254,
            pattern=r"^[a-zA-Z0-9.!#$%&'*+/=?^_`{|}~-]+"
            r"@[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?)*$",
        ),
    ]


class SetStock(BaseModel):
    model_config = ConfigDict(extra="forbid")
    stock: Annotated[int, Field(strict=True, ge=0, le=MAX_COUNT)]


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    product_id: Annotated[str, Field(max_length=128, pattern=PRODUCT_ID)]
    quantity: Annotated[int, Field(strict=True, ge=1, le=MAX_COUNT)]


class Reserve(BaseModel):
    model_config = ConfigDict(extra="forbid")
    items: Annotated[list[Item], Field(min_length=1, max_length=100)]
    ttl_seconds: Annotated[int, Field(strict=True, ge=1, le=86400)] = 900


def stock_json(product_id: str, on_hand: int, reserved: int) -> bytes:
    return orjson.dumps(
        {"product_id": product_id, "stock": on_hand - reserved, "on_hand": on_hand, "reserved": reserved}
    )


def respond(status: int, content: bytes, version: int | None, **headers: str) -> Response:
    if version is not None:
        headers["etag"] = f'"{version}"'
    return Response(content, status, headers, "application/json")


def problem(status: int, title: str, detail: str, errors: list[dict[str, str]] | None = None) -> Response:
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    if errors is not None:
        body["errors"] = errors
    return Response(orjson.dumps(body), status, media_type="application/problem+json")


@app.exception_handler(RequestValidationError)
async def refuse(_request: Request, error: RequestValidationError) -> Response:
    errors = error.errors()
    if any(e["type"] == "json_invalid" or (e["type"] == "missing" and e["loc"] == ("body",)) for e in errors):
        return problem(400, "Bad Request", "the body is not valid JSON")
    fields = [{"pointer": "#/" + "/".join(map(str, e["loc"][1:])), "detail": e["msg"]} for e in errors]
    return problem(422, "Unprocessable Content", "the request is invalid", fields)


@app.get("/inventory/{product_id}")
async def get_stock(product_id: ProductId) -> Response:
    row = await pools["inventory"].fetchrow(GET_STOCK, product_id)
    _, on_hand, reserved, version = row or (product_id, 0, 0, 0)
    return respond(200, stock_json(product_id, on_hand, reserved), version)


@app.post("/inventory/{product_id}")
async def set_stock(product_id: ProductId, body: SetStock) -> Response:
    pool = pools["inventory"]
    row = await pool.fetchrow(SET_STOCK, product_id, body.stock)
    if row is None:
        await pool.execute(ADD_STOCK, product_id)
        row = await pool.fetchrow(SET_STOCK, product_id, body.stock)
    if row is None:
        return problem(409, "Conflict", "the stock must not be less than the reserved quantity")
    return respond(201, stock_json(product_id, row[0], row[1]), row[2])


@app.post("/reservations")
async def reserve(body: Reserve) -> Response:
    reservation_id = uuid7()
    pool = pools["inventory"]
    wanted: dict[str, int] = {}
    for item in body.items:
        wanted[item.product_id] = wanted.get(item.product_id, 0) + item.quantity
    if len(wanted) > 1:
        return problem(501, "Not Implemented", "the load reserves one product at a time")
    [(product_id, quantity)] = wanted.items()
    expires_at = await pool.fetchval(RESERVE, reservation_id, product_id, quantity, float(body.ttl_seconds))
    if expires_at is None:
        return problem(409, "Conflict", "insufficient stock")
    reservation = {
        "id": reservation_id,
        "state": "held",
        "items": [{"product_id": product_id, "quantity": quantity}],
        "expires_at": expires_at,
    }
    content = orjson.dumps(reservation, option=orjson.OPT_UTC_Z)
    return respond(201, content, 1, location=f"/reservations/{reservation_id}")


@app.post("/users")
async def create_user(body: NewUser) -> Response:
    user_id = uuid7()
    try:
        row = await pools["users"].fetchrow(ADD_USER, user_id, body.name, body.email)
    except asyncpg.UniqueViolationError:
        return problem(409, "Conflict", "the email is already in use")
    user = {"id": user_id, "name": body.name, "email": body.email, "created_at": row[0], "updated_at": row[1]}
    return respond(201, orjson.dumps(user, option=orjson.OPT_UTC_Z), row[2], location=f"/users/{user_id}")


def uuid7() -> UUID:
    """RFC 9562, section 5.7: 48 bits of milliseconds, then random ones."""
    bits = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    return UUID(int=bits & ~(0xF << 76) & ~(0x3 << 62) | 0x7 << 76 | 0x2 << 62)


class Server(uvicorn.Server):
    """Reports when it accepts connections."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print("listening", flush=True)


def serve(port: int) -> None:
    # Each worker has its own listening socket: those of `uvicorn --workers` share one, and every few rounds a single
    # worker accepted all 64 connections.
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", port))
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        server_header=False,
        date_header=False,
    )
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    serve(int(sys.argv[1]))
