-- An invitation is shown with its teams (one that is gone keeps its name here), and has its end as text, whose order is that of time and can
-- be read from an index.
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
               'createdAt', rfc3339(i.created_at), 'version', i.version) AS doc,
           i.expires
      FROM aggregates i
     WHERE i.kind = 'invitation' AND i.tenant_id = (SELECT current_tenant());
