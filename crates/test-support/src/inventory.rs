//! Checks that the tables of inventory's database are consistent.

use sqlx::PgConnection;

/// Descriptions of inconsistencies, each with the query that finds them.
const CHECKS: [(&str, &str); 7] = [
    (
        "products whose ledger has a gap or does not add up to their counters",
        "SELECT product_id FROM stock LEFT JOIN (
             SELECT product_id, count(*) AS count, min(version) AS oldest, max(version) AS newest,
                    sum(on_hand_delta) AS on_hand, sum(reserved_delta) AS reserved,
                    bool_and(on_hand = on_hand_after AND reserved = reserved_after) AS runs
             FROM (SELECT product_id, version, on_hand_delta, reserved_delta, on_hand, reserved,
                          sum(on_hand_delta) OVER ledger AS on_hand_after, sum(reserved_delta) OVER ledger AS reserved_after
                   FROM movement WINDOW ledger AS (PARTITION BY product_id ORDER BY version)) AS entry
             GROUP BY product_id
         ) AS ledger USING (product_id)
         WHERE version > 0 AND (count, oldest, newest, ledger.on_hand, ledger.reserved, runs)
               IS DISTINCT FROM (version, 1, version, stock.on_hand, stock.reserved, true)",
    ),
    (
        "products whose reserved counter differs from the sum of their live lines",
        "SELECT product_id FROM stock LEFT JOIN (
             SELECT product_id, sum(quantity) AS quantity FROM reservation_line WHERE live GROUP BY product_id
         ) AS live USING (product_id) WHERE reserved <> coalesce(quantity, 0)",
    ),
    (
        "products with a live line that expires before next_expiry",
        "SELECT product_id FROM stock JOIN reservation_line USING (product_id)
         WHERE live AND (next_expiry IS NULL OR expires_at < next_expiry)",
    ),
    (
        "reservations without lines or with a different expiry than their lines",
        "SELECT id::text FROM reservation LEFT JOIN reservation_line ON reservation_id = id
         WHERE state <> 'void' AND (reservation_id IS NULL OR reservation_line.expires_at <> reservation.expires_at)",
    ),
    (
        "ended reservations with a live line, and held ones without",
        "SELECT id::text FROM reservation JOIN reservation_line ON reservation_id = id
         GROUP BY id HAVING (state IN ('committed', 'released') AND bool_or(live))
                         OR (state = 'held' AND NOT bool_or(live)) OR state = 'void'",
    ),
    (
        "lines whose movements are not one hold and, once closed, one commit, release or expiry",
        "SELECT line.reservation_id::text || ' ' || line.product_id FROM reservation_line AS line
         JOIN reservation ON id = line.reservation_id
         LEFT JOIN movement ON movement.reservation_id = line.reservation_id AND movement.product_id = line.product_id
         GROUP BY line.reservation_id, line.product_id, quantity, live, state
         HAVING count(*) FILTER (WHERE kind = 'hold' AND reserved_delta = quantity AND on_hand_delta = 0) <> 1
             OR count(*) FILTER (WHERE reserved_delta = -quantity
                    AND kind = CASE state WHEN 'committed' THEN 'commit' WHEN 'released' THEN 'release' ELSE 'expire' END
                    AND on_hand_delta = CASE state WHEN 'committed' THEN -quantity ELSE 0 END)
                <> CASE WHEN live THEN 0 ELSE 1 END
             OR count(*) <> CASE WHEN live THEN 1 ELSE 2 END",
    ),
    (
        "movements of a reservation without a line",
        "SELECT product_id || ' ' || version FROM movement LEFT JOIN reservation_line AS line USING (reservation_id, product_id)
         WHERE line.reservation_id IS NULL AND (reservation_id IS NOT NULL OR kind NOT IN ('set', 'adjust'))",
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
