-- There are no foreign keys here: whatever names a product is written by the statement that writes the product's row,
-- under that row's lock, and rows are never deleted. A key would cost a look-up for each row of a hot product.

-- What is on the shelf, and how much of it is held.
CREATE TABLE stock (
    -- "C", so that SQL and Rust sort alike: rows are locked in this order.
    product_id  text COLLATE "C" PRIMARY KEY CHECK (char_length(product_id) BETWEEN 1 AND 128),
    on_hand     bigint NOT NULL DEFAULT 0 CHECK (on_hand BETWEEN 0 AND 9007199254740991),
    reserved    bigint NOT NULL DEFAULT 0,
    -- The number of the last movement; the ETag.
    version     bigint NOT NULL DEFAULT 0,
    -- No live line of a reservation expires before this.
    next_expiry timestamptz NOT NULL DEFAULT 'infinity',
    CHECK (reserved BETWEEN 0 AND on_hand)
);

-- The ledger: each change of a product's counters, numbered under the row's lock and therefore without gaps.
CREATE TABLE movement (
    product_id     text COLLATE "C" NOT NULL,
    version        bigint NOT NULL CHECK (version > 0),
    kind           text NOT NULL CHECK (kind IN ('set', 'adjust', 'hold', 'commit', 'release', 'expire')),
    on_hand_delta  bigint NOT NULL,
    reserved_delta bigint NOT NULL,
    -- The counters after it.
    on_hand        bigint NOT NULL,
    reserved       bigint NOT NULL,
    reason         text CHECK (char_length(reason) <= 200),
    reservation_id uuid,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (product_id, version)
);

CREATE TABLE reservation (
    id         uuid PRIMARY KEY,
    -- "void": a request whose outcome was unknown, and which must never take effect.
    state      text NOT NULL CHECK (state IN ('held', 'committed', 'released', 'expired', 'void')),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE reservation_line (
    reservation_id uuid NOT NULL,
    product_id     text COLLATE "C" NOT NULL,
    quantity       bigint NOT NULL CHECK (quantity > 0),
    expires_at     timestamptz NOT NULL,
    -- Whether its quantity counts in stock.reserved.
    live           boolean NOT NULL DEFAULT true,
    PRIMARY KEY (reservation_id, product_id)
);

-- A product's overdue lines.
CREATE INDEX reservation_line_live ON reservation_line (product_id, expires_at) WHERE live;
