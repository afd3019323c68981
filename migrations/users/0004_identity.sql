-- Passwords. A user without a row has none, and cannot log in.
CREATE TABLE credential (
    user_id    uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    -- The hash with its parameters and salt, as a PHC string.
    phc        text NOT NULL CHECK (char_length(phc) BETWEEN 1 AND 256),
    changed_at timestamptz NOT NULL DEFAULT now()
);

-- The roles of users, besides `user`, which every user has.
CREATE TABLE role_grant (
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    role       text COLLATE "C" NOT NULL CHECK (char_length(role) BETWEEN 1 AND 64),
    granted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, role)
);

-- What a login started. Each refresh token names the session and its counter.
CREATE TABLE session (
    id         uuid PRIMARY KEY,
    -- No foreign key: the session of a deleted user is kept for a while, so that verifiers learn that it has ended.
    user_id    uuid NOT NULL,
    -- The counter of the current refresh token.
    counter    bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- When the counter was last advanced.
    used_at    timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    -- When it was ended before it expired, and the transaction that did. Transactions do not end in the order of their
    -- times, but it is known which ones have ended.
    revoked_at timestamptz,
    revoked_in xid8,
    -- Where it was last used: the address and its network, if the address is known, and the `User-Agent`.
    address    text CHECK (char_length(address) <= 64),
    network    text CHECK (char_length(network) <= 64),
    agent      text NOT NULL CHECK (char_length(agent) <= 256)
);

-- The bytes of the id sort like it. The id itself would tempt plans made on an empty table to look for it here.
CREATE INDEX session_user_id ON session (user_id, uuid_send(id));
CREATE INDEX session_revoked_at ON session (revoked_at) WHERE revoked_at IS NOT NULL;
CREATE INDEX session_revoked_in ON session (revoked_in, id) WHERE revoked_in IS NOT NULL;
CREATE INDEX session_expires_at ON session (expires_at);

-- Machines that get tokens with client credentials.
CREATE TABLE client (
    id         uuid PRIMARY KEY,
    name       text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    -- SHA-256 of the secret, which is random: a slow hash would protect it no better.
    secret     bytea NOT NULL CHECK (length(secret) = 32),
    scopes     text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The keys that sign access tokens.
CREATE TABLE signing_key (
    kid         text COLLATE "C" PRIMARY KEY,
    -- The public key as a JWK.
    public      json NOT NULL,
    -- The private key, sealed under the key-encryption key.
    sealed      bytea NOT NULL,
    -- It is published before, so that verifiers know it by then.
    active_from timestamptz NOT NULL,
    -- When the last token that it signed has expired. Set once it has a successor.
    gone_at     timestamptz NOT NULL DEFAULT 'infinity'
);

CREATE INDEX signing_key_gone_at ON signing_key (gone_at);

-- The one issuer. Its row is locked by whoever adds a key.
CREATE TABLE issuer (
    id          boolean PRIMARY KEY DEFAULT true CHECK (id),
    -- The key that authenticates refresh tokens, sealed under the key-encryption key. NULL until a replica made it.
    refresh_key bytea
);

INSERT INTO issuer DEFAULT VALUES;

-- Counts attempts to log in. Each is counted before the password is checked, so that parallel ones count too.
CREATE TABLE throttle (
    -- The kind of limit, and SHA-256 of what is limited. Emails and addresses can be long, and sort by locale.
    key      bytea PRIMARY KEY,
    failures integer NOT NULL,
    -- The end of the current period.
    until    timestamptz NOT NULL
) WITH (fillfactor = 50); -- Most changes do not touch the index on `until`, and stay on their page.

CREATE INDEX throttle_until ON throttle (until);
