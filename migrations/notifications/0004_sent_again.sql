-- A mail that is over may be sent again because an operator says so (`chancery consumer replay --effects`).

-- Which replay it was sent again for, 0 for its first time: part of its Message-ID. And since when it is to be sent again: its age counts from there.
ALTER TABLE notifications.ledger ADD COLUMN replay bigint NOT NULL DEFAULT 0, ADD COLUMN again_at timestamptz;
