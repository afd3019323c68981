-- The products a user wishes for; what they are is inventory's affair.
CREATE TABLE wishlist (
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    -- "C", so that SQL and Rust sort alike.
    product_id text COLLATE "C" NOT NULL CHECK (char_length(product_id) BETWEEN 1 AND 128),
    added_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, product_id)
);
