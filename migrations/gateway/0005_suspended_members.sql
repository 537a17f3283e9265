-- A member is shown with their teams, which are looked up for the rows shown, as the names of inviters are. One whose home tenant shut them
-- out is shown as suspended, and has no role that counts.
CREATE OR REPLACE VIEW member_views WITH (security_invoker = true) AS
    SELECT m.id, m.version, m.email, m.role, m.created_at,
           CASE WHEN coalesce(u.status, 'active') = 'active' AND coalesce(m.state ->> 'suspended', 'false') = 'false'
                THEN 'active' ELSE 'suspended' END AS state,
           json_build_object('userId', 'user_' || m.id, 'email', m.email, 'fullName', u.state ->> 'fullName', 'role', m.role,
                             'state', CASE WHEN coalesce(u.status, 'active') = 'active' AND coalesce(m.state ->> 'suspended', 'false') = 'false'
                                           THEN 'active' ELSE 'suspended' END,
                             'teams', (SELECT coalesce(json_agg(json_build_object('id', 'team_' || t.id, 'name', t.state ->> 'name')
                                                                ORDER BY t.created_at, t.id), '[]')
                                         FROM team_names n
                                         JOIN aggregates t ON t.tenant_id = n.tenant_id AND t.kind = 'team' AND t.id = n.team_id
                                        WHERE n.tenant_id = m.tenant_id AND n.named = m.id),
                             'invitationId', m.state ->> 'invitationId', 'createdAt', rfc3339(m.created_at),
                             'updatedAt', rfc3339(m.updated_at), 'version', m.version) AS doc
      FROM aggregates m
      LEFT JOIN aggregates u ON u.tenant_id = m.tenant_id AND u.kind = 'user' AND u.id = m.id
     WHERE m.kind = 'membership' AND m.tenant_id = (SELECT current_tenant()) AND (m.state ->> 'active')::boolean;

CREATE OR REPLACE VIEW standings WITH (security_invoker = true) AS
    SELECT m.id AS user_id,
           CASE WHEN coalesce(u.status, 'active') = 'active' AND coalesce(m.state ->> 'suspended', 'false') = 'false' THEN m.role END AS role
      FROM aggregates m
      LEFT JOIN aggregates u ON u.tenant_id = m.tenant_id AND u.kind = 'user' AND u.id = m.id
     WHERE m.kind = 'membership' AND m.tenant_id = (SELECT current_tenant()) AND (m.state ->> 'active')::boolean;
