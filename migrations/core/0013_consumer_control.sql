-- What operators do to consumers: hold them, move them, let them have events again; and who did it stays known.

-- A consumer in order that is not to work before a time. One without order is paused at nats-server itself.
CREATE TABLE consumer_pauses (
    consumer text PRIMARY KEY,
    until    timestamptz NOT NULL
);
ALTER TABLE consumer_pauses OWNER TO chancery_owner;
ALTER TABLE consumer_pauses ENABLE ROW LEVEL SECURITY;
ALTER TABLE consumer_pauses FORCE ROW LEVEL SECURITY;
CREATE POLICY granted ON consumer_pauses USING (true);
CREATE POLICY own_rows ON consumer_pauses AS RESTRICTIVE
    USING (consumer = (SELECT replace(substr(current_user, length('chancery_') + 1), '_', '-')) OR (SELECT current_user = 'chancery_gateway'));
GRANT SELECT ON consumer_pauses TO chancery_consumers, chancery_gateway, chancery_logging, chancery_audit, chancery_notifications,
    chancery_onboarding, chancery_guests, chancery_withdrawals, chancery_authz_cache;

-- One row for each thing that somebody asked for, written before it is done. Superusers alone write it, and nobody may change or remove one.
CREATE TABLE consumer_actions (
    n        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    acted_at timestamptz NOT NULL DEFAULT now(),
    actor    text NOT NULL,
    action   text NOT NULL CHECK (action IN ('pause', 'resume', 'replay', 'seek')),
    consumer text NOT NULL,
    -- What exactly, in words.
    what     text NOT NULL
);
ALTER TABLE consumer_actions OWNER TO chancery_owner;
