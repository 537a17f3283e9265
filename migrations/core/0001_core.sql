-- The record of truth: what was decided, the state it led to, the events, and who owns which partition.
-- Portable from PostgreSQL 15 to 18. Tables belong to a role that is neither superuser nor BYPASSRLS, so forced row level security holds.

-- Roles are one set per cluster, databases may be many and may migrate at the same time.
DO $$
DECLARE wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['chancery_owner', 'chancery_worker', 'chancery_gateway', 'chancery_logging', 'chancery_audit',
                                  'chancery_notifications', 'chancery_onboarding'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END LOOP;
END $$;

-- Live workers. A lease is renewed every third of its length.
CREATE TABLE workers (
    id          uuid PRIMARY KEY,
    name        text NOT NULL,
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 50);

-- One row a partition: the fencing epoch, the reading position in COMMANDS, and how far EVENTS has what was written.
CREATE TABLE partitions (
    partition             smallint PRIMARY KEY,
    epoch                 bigint NOT NULL DEFAULT 0,
    owner                 uuid,
    cursor                bigint NOT NULL DEFAULT 0,
    commands_incarnation  text NOT NULL DEFAULT '',
    sequence              bigint NOT NULL DEFAULT 0,
    mark_sequence         bigint NOT NULL DEFAULT 0,
    mark_stream           bigint NOT NULL DEFAULT 0,
    events_incarnation    text NOT NULL DEFAULT '',
    crash_at              timestamptz,
    crashes               integer NOT NULL DEFAULT 0,
    trying                bigint NOT NULL DEFAULT -1,
    tries                 integer NOT NULL DEFAULT 0,
    CHECK (mark_sequence <= sequence)
) WITH (fillfactor = 20);

-- One row a tenant: the dense sequence of its history, its clock, and its roster (counts the rules need).
CREATE TABLE tenants (
    tenant_id     uuid PRIMARY KEY,
    partition     smallint NOT NULL,
    sequence      bigint NOT NULL,
    last_event_at timestamptz NOT NULL,
    roster        jsonb NOT NULL
) WITH (fillfactor = 70);

-- The present state of every aggregate. What can be filtered or sorted is a stored generated column, indexed with the tenant first.
CREATE TABLE aggregates (
    tenant_id      uuid NOT NULL,
    kind           text NOT NULL,
    id             uuid NOT NULL,
    version        bigint NOT NULL,
    schema_version smallint NOT NULL,
    state          jsonb NOT NULL,
    due_at         timestamptz,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    email          text GENERATED ALWAYS AS (state ->> 'email') STORED,
    status         text GENERATED ALWAYS AS (coalesce(state ->> 'status', state ->> 'state')) STORED,
    role           text GENERATED ALWAYS AS (state ->> 'role') STORED,
    token_hash     text GENERATED ALWAYS AS (state ->> 'tokenHash') STORED,
    attributes     jsonb GENERATED ALWAYS AS (state -> 'attributes') STORED,
    PRIMARY KEY (tenant_id, kind, id)
) WITH (fillfactor = 80);
CREATE INDEX aggregates_created ON aggregates (tenant_id, kind, created_at, id);
CREATE INDEX aggregates_email ON aggregates (tenant_id, kind, email) WHERE email IS NOT NULL;
CREATE INDEX aggregates_status ON aggregates (tenant_id, kind, status, created_at);
CREATE INDEX aggregates_token ON aggregates (token_hash) WHERE token_hash IS NOT NULL;
CREATE INDEX aggregates_attributes ON aggregates USING gin (attributes jsonb_path_ops) WHERE attributes IS NOT NULL;
CREATE INDEX aggregates_due ON aggregates (due_at) WHERE due_at IS NOT NULL;
-- Every tenant, for platform operators.
CREATE INDEX aggregates_tenants ON aggregates (created_at, id) WHERE kind = 'tenant';

-- Every event, in the dense order of its partition; the body is kept as it is published, and what goes into further headers in meta.
CREATE TABLE events (
    partition          smallint NOT NULL,
    partition_sequence bigint NOT NULL,
    tenant_id          uuid NOT NULL,
    sequence           bigint NOT NULL,
    id                 uuid NOT NULL,
    type               text NOT NULL,
    kind               text NOT NULL,
    aggregate_id       uuid NOT NULL,
    command_id         uuid NOT NULL,
    occurred_at        timestamptz NOT NULL,
    meta               json,
    body               json NOT NULL,
    PRIMARY KEY (partition, partition_sequence)
);
CREATE UNIQUE INDEX events_tenant ON events (tenant_id, sequence);

-- The inbox: what was decided. For ever where the client gave a key.
CREATE TABLE commands (
    id         uuid PRIMARY KEY,
    tenant_id  uuid NOT NULL,
    actor      text NOT NULL,
    keyed      boolean NOT NULL,
    decided_at timestamptz NOT NULL DEFAULT now(),
    outcome    json NOT NULL
);
CREATE INDEX commands_decided ON commands USING brin (decided_at);

-- Values that at most one aggregate may hold.
CREATE TABLE claims (
    scope     text NOT NULL,
    value     text NOT NULL,
    tenant_id uuid NOT NULL,
    holder    uuid NOT NULL,
    PRIMARY KEY (scope, value)
);

-- Commands that could not be decided, on their way to DEADLETTERS. The id is derived from where the message came from.
CREATE TABLE deadletters (
    id           uuid PRIMARY KEY,
    partition    smallint NOT NULL,
    subject      text NOT NULL,
    headers      jsonb NOT NULL,
    payload      bytea NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz
);
CREATE INDEX deadletters_waiting ON deadletters (partition, created_at) WHERE published_at IS NULL;

-- Consumers that ask for order: one active owner, its position in the stream, and what is parked behind a failing event.
CREATE TABLE consumer_leases (
    consumer    text PRIMARY KEY,
    owner       uuid,
    epoch       bigint NOT NULL DEFAULT 0,
    lease_until timestamptz NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE consumer_positions (
    consumer    text PRIMARY KEY,
    epoch       bigint NOT NULL,
    position    bigint NOT NULL,
    incarnation text NOT NULL
) WITH (fillfactor = 20);
CREATE TABLE consumer_parked (
    consumer        text NOT NULL,
    stream_sequence bigint NOT NULL,
    aggregate       text NOT NULL,
    tenant_id       uuid NOT NULL,
    envelope        json NOT NULL,
    headers         json NOT NULL DEFAULT '{}',
    attempts        integer NOT NULL,
    next_at         timestamptz NOT NULL,
    error           text NOT NULL,
    dead            boolean NOT NULL DEFAULT false,
    PRIMARY KEY (consumer, stream_sequence)
);
CREATE INDEX consumer_parked_aggregate ON consumer_parked (consumer, aggregate, stream_sequence);
-- Events that may be what ends a consumer's process: how often each was tried alone without an answer.
CREATE TABLE consumer_suspects (
    consumer        text NOT NULL,
    stream_sequence bigint NOT NULL,
    tries           integer NOT NULL,
    PRIMARY KEY (consumer, stream_sequence)
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['workers', 'partitions', 'tenants', 'aggregates', 'events', 'commands', 'claims', 'deadletters',
                             'consumer_leases', 'consumer_positions', 'consumer_parked', 'consumer_suspects'] LOOP
        EXECUTE format('ALTER TABLE %I OWNER TO chancery_owner', t);
    END LOOP;
    -- Tables with rows of tenants: nothing is seen without a policy.
    FOREACH t IN ARRAY ARRAY['tenants', 'aggregates', 'events', 'commands', 'claims', 'deadletters', 'consumer_parked'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY worker ON %I TO chancery_worker USING (true) WITH CHECK (true)', t);
    END LOOP;
END $$;
CREATE POLICY consumers ON consumer_parked TO chancery_logging, chancery_audit, chancery_notifications, chancery_onboarding
    USING (true) WITH CHECK (true);

-- The gateway reads one tenant at a time: the transaction-local setting names it; missing means no rows.
CREATE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT nullif(current_setting('chancery.tenant', true), '')::uuid $$;
CREATE FUNCTION is_operator() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT coalesce(current_setting('chancery.operator', true), '') = 'on' $$;
-- One policy a table and role: two are joined by OR, and then no list of a tenant is read by its index (measured with 50,000 members:
-- 1400 ms a page instead of 1). Platform operators list tenants through a view of their own.
CREATE POLICY tenant_reads ON aggregates FOR SELECT TO chancery_gateway USING (tenant_id = (SELECT current_tenant()));
CREATE POLICY tenant_reads ON events FOR SELECT TO chancery_gateway USING (tenant_id = (SELECT current_tenant()));
CREATE POLICY tenant_reads ON commands FOR SELECT TO chancery_gateway
    USING (tenant_id = (SELECT current_tenant()) OR (SELECT is_operator()) OR actor = (SELECT current_setting('chancery.actor', true)));

-- A mailed token names no tenant. Its hash finds the invitation, and nothing else is readable this way.
CREATE POLICY token_lookup ON aggregates FOR SELECT TO chancery_owner USING (kind IN ('invitation', 'tenant'));
CREATE FUNCTION invitation_by_token(hash text)
    RETURNS TABLE (tenant_id uuid, id uuid, version bigint, state jsonb, created_at timestamptz, tenant_state jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    $$ SELECT i.tenant_id, i.id, i.version, i.state, i.created_at, t.state
         FROM public.aggregates i
         JOIN public.aggregates t ON t.tenant_id = i.tenant_id AND t.kind = 'tenant' AND t.id = i.tenant_id
        WHERE i.kind = 'invitation' AND i.token_hash = hash $$;
ALTER FUNCTION invitation_by_token(text) OWNER TO chancery_owner;
REVOKE ALL ON FUNCTION invitation_by_token(text) FROM public;
GRANT EXECUTE ON FUNCTION invitation_by_token(text) TO chancery_gateway;

GRANT USAGE ON SCHEMA public TO chancery_owner, chancery_worker, chancery_gateway, chancery_logging, chancery_audit,
    chancery_notifications, chancery_onboarding;
GRANT SELECT, INSERT, UPDATE, DELETE ON workers, deadletters, claims TO chancery_worker;
GRANT SELECT, INSERT, UPDATE ON partitions, tenants, aggregates TO chancery_worker;
GRANT SELECT, INSERT ON events TO chancery_worker;
GRANT SELECT, INSERT, DELETE ON commands TO chancery_worker;
GRANT SELECT ON aggregates, events, commands TO chancery_gateway;
GRANT SELECT, INSERT, UPDATE ON consumer_leases, consumer_positions TO chancery_logging, chancery_audit, chancery_notifications, chancery_onboarding;
GRANT SELECT, INSERT, UPDATE, DELETE ON consumer_parked, consumer_suspects TO chancery_logging, chancery_audit, chancery_notifications, chancery_onboarding;
