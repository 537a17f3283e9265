-- The notifier's own tables: who can be told, and the ledger of what was told. Nobody else reads them.

CREATE SCHEMA notifications AUTHORIZATION chancery_owner;

-- Built from events, which may come twice or late: every changeable part carries the sequence of the event it is from.
CREATE TABLE notifications.tenants (
    tenant_id     uuid PRIMARY KEY,
    name          text,
    name_seq      bigint NOT NULL DEFAULT 0,
    -- The event and the command that created it: the first owner joined by the same command.
    created_event uuid,
    created_cause text
);
CREATE TABLE notifications.people (
    user_id   uuid PRIMARY KEY,
    email     text,
    full_name text,
    name_seq  bigint NOT NULL DEFAULT 0,
    gone      boolean NOT NULL DEFAULT false
);
CREATE TABLE notifications.members (
    tenant_id    uuid NOT NULL,
    user_id      uuid NOT NULL,
    email        text,
    role         text,
    role_seq     bigint NOT NULL DEFAULT 0,
    active       boolean NOT NULL DEFAULT false,
    active_seq   bigint NOT NULL DEFAULT 0,
    joined_cause text,
    PRIMARY KEY (tenant_id, user_id)
);
-- What a tenant has switched on. No row: nothing.
CREATE TABLE notifications.switches (
    tenant_id          uuid PRIMARY KEY,
    profile_updated    boolean NOT NULL DEFAULT false,
    invitation_expired boolean NOT NULL DEFAULT false
);

-- One row a mail: intent first, then the sending, then how it ended. The address is kept only until then.
CREATE TABLE notifications.ledger (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    event_id   uuid NOT NULL,
    effect     text NOT NULL,
    recipient  text NOT NULL,
    tenant_id  uuid NOT NULL,
    address    text,
    name       text,
    context    json,
    state      text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sent', 'undeliverable')),
    attempts   integer NOT NULL DEFAULT 0,
    -- Sendings that began and whose end is not known.
    doubts     integer NOT NULL DEFAULT 0,
    -- When the present sending began; it counts against the hourly limits.
    intent_at  timestamptz,
    next_at    timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    ended_at   timestamptz,
    error      text,
    UNIQUE (event_id, effect, recipient)
);
CREATE INDEX ledger_due ON notifications.ledger (next_at) WHERE state = 'pending';
CREATE INDEX ledger_recipient ON notifications.ledger (recipient, intent_at) WHERE intent_at IS NOT NULL;
CREATE INDEX ledger_tenant ON notifications.ledger (tenant_id, intent_at) WHERE intent_at IS NOT NULL;

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['tenants', 'people', 'members', 'switches', 'ledger'] LOOP
        EXECUTE format('ALTER TABLE notifications.%I OWNER TO chancery_owner', t);
        EXECUTE format('ALTER TABLE notifications.%I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE notifications.%I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY notifier ON notifications.%I TO chancery_notifications USING (true) WITH CHECK (true)', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON notifications.%I TO chancery_notifications', t);
    END LOOP;
END $$;
GRANT USAGE ON SCHEMA notifications TO chancery_notifications;
