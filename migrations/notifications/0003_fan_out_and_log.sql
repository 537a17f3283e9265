-- What is told to many, how far its recipients are entered, and what an administrator may see of the ledger.

-- Members are entered in the order of their ids, page by page. A row stays for ever: an event that comes again is told to nobody.
CREATE TABLE notifications.fanouts (
    event_id    uuid NOT NULL,
    effect      text NOT NULL,
    tenant_id   uuid NOT NULL,
    event_type  text NOT NULL,
    -- The event's place in the tenant's history: who joined later is not told.
    sequence    bigint NOT NULL,
    -- Owners and admins only, or every member.
    managers    boolean NOT NULL,
    criticality text NOT NULL,
    context     json,
    stale       boolean NOT NULL,
    after_user  uuid,
    paged_at    timestamptz NOT NULL DEFAULT now(),
    done_at     timestamptz,
    PRIMARY KEY (event_id, effect)
);
CREATE INDEX fanouts_open ON notifications.fanouts (paged_at) WHERE done_at IS NULL;
CREATE INDEX members_managers ON notifications.members (tenant_id, user_id) WHERE role IN ('owner', 'admin');

-- Since which event a switch is on: what happened before is not told, although it may come again.
ALTER TABLE notifications.switches
    ADD COLUMN profile_updated_since bigint NOT NULL DEFAULT 0, ADD COLUMN invitation_expired_since bigint NOT NULL DEFAULT 0;

-- Which event it is about, what it is worth, and, where it went to an address that was nobody's yet, the invitation that has the address.
ALTER TABLE notifications.ledger
    ADD COLUMN event_type text, ADD COLUMN invitation_id uuid, ADD COLUMN criticality text NOT NULL DEFAULT 'medium';
UPDATE notifications.ledger SET event_type = CASE effect
    WHEN 'user_welcome' THEN 'user.created' WHEN 'profile_updated' THEN 'user.profile_updated' WHEN 'user_deactivated_alert' THEN 'user.deactivated'
    WHEN 'tenant_welcome' THEN 'tenant.created' WHEN 'member_welcome' THEN 'tenant.member_joined'
    WHEN 'member_role_changed' THEN 'tenant.member_role_changed' WHEN 'member_removed' THEN 'tenant.member_removed'
    WHEN 'member_left' THEN 'tenant.member_removed' WHEN 'invitation' THEN 'invitation.sent'
    -- `user_suspended` is of `user.suspended`, and so on.
    ELSE regexp_replace(effect, '_', '.') END,
    invitation_id = CASE WHEN context ->> 'invitation' LIKE 'inv\_%' THEN substr(context ->> 'invitation', 5)::uuid END;
-- With a default: a notifier of the version before may still be writing.
ALTER TABLE notifications.ledger ALTER COLUMN event_type SET DEFAULT '', ALTER COLUMN event_type SET NOT NULL;

-- What was told to many before this table was there has been told.
INSERT INTO notifications.fanouts (event_id, effect, tenant_id, event_type, sequence, managers, criticality, stale, done_at)
    SELECT DISTINCT event_id, effect, tenant_id, event_type, 0, effect <> 'tenant_suspended', 'medium', false, now() FROM notifications.ledger
     WHERE effect IN ('tenant_suspended', 'tenant_activated', 'tenant_cancelled', 'tenant_plan_upgraded');

-- Each tenant's share of what is due, and what of it waits.
DROP INDEX notifications.ledger_due;
CREATE INDEX ledger_due ON notifications.ledger (tenant_id, next_at) WHERE state = 'pending';
-- Whether anything is due at all.
CREATE INDEX ledger_any_due ON notifications.ledger (next_at) WHERE state = 'pending';
CREATE INDEX ledger_waiting ON notifications.ledger (recipient, next_at) WHERE state = 'pending';
-- What the log can be filtered and sorted by.
CREATE INDEX ledger_log ON notifications.ledger (tenant_id, created_at, id);
CREATE INDEX ledger_log_state ON notifications.ledger (tenant_id, state, created_at, id);
CREATE INDEX ledger_log_recipient ON notifications.ledger (tenant_id, recipient, created_at, id);
CREATE INDEX ledger_log_type ON notifications.ledger (tenant_id, event_type, created_at, id);
CREATE INDEX ledger_log_effect ON notifications.ledger (tenant_id, effect, created_at, id);

ALTER TABLE notifications.fanouts OWNER TO chancery_owner;
ALTER TABLE notifications.fanouts ENABLE ROW LEVEL SECURITY;
ALTER TABLE notifications.fanouts FORCE ROW LEVEL SECURITY;
CREATE POLICY notifier ON notifications.fanouts TO chancery_notifications USING (true) WITH CHECK (true);
GRANT SELECT, INSERT, UPDATE ON notifications.fanouts TO chancery_notifications;

-- The delivery log. The gateway may not read what was said nor to which address it goes: the address shown is the one that the tenant's own
-- user, member or invitation has now, and none once that is gone.
CREATE POLICY tenant_reads ON notifications.ledger FOR SELECT TO chancery_gateway USING (tenant_id = (SELECT current_tenant()));
GRANT USAGE ON SCHEMA notifications TO chancery_gateway;
GRANT SELECT (id, event_id, effect, recipient, tenant_id, event_type, invitation_id, criticality, state, attempts, next_at, created_at, ended_at,
              error) ON notifications.ledger TO chancery_gateway;
CREATE VIEW notification_views WITH (security_invoker = true) AS
    SELECT l.id, l.state, l.event_type, l.effect, l.recipient, l.created_at,
           json_build_object(
               'id', l.id, 'eventId', 'evt_' || l.event_id, 'eventType', l.event_type, 'template', l.effect, 'criticality', l.criticality,
               'userId', CASE WHEN l.recipient LIKE 'user\_%' THEN l.recipient END,
               'invitationId', 'inv_' || l.invitation_id,
               'email', CASE WHEN l.recipient LIKE 'user\_%'
                   THEN coalesce((SELECT m.email FROM aggregates m WHERE m.tenant_id = l.tenant_id AND m.kind = 'membership'
                                     AND m.id = substr(l.recipient, 6)::uuid),
                                 (SELECT u.email FROM aggregates u WHERE u.tenant_id = l.tenant_id AND u.kind = 'user'
                                     AND u.id = substr(l.recipient, 6)::uuid))
                   ELSE (SELECT i.email FROM aggregates i WHERE i.tenant_id = l.tenant_id AND i.kind = 'invitation' AND i.id = l.invitation_id) END,
               'state', l.state, 'attempts', l.attempts, 'error', l.error, 'createdAt', rfc3339(l.created_at),
               'nextAttemptAt', CASE WHEN l.state = 'pending' THEN rfc3339(l.next_at) END, 'endedAt', rfc3339(l.ended_at)) AS doc
      FROM notifications.ledger l
     WHERE l.tenant_id = (SELECT current_tenant());
ALTER VIEW notification_views OWNER TO chancery_owner;
GRANT SELECT ON notification_views TO chancery_gateway;
