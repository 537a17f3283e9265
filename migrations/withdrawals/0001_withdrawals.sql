-- The reactor finds pending invitations, by tenant or by address in every tenant. It changes nothing here: it gives commands.
GRANT USAGE ON SCHEMA public TO chancery_withdrawals;

CREATE INDEX aggregates_invited ON aggregates (email, tenant_id, id) WHERE kind = 'invitation' AND status IN ('created', 'sent');
CREATE POLICY withdrawals_reads ON aggregates FOR SELECT TO chancery_withdrawals USING (kind = 'invitation');
GRANT SELECT (tenant_id, kind, id, status, email, created_at) ON aggregates TO chancery_withdrawals;
-- How its own commands ended, also when the worker's answer was lost.
CREATE POLICY withdrawals_reads ON commands FOR SELECT TO chancery_withdrawals USING (actor = 'system');
GRANT SELECT (id, actor, outcome) ON commands TO chancery_withdrawals;
-- Who a deleted user was: their creation tells the address.
CREATE INDEX events_user_created ON events (aggregate_id) WHERE type = 'user.created';

-- What every consumer has: see 0001_core.sql and 0003_feeding_consumers.sql of core.
GRANT SELECT ON events TO chancery_withdrawals;
CREATE POLICY withdrawals_reads ON events FOR SELECT TO chancery_withdrawals USING (true);
GRANT SELECT, INSERT, UPDATE ON consumer_leases, consumer_positions TO chancery_withdrawals;
GRANT SELECT, INSERT, UPDATE, DELETE ON consumer_parked, consumer_suspects, consumer_marks, consumer_late, consumer_feeds TO chancery_withdrawals;
CREATE POLICY withdrawals ON consumer_parked TO chancery_withdrawals USING (true) WITH CHECK (true);
CREATE POLICY withdrawals ON consumer_marks TO chancery_withdrawals USING (true) WITH CHECK (true);
CREATE POLICY withdrawals ON consumer_late TO chancery_withdrawals USING (true) WITH CHECK (true);
