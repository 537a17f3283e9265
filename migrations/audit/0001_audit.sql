-- The audit chain: one row an event, numbered and hashed per tenant. Written by one role that may insert and select and nothing else.

CREATE TABLE audit_log (
    id             uuid PRIMARY KEY,
    -- The row's place in its tenant's chain: 1, 2, 3 …
    n              bigint NOT NULL CHECK (n > 0),
    tenant_id      uuid NOT NULL,
    -- The event's place in its tenant's history. Not the same: with several writers a later event may be written first.
    sequence       bigint NOT NULL,
    action         text NOT NULL,
    entity_type    text NOT NULL,
    entity_id      text NOT NULL,
    performed_by   text NOT NULL,
    occurred_at    timestamptz NOT NULL,
    event_id       uuid NOT NULL UNIQUE,
    command_id     uuid,
    correlation_id text NOT NULL,
    ip_address     text,
    user_agent     text,
    before         json,
    after          json,
    -- HMAC-SHA256(salt, value) of every personal value, by its JSON pointer. The hash is over these and not over the values, so that
    -- value and salt can be erased and the chain still verifies.
    seals          json NOT NULL,
    salt           bytea,
    hash           bytea NOT NULL CHECK (octet_length(hash) = 32),
    UNIQUE (tenant_id, n)
);
CREATE INDEX audit_log_entity ON audit_log (tenant_id, entity_id, n);

-- Whoever asks, even the owner: rows are never changed or removed.
CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
    $$ BEGIN RAISE EXCEPTION 'the audit log is append-only: % is refused', TG_OP USING ERRCODE = 'insufficient_privilege'; END $$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only();

ALTER TABLE audit_log OWNER TO chancery_owner;
ALTER FUNCTION audit_log_is_append_only() OWNER TO chancery_owner;
ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_log FORCE ROW LEVEL SECURITY;
-- Always: also for a session that turns ordinary triggers off.
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only;

CREATE POLICY writer_reads ON audit_log FOR SELECT TO chancery_audit USING (true);
CREATE POLICY writer_inserts ON audit_log FOR INSERT TO chancery_audit WITH CHECK (true);
CREATE POLICY tenant_reads ON audit_log FOR SELECT TO chancery_gateway USING (tenant_id = (SELECT current_tenant()));

REVOKE ALL ON audit_log FROM PUBLIC, chancery_owner;
GRANT SELECT, INSERT ON audit_log TO chancery_audit;
-- Salts stay with the writer: who has the salt can guess at erased values.
GRANT SELECT (id, n, tenant_id, sequence, action, entity_type, entity_id, performed_by, occurred_at, event_id, command_id, correlation_id,
              ip_address, user_agent, before, after, hash) ON audit_log TO chancery_gateway;
