-- A tenant's row is written when its roster changes, no longer with every event: the tenant's sequence and clock are those of its last
-- event (events_tenant finds it), and here stand those of the roster's last change.
COMMENT ON TABLE tenants IS 'The roster of each tenant: counts the rules need.';
COMMENT ON COLUMN tenants.sequence IS 'The tenant''s sequence when the roster last changed.';
COMMENT ON COLUMN tenants.last_event_at IS 'When that was.';
