-- Teams, and where else they show: with members and with invitations.

-- Only teams in use. `parent` and `folded` (the name in lower case) are for filters.
CREATE VIEW team_views WITH (security_invoker = true) AS
    SELECT t.id, t.version, t.created_at, t.state ->> 'name' AS name, lower(t.state ->> 'name') AS folded, t.state ->> 'parentTeamId' AS parent,
           json_build_object('id', 'team_' || t.id, 'name', t.state ->> 'name', 'parentTeamId', t.state ->> 'parentTeamId',
                             'memberCount', jsonb_array_length(coalesce(t.state -> 'members', '[]')),
                             'createdAt', rfc3339(t.created_at), 'updatedAt', rfc3339(t.updated_at), 'version', t.version) AS doc
      FROM aggregates t
     WHERE t.kind = 'team' AND t.tenant_id = (SELECT current_tenant()) AND t.status = 'active';

-- The teams are looked up for the rows shown, as the names of inviters are.
CREATE OR REPLACE VIEW member_views WITH (security_invoker = true) AS
    SELECT m.id, m.version, m.email, m.role, m.created_at,
           CASE WHEN u.status IS NULL OR u.status = 'active' THEN 'active' ELSE 'suspended' END AS state,
           json_build_object('userId', 'user_' || m.id, 'email', m.email, 'fullName', u.state ->> 'fullName', 'role', m.role,
                             'state', CASE WHEN u.status IS NULL OR u.status = 'active' THEN 'active' ELSE 'suspended' END,
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

-- A team that is gone keeps its name here.
CREATE OR REPLACE VIEW invitation_views WITH (security_invoker = true) AS
    SELECT i.id, i.version, i.status AS state, i.email, i.role, i.attributes, i.created_at, (i.state ->> 'expiresAt')::timestamptz AS expires_at,
           i.state ->> 'invitationType' AS invitation_type, (i.state ->> 'tokenVersion')::bigint AS token_version,
           json_build_object(
               'id', 'inv_' || i.id,
               'tenant', json_build_object(
                   'id', 'tenant_' || i.tenant_id,
                   'name', (SELECT t.state ->> 'name' FROM aggregates t
                             WHERE t.tenant_id = i.tenant_id AND t.kind = 'tenant' AND t.id = i.tenant_id)),
               'email', i.email, 'state', i.status, 'invitationType', i.state ->> 'invitationType', 'role', i.role,
               'teams', (SELECT coalesce(json_agg(json_build_object('id', asked.id, 'name', t.state ->> 'name') ORDER BY asked.n), '[]')
                           FROM jsonb_array_elements_text(coalesce(i.state -> 'teamIds', '[]')) WITH ORDINALITY AS asked (id, n)
                           LEFT JOIN aggregates t
                             ON t.tenant_id = i.tenant_id AND t.kind = 'team' AND t.id = substr(asked.id, 6)::uuid),
               'invitedBy', json_build_object(
                   'userId', CASE WHEN i.state ->> 'createdBy' LIKE 'user_%' THEN i.state ->> 'createdBy' END,
                   'fullName', (SELECT u.state ->> 'fullName' FROM aggregates u
                                 WHERE u.tenant_id = i.tenant_id AND u.kind = 'user'
                                   AND u.id = CASE WHEN i.state ->> 'createdBy' LIKE 'user_%' THEN substr(i.state ->> 'createdBy', 6)::uuid END)),
               'accountId', i.state ->> 'accountId', 'attributes', coalesce(i.attributes, '{}'),
               'resendCount', coalesce((i.state ->> 'resendCount')::bigint, 0), 'expiresAt', i.state ->> 'expiresAt',
               'createdAt', rfc3339(i.created_at), 'version', i.version) AS doc
      FROM aggregates i
     WHERE i.kind = 'invitation' AND i.tenant_id = (SELECT current_tenant());

ALTER VIEW team_views OWNER TO chancery_owner;
GRANT SELECT ON team_views TO chancery_gateway;
