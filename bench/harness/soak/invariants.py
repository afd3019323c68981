"""What must hold after the load: of the ledger, and of what the clients were told."""

import sys
import time

from harness.databases import psql
from harness.soak.client import Client
from harness.soak.holds import TTL
from harness.soak.release import PRODUCTS, SCARCE, SCARCE_STOCK, STOCK, Release
from harness.soak.shoppers import Told

# Each counts what contradicts it.
LEDGER = {
    "the deltas of a product add up to its counters": """
        SELECT count(*) FROM stock FULL JOIN (
            SELECT product_id, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved
            FROM movement GROUP BY product_id
        ) AS ledger USING (product_id)
        WHERE stock.on_hand IS DISTINCT FROM ledger.on_hand OR stock.reserved IS DISTINCT FROM ledger.reserved""",
    "the counters of a product are those of its last movement": """
        SELECT count(*) FROM stock FULL JOIN (
            SELECT DISTINCT ON (product_id) product_id, version, on_hand, reserved
            FROM movement ORDER BY product_id, version DESC
        ) AS last USING (product_id)
        WHERE (stock.version, stock.on_hand, stock.reserved) IS DISTINCT FROM (last.version, last.on_hand, last.reserved)""",
    "each movement continues from the one before": """
        SELECT count(*) FROM (
            SELECT on_hand - on_hand_delta <> coalesce(lag(on_hand) OVER product, 0)
                OR reserved - reserved_delta <> coalesce(lag(reserved) OVER product, 0) AS jumps
            FROM movement WINDOW product AS (PARTITION BY product_id ORDER BY version)
        ) AS movement WHERE jumps""",
    "no more is reserved than there is": """
        SELECT count(*) FROM movement WHERE reserved < 0 OR on_hand < 0 OR reserved > on_hand""",
}  # fmt: skip


def check(release: Release, told: Told) -> list[str]:
    """Waits until all holds have expired. Returns the invariants that are broken."""
    print(f"soak: waiting {TTL} s for the last holds to expire", file=sys.stderr)
    time.sleep(TTL + 5)
    broken = list(told.wrong)
    print("soak: checking the invariants", file=sys.stderr)
    for what, contradictions in LEDGER.items():
        count = int(psql("inventory", "-c", contradictions))
        if count:
            broken.append(f"{what}: {count} do not")
    client = Client(release.gateway_port)
    return broken + _stock(client, told) + _acknowledged(client, told)


def _stock(client: Client, told: Told) -> list[str]:
    """Everything that nobody bought is available again, and only what was bought is gone."""
    broken = []
    rows = psql("inventory", "-c", """
        SELECT product_id, -sum(on_hand_delta) FROM movement WHERE kind = 'commit' GROUP BY product_id""")  # fmt: skip
    sold = {name: int(units) for name, units in (row.split("|") for row in rows.splitlines())}
    initial = {f"product-{n + 1}": STOCK for n in range(PRODUCTS)}
    initial |= {f"scarce-{n + 1}": SCARCE_STOCK for n in range(SCARCE)}
    for product, amount in initial.items():
        units, least = sold.get(product, 0), told.committed[product]
        if not least <= units <= least + told.perhaps[product]:
            broken.append(f"{product}: {units} sold by the ledger, {least} committed by clients")
        status, stock = client.call("GET", f"/inventory/{product}")
        expected = {"product_id": product, "stock": amount - units, "on_hand": amount - units, "reserved": 0}
        if (status, stock) != (200, expected):
            broken.append(f"{product}: {status} {stock}, expected {expected}")
    return broken


def _acknowledged(client: Client, told: Told) -> list[str]:
    """What clients were told last is still so."""
    broken = []
    for path, state in told.reservations.items():
        status, found = client.call("GET", path)
        if status != 200 or found["state"] != state:
            broken.append(f"{path}: acknowledged as {state}, now {status} {found}")
    for path, email in told.users.items():
        status, found = client.call("GET", path)
        if status != 200 or found["email"] != email:
            broken.append(f"{path}: acknowledged with {email}, now {status} {found}")
    return broken
