//! Checks that the tables of inventory's database are consistent.

use sqlx::PgConnection;

/// Descriptions of inconsistencies, each with the query that finds them.
const CHECKS: [(&str, &str); 9] = [
    (
        "products whose ledger has a gap or does not add up to their counters",
        "SELECT product_id FROM stock LEFT JOIN (
             SELECT product_id, max(version) AS newest, sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved,
                    bool_and(version = version_after AND on_hand = on_hand_after AND reserved = reserved_after) AS runs
             FROM (SELECT product_id, version, on_hand_delta, reserved_delta, on_hand, reserved,
                          sum(CASE kind WHEN 'opening' THEN version ELSE coalesce(holds, 1) END) OVER ledger AS version_after,
                          sum(on_hand_delta) OVER ledger AS on_hand_after,
                          sum(reserved_delta) OVER ledger AS reserved_after
                   FROM movement WINDOW ledger AS (PARTITION BY product_id ORDER BY version)) AS entry
             GROUP BY product_id
         ) AS ledger USING (product_id)
         WHERE version > 0 AND (newest, ledger.on_hand, ledger.reserved, runs)
               IS DISTINCT FROM (version, stock.on_hand, stock.reserved, true)",
    ),
    (
        // Movements may have been deleted.
        "products that count other expired holds than their ledger",
        "SELECT product_id FROM stock LEFT JOIN (
             SELECT product_id, sum(holds) AS expired, count(*) FILTER (WHERE holds IS NULL) AS changes
             FROM movement GROUP BY product_id
         ) AS ledger USING (product_id)
         WHERE stock.expired < coalesce(ledger.expired, 0) OR version - stock.expired < coalesce(changes, 0)",
    ),
    (
        "products whose reserved counter differs from the sum of their expiries",
        "SELECT product_id FROM stock LEFT JOIN (
             SELECT product_id, sum(quantity) AS quantity FROM stock JOIN expiry USING (product_id)
             WHERE expires_at > settled_until GROUP BY product_id
         ) AS live USING (product_id) WHERE reserved <> coalesce(quantity, 0)",
    ),
    (
        "products with an expiry before next_expiry",
        "SELECT product_id FROM stock JOIN expiry USING (product_id)
         WHERE holds > 0 AND expires_at > settled_until AND (next_expiry IS NULL OR expires_at < next_expiry)",
    ),
    (
        "reservations whose items are not sorted, or that do not expire at a full second",
        "SELECT id::text FROM reservation
         WHERE state <> 'void' AND product_ids IS DISTINCT FROM (
             SELECT array_agg(DISTINCT product_id ORDER BY product_id) FROM unnest(product_ids) AS item (product_id)
         ) OR state = 'held' AND expires_at <> date_trunc('second', expires_at)",
    ),
    (
        "expiries that are not the sums of the held reservations",
        "SELECT product_id || ' ' || expires_at FROM (
             SELECT product_id, expires_at, sum(quantity) AS quantity, count(*) AS holds
             FROM reservation, unnest(product_ids, quantities) AS item (product_id, quantity)
             WHERE state = 'held' GROUP BY product_id, expires_at
         ) AS held FULL JOIN expiry USING (product_id, expires_at) JOIN stock USING (product_id)
         WHERE (coalesce(held.quantity, 0), coalesce(held.holds, 0)) <> (coalesce(expiry.quantity, 0), coalesce(expiry.holds, 0))
               -- A settled one is deleted after a while.
               AND (expires_at > settled_until OR expiry.holds IS NOT NULL)",
    ),
    (
        "items whose movements are not one hold and, once ended, one commit or release",
        "SELECT id || ' ' || item.product_id
         FROM reservation CROSS JOIN unnest(product_ids, quantities) AS item (product_id, quantity)
         LEFT JOIN movement ON movement.reservation_id = id AND movement.product_id = item.product_id
         -- Unless an opening movement stands for that of the hold.
         WHERE NOT EXISTS (
             SELECT FROM movement AS opening WHERE opening.product_id = item.product_id AND opening.kind = 'opening'
         ) OR EXISTS (
             SELECT FROM movement AS entry
             WHERE entry.product_id = item.product_id AND entry.reservation_id = id AND entry.kind = 'hold'
         )
         GROUP BY id, item.product_id, quantity, state
         HAVING count(*) FILTER (WHERE kind = 'hold' AND reserved_delta = quantity AND on_hand_delta = 0) <> 1
             OR count(*) FILTER (WHERE reserved_delta = -quantity
                    AND kind = CASE state WHEN 'committed' THEN 'commit' WHEN 'released' THEN 'release' END
                    AND on_hand_delta = CASE state WHEN 'committed' THEN -quantity ELSE 0 END)
                <> CASE state WHEN 'held' THEN 0 ELSE 1 END
             OR count(*) <> CASE state WHEN 'held' THEN 1 ELSE 2 END",
    ),
    (
        "movements of expired holds that are not the sums of their reservations",
        "SELECT movement.product_id || ' ' || version FROM (
             SELECT *, lag(expired_until, 1, '-infinity') OVER (PARTITION BY product_id ORDER BY version) AS expired_after
             FROM movement WHERE kind IN ('expire', 'opening') AND expired_until IS NOT NULL
         ) AS movement LEFT JOIN (
             reservation CROSS JOIN unnest(product_ids, quantities) AS item (product_id, quantity)
         ) ON item.product_id = movement.product_id AND state = 'held'
             AND expires_at > expired_after AND expires_at <= expired_until
         WHERE kind = 'expire'
         GROUP BY movement.product_id, version, reserved_delta, movement.holds
         HAVING (coalesce(sum(quantity), 0), count(id)) IS DISTINCT FROM (-reserved_delta, movement.holds)",
    ),
    (
        "movements of a reservation without such an item",
        "SELECT product_id || ' ' || version FROM movement LEFT JOIN reservation ON id = reservation_id
         WHERE CASE WHEN kind IN ('hold', 'commit', 'release') THEN NOT coalesce(product_id = ANY (product_ids), false)
                    ELSE reservation_id IS NOT NULL END",
    ),
];

/// Returns a description of each inconsistency.
///
/// # Panics
/// Panics if a query fails.
pub async fn inconsistencies(connection: &mut PgConnection) -> Vec<String> {
    let mut found = Vec::new();
    for (what, query) in CHECKS {
        let rows: Vec<String> =
            sqlx::query_scalar(query).fetch_all(&mut *connection).await.expect("the query succeeds");
        if !rows.is_empty() {
            found.push(format!("{what}, {} in total: {:?}", rows.len(), &rows[..rows.len().min(5)]));
        }
    }
    found
}
