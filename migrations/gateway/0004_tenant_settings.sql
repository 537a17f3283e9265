-- A tenant's settings, and where its people sign in.

CREATE FUNCTION tenant_settings(state jsonb) RETURNS json LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    $$ SELECT json_build_object('notifyProfileUpdated', coalesce((state -> 'settings' ->> 'notifyProfileUpdated')::boolean, false),
                                'notifyInvitationExpired', coalesce((state -> 'settings' ->> 'notifyInvitationExpired')::boolean, false)) $$;
ALTER FUNCTION tenant_settings(jsonb) OWNER TO chancery_owner;

CREATE OR REPLACE VIEW tenant_views WITH (security_invoker = true) AS
    SELECT id, version, status AS state, created_at, state ->> 'slug' AS slug, state ->> 'name' AS name, state ->> 'plan' AS plan,
           json_build_object('id', 'tenant_' || id, 'slug', state ->> 'slug', 'name', state ->> 'name', 'plan', state ->> 'plan',
                             'state', status, 'settings', tenant_settings(state), 'sso', state -> 'sso',
                             'createdAt', rfc3339(created_at), 'updatedAt', rfc3339(updated_at), 'version', version) AS doc
      FROM aggregates
     WHERE kind = 'tenant' AND tenant_id = id;

CREATE OR REPLACE VIEW all_tenant_views AS
    SELECT id, version, status AS state, created_at, state ->> 'slug' AS slug, state ->> 'name' AS name, state ->> 'plan' AS plan,
           json_build_object('id', 'tenant_' || id, 'slug', state ->> 'slug', 'name', state ->> 'name', 'plan', state ->> 'plan',
                             'state', status, 'settings', tenant_settings(state), 'sso', state -> 'sso',
                             'createdAt', rfc3339(created_at), 'updatedAt', rfc3339(updated_at), 'version', version) AS doc
      FROM aggregates
     WHERE kind = 'tenant' AND (SELECT is_operator());

-- Its version is the tenant's.
CREATE VIEW sso_views WITH (security_invoker = true) AS
    SELECT id, version, (state -> 'sso')::json AS doc
      FROM aggregates
     WHERE kind = 'tenant' AND tenant_id = id AND tenant_id = (SELECT current_tenant()) AND state -> 'sso' IS NOT NULL;
ALTER VIEW sso_views OWNER TO chancery_owner;
GRANT SELECT ON sso_views TO chancery_gateway;
