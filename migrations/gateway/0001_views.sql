-- What queries show. The views run with the rights of who reads them, so row level security decides which rows there are:
-- those of the transaction's tenant. `doc` is the item as the API shows it; the other columns are what can be filtered and sorted.


-- A time as the API writes it.
CREATE FUNCTION rfc3339(at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS
    $$ SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') $$;

CREATE VIEW tenant_views WITH (security_invoker = true) AS
    SELECT id, version, status AS state, created_at, state ->> 'slug' AS slug, state ->> 'name' AS name, state ->> 'plan' AS plan,
           json_build_object('id', 'tenant_' || id, 'slug', state ->> 'slug', 'name', state ->> 'name', 'plan', state ->> 'plan',
                             'state', status, 'createdAt', rfc3339(created_at), 'updatedAt', rfc3339(updated_at), 'version', version) AS doc
      FROM aggregates
     WHERE kind = 'tenant' AND tenant_id = id;

-- Every tenant, for platform operators and nobody else: the one view with the rights of its owner, who sees tenants and invitations only.
-- Not a security barrier, which would hide the index of the order (187 ms against 0.3 ms); only the gateway's own statements read it.
CREATE VIEW all_tenant_views AS
    SELECT id, version, status AS state, created_at, state ->> 'slug' AS slug, state ->> 'name' AS name, state ->> 'plan' AS plan,
           json_build_object('id', 'tenant_' || id, 'slug', state ->> 'slug', 'name', state ->> 'name', 'plan', state ->> 'plan',
                             'state', status, 'createdAt', rfc3339(created_at), 'updatedAt', rfc3339(updated_at), 'version', version) AS doc
      FROM aggregates
     WHERE kind = 'tenant' AND (SELECT is_operator());

CREATE VIEW user_views WITH (security_invoker = true) AS
    SELECT id, version, status AS state, email, created_at, state ->> 'fullName' AS full_name,
           json_build_object('id', 'user_' || id, 'tenantId', 'tenant_' || tenant_id, 'email', email, 'fullName', state ->> 'fullName',
                             'emailVerified', coalesce((state ->> 'emailVerified')::boolean, false), 'state', status,
                             'deactivatedAt', state ->> 'deactivatedAt', 'createdAt', rfc3339(created_at), 'updatedAt', rfc3339(updated_at),
                             'version', version) AS doc
      FROM aggregates
     WHERE kind = 'user' AND tenant_id = (SELECT current_tenant());

-- Only who is a member. The name and the user's own state are known where this tenant is their home.
CREATE VIEW member_views WITH (security_invoker = true) AS
    SELECT m.id, m.version, m.email, m.role, m.created_at,
           CASE WHEN u.status IS NULL OR u.status = 'active' THEN 'active' ELSE 'suspended' END AS state,
           json_build_object('userId', 'user_' || m.id, 'email', m.email, 'fullName', u.state ->> 'fullName', 'role', m.role,
                             'state', CASE WHEN u.status IS NULL OR u.status = 'active' THEN 'active' ELSE 'suspended' END,
                             'invitationId', m.state ->> 'invitationId', 'createdAt', rfc3339(m.created_at),
                             'updatedAt', rfc3339(m.updated_at), 'version', m.version) AS doc
      FROM aggregates m
      LEFT JOIN aggregates u ON u.tenant_id = m.tenant_id AND u.kind = 'user' AND u.id = m.id
     WHERE m.kind = 'membership' AND m.tenant_id = (SELECT current_tenant()) AND (m.state ->> 'active')::boolean;

-- What a member may: the role that counts, none while the user is not active.
CREATE VIEW standings WITH (security_invoker = true) AS
    SELECT m.id AS user_id, CASE WHEN u.status IS NULL OR u.status = 'active' THEN m.role END AS role
      FROM aggregates m
      LEFT JOIN aggregates u ON u.tenant_id = m.tenant_id AND u.kind = 'user' AND u.id = m.id
     WHERE m.kind = 'membership' AND m.tenant_id = (SELECT current_tenant()) AND (m.state ->> 'active')::boolean;

-- The inviter's name is known where this tenant is their home. The names are looked up for the rows shown, not joined: what reads the
-- inviter's id out of the state could not be searched by an index in a join under row level security.
CREATE VIEW invitation_views WITH (security_invoker = true) AS
    SELECT i.id, i.version, i.status AS state, i.email, i.role, i.attributes, i.created_at, (i.state ->> 'expiresAt')::timestamptz AS expires_at,
           i.state ->> 'invitationType' AS invitation_type, (i.state ->> 'tokenVersion')::bigint AS token_version,
           json_build_object(
               'id', 'inv_' || i.id,
               'tenant', json_build_object(
                   'id', 'tenant_' || i.tenant_id,
                   'name', (SELECT t.state ->> 'name' FROM aggregates t
                             WHERE t.tenant_id = i.tenant_id AND t.kind = 'tenant' AND t.id = i.tenant_id)),
               'email', i.email, 'state', i.status, 'invitationType', i.state ->> 'invitationType', 'role', i.role, 'teams', '[]'::json,
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

DO $$
DECLARE v text;
BEGIN
    FOREACH v IN ARRAY ARRAY['tenant_views', 'all_tenant_views', 'user_views', 'member_views', 'standings', 'invitation_views'] LOOP
        EXECUTE format('ALTER VIEW %I OWNER TO chancery_owner', v);
        EXECUTE format('GRANT SELECT ON %I TO chancery_gateway', v);
    END LOOP;
END $$;
ALTER FUNCTION rfc3339(timestamptz) OWNER TO chancery_owner;
