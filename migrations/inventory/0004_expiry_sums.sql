-- Expiring must not cost a write for each hold: expiries are summed by product and second, and a reservation is one row.
-- An older version of the service fails on this schema, without an effect, until its pods are replaced.

-- Each product once, sorted.
ALTER TABLE reservation ADD COLUMN product_ids text[] COLLATE "C", ADD COLUMN quantities bigint[];

-- A hold ends with a full second, and so with its bucket: later than it did, unless one of its lines was settled already.
-- Whether a hold has expired follows from the time, so its row no longer says so.
ALTER TABLE reservation DROP CONSTRAINT reservation_state_check, DROP CONSTRAINT reservation_check;
UPDATE reservation
SET product_ids = line.product_ids,
    quantities = line.quantities,
    state = CASE state WHEN 'expired' THEN 'held' ELSE state END,
    expires_at = CASE
        WHEN state IN ('committed', 'released') THEN expires_at
        WHEN line.live THEN date_trunc('second', expires_at + interval '999999 us')
        ELSE date_trunc('second', expires_at)
    END
FROM (
    SELECT reservation_id, array_agg(product_id ORDER BY product_id) AS product_ids,
           array_agg(quantity ORDER BY product_id) AS quantities, bool_and(live) AS live
    FROM reservation_line GROUP BY reservation_id
) AS line
WHERE id = reservation_id;
ALTER TABLE reservation
    ADD CHECK (state IN ('held', 'committed', 'released', 'void')),
    ADD CHECK (state = 'void' OR expires_at IS NOT NULL AND product_ids IS NOT NULL AND quantities IS NOT NULL
               AND cardinality(product_ids) > 0 AND cardinality(product_ids) = cardinality(quantities)
               AND 0 < ALL (quantities) AND 9007199254740991 >= ALL (quantities)),
    -- A row is updated at most once, when its reservation is committed or released.
    SET (fillfactor = 90);

-- The holds of a product that expire at the same second. Only holds that have not ended count.
CREATE TABLE expiry (
    product_id text COLLATE "C" NOT NULL,
    expires_at timestamptz NOT NULL,
    -- The sum of their quantities.
    quantity   bigint NOT NULL,
    holds      bigint NOT NULL,
    PRIMARY KEY (product_id, expires_at)
) WITH (fillfactor = 80);
INSERT INTO expiry (product_id, expires_at, quantity, holds)
SELECT product_id, reservation.expires_at, sum(quantity), count(*)
FROM reservation_line JOIN reservation ON id = reservation_id WHERE live GROUP BY 1, 2;

-- The expiries that are due, of all products, for the sweeper. Its columns are expressions so that a statement that reads
-- the expiries of one product cannot use it: it would pass those of all products.
CREATE INDEX expiry_due ON expiry ((expires_at AT TIME ZONE 'UTC'), (product_id || ''));

ALTER TABLE stock
    -- Expiries up to this time no longer count in `reserved`.
    ADD COLUMN settled_until timestamptz NOT NULL DEFAULT 'epoch',
    -- How many of the ledger's numbers are of expired holds.
    ADD COLUMN expired bigint NOT NULL DEFAULT 0,
    SET (fillfactor = 50);
UPDATE stock SET next_expiry = (SELECT min(expires_at) FROM expiry WHERE expiry.product_id = stock.product_id)
WHERE next_expiry IS NOT NULL OR reserved > 0;

-- A movement of kind `expire` settles the holds that expired up to a time, and takes as many numbers.
ALTER TABLE movement ADD COLUMN holds bigint, ADD COLUMN expired_until timestamptz;

DROP TABLE reservation_line;
