-- Consumers of other teams that the manifest declares. What every consumer needs for itself, they have through one group; which rows they see
-- of it, and which events, is a matter of their own names (`own_rows`) and of their filters (a policy of each, made by `chancery provision`).
DO $$
BEGIN
    CREATE ROLE chancery_consumers NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

GRANT USAGE ON SCHEMA public TO chancery_consumers;
GRANT SELECT, INSERT, UPDATE ON consumer_leases, consumer_positions TO chancery_consumers;
GRANT SELECT, INSERT, UPDATE, DELETE ON consumer_parked, consumer_suspects, consumer_marks, consumer_late, consumer_feeds TO chancery_consumers;
GRANT SELECT, INSERT ON consumer_begins TO chancery_consumers;
GRANT INSERT ON consumer_notes TO chancery_consumers;
GRANT SELECT ON schema_versions TO chancery_consumers;
-- No event without a policy of the consumer's own.
GRANT SELECT ON events TO chancery_consumers;

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['consumer_parked', 'consumer_marks', 'consumer_late'] LOOP
        EXECUTE format('CREATE POLICY teams ON %I TO chancery_consumers USING (true) WITH CHECK (true)', t);
    END LOOP;
END $$;
