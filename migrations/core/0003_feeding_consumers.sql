-- A consumer that is older than the stream's first message is fed from the table of events. What it reads there it could have read in the
-- stream, so its database role may.
GRANT SELECT ON events TO chancery_logging, chancery_audit, chancery_notifications, chancery_onboarding;
CREATE POLICY consumers ON events FOR SELECT TO chancery_logging, chancery_audit, chancery_notifications, chancery_onboarding USING (true);

-- How far a consumer that asks for order is in the history of each tenant: an event at or below is not handled again, whichever life of
-- the stream, or the table, it comes from.
CREATE TABLE consumer_marks (
    consumer  text NOT NULL,
    tenant_id uuid NOT NULL,
    sequence  bigint NOT NULL,
    PRIMARY KEY (consumer, tenant_id)
) WITH (fillfactor = 70);
-- Repaired events (Chancery-Late) come below the mark and are judged by their ids. There are few.
CREATE TABLE consumer_late (
    consumer  text NOT NULL,
    event_id  uuid NOT NULL,
    tenant_id uuid NOT NULL,
    PRIMARY KEY (consumer, event_id)
);
-- A feeding of a consumer without order that is not done yet: how far it is. Done, it tells until when the table was read.
CREATE TABLE consumer_feeds (
    consumer           text PRIMARY KEY,
    done               boolean NOT NULL DEFAULT false,
    partition          smallint NOT NULL DEFAULT 0,
    partition_sequence bigint NOT NULL DEFAULT 0,
    since              timestamptz NOT NULL,
    started_at         timestamptz NOT NULL
);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['consumer_marks', 'consumer_late', 'consumer_feeds'] LOOP
        EXECUTE format('ALTER TABLE %I OWNER TO chancery_owner', t);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO chancery_logging, chancery_audit, chancery_notifications, chancery_onboarding', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['consumer_marks', 'consumer_late'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY consumers ON %I TO chancery_logging, chancery_audit, chancery_notifications, chancery_onboarding
                        USING (true) WITH CHECK (true)', t);
    END LOOP;
END $$;
