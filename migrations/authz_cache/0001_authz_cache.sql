-- The consumer that drops what gateways remember of rights keeps nothing of its own: only what every consumer without order needs.
GRANT USAGE ON SCHEMA public TO chancery_authz_cache;
GRANT SELECT ON events TO chancery_authz_cache;
-- How far what was decided is published: while it is not, nobody's memory of rights is to be believed.
GRANT SELECT (partition, sequence, mark_sequence) ON partitions TO chancery_authz_cache;
CREATE POLICY authz_cache ON events FOR SELECT TO chancery_authz_cache USING (true);
GRANT SELECT, INSERT, UPDATE ON consumer_leases, consumer_positions TO chancery_authz_cache;
GRANT SELECT, INSERT, UPDATE, DELETE ON consumer_parked, consumer_suspects, consumer_marks, consumer_late, consumer_feeds TO chancery_authz_cache;
CREATE POLICY authz_cache ON consumer_parked TO chancery_authz_cache USING (true) WITH CHECK (true);
CREATE POLICY authz_cache ON consumer_marks TO chancery_authz_cache USING (true) WITH CHECK (true);
CREATE POLICY authz_cache ON consumer_late TO chancery_authz_cache USING (true) WITH CHECK (true);
