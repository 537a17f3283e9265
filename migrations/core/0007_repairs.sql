-- A life of EVENTS that was built anew from this table may begin behind a partition's oldest events (it has limits, the table has none):
-- what consumers miss there they are fed from here, and a comparison does not look for it.
ALTER TABLE partitions ADD COLUMN events_base bigint NOT NULL DEFAULT 0;

-- Where a consumer in order that begins with what is new has begun: what stands at or before it in a partition was there already, and is
-- not fed to it when EVENTS is created anew or has a hole.
CREATE TABLE consumer_begins (
    consumer           text NOT NULL,
    partition          smallint NOT NULL,
    partition_sequence bigint NOT NULL,
    PRIMARY KEY (consumer, partition)
);
-- What the stream lacks is read from the table where the hole is met, so an event repaired below a mark is no news to anybody any more.
COMMENT ON TABLE consumer_late IS 'Not written any more; a later release drops it.';

ALTER TABLE consumer_begins OWNER TO chancery_owner;
GRANT SELECT, INSERT ON consumer_begins TO chancery_logging, chancery_audit, chancery_notifications, chancery_onboarding;
