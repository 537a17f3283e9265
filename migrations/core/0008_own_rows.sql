-- What a consumer keeps about itself is its own: another consumer's position, lease, marks or queue is neither seen nor changed. Restrictive,
-- so that it also binds the policies of consumers that come later.
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['consumer_leases', 'consumer_positions', 'consumer_parked', 'consumer_suspects', 'consumer_marks', 'consumer_late',
                             'consumer_feeds', 'consumer_notes', 'consumer_begins'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
        -- A database role is named as its consumer is. The worker deletes old notes, the gateway reads how far consumers are.
        EXECUTE format('CREATE POLICY own_rows ON %I AS RESTRICTIVE
                        USING (consumer = (SELECT replace(substr(current_user, length(''chancery_'') + 1), ''_'', ''-''))
                               OR (SELECT current_user IN (''chancery_gateway'', ''chancery_worker'')))', t);
    END LOOP;
    -- Those without rows of tenants had no policies: whoever was granted the table may use it, as before, for its own rows.
    FOREACH t IN ARRAY ARRAY['consumer_leases', 'consumer_positions', 'consumer_suspects', 'consumer_feeds', 'consumer_notes', 'consumer_begins'] LOOP
        EXECUTE format('CREATE POLICY granted ON %I USING (true)', t);
    END LOOP;
END $$;
