-- The reactor finds the tenants where a user is a guest, and what the user's home tenant says. It changes nothing here: it gives commands.
GRANT USAGE ON SCHEMA public TO chancery_guests;

CREATE INDEX aggregates_memberships ON aggregates (id, tenant_id) WHERE kind = 'membership';
CREATE POLICY guests_reads ON aggregates FOR SELECT TO chancery_guests USING (kind IN ('user', 'membership'));
GRANT SELECT (tenant_id, kind, id, status, state) ON aggregates TO chancery_guests;
CREATE POLICY guests_reads ON claims FOR SELECT TO chancery_guests USING (scope = 'user');
GRANT SELECT (scope, value, tenant_id) ON claims TO chancery_guests;
-- How its own commands ended, also when the worker's answer was lost.
CREATE POLICY guests_reads ON commands FOR SELECT TO chancery_guests USING (actor = 'system');
GRANT SELECT (id, actor, outcome) ON commands TO chancery_guests;

-- What every consumer has: see 0001_core.sql and 0003_feeding_consumers.sql of core.
GRANT SELECT ON events TO chancery_guests;
CREATE POLICY guests_reads ON events FOR SELECT TO chancery_guests USING (true);
GRANT SELECT, INSERT, UPDATE ON consumer_leases, consumer_positions TO chancery_guests;
GRANT SELECT, INSERT, UPDATE, DELETE ON consumer_parked, consumer_suspects, consumer_marks, consumer_late, consumer_feeds TO chancery_guests;
CREATE POLICY guests ON consumer_parked TO chancery_guests USING (true) WITH CHECK (true);
CREATE POLICY guests ON consumer_marks TO chancery_guests USING (true) WITH CHECK (true);
CREATE POLICY guests ON consumer_late TO chancery_guests USING (true) WITH CHECK (true);
