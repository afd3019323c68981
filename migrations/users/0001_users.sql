CREATE TABLE users (
    id         uuid PRIMARY KEY,
    name       text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    email      text NOT NULL CHECK (char_length(email) <= 254),
    -- Counts up with each change; the ETag.
    version    bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- Addresses are ASCII; "C" folds those alike under every locale of the server.
CREATE UNIQUE INDEX users_email_key ON users (lower(email COLLATE "C"));
