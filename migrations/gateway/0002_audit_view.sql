-- The audit log as the API shows it. The table is the audit consumer's; seals and salts stay with it.
CREATE VIEW audit_views WITH (security_invoker = true) AS
    SELECT n, action, entity_type, entity_id, performed_by, occurred_at,
           json_build_object('id', id, 'n', n, 'action', action, 'entityType', entity_type, 'entityId', entity_id, 'performedBy', performed_by,
                             'occurredAt', rfc3339(occurred_at), 'eventId', 'evt_' || event_id, 'commandId', 'cmd_' || command_id,
                             'correlationId', correlation_id, 'ipAddress', ip_address, 'userAgent', user_agent, 'before', before,
                             'after', after, 'hash', encode(hash, 'hex')) AS doc
      FROM audit_log;
ALTER VIEW audit_views OWNER TO chancery_owner;
GRANT SELECT ON audit_views TO chancery_gateway;
