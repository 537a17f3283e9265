-- Only teams in use. `parent` and `folded` (the name in lower case) are for filters.
CREATE VIEW team_views WITH (security_invoker = true) AS
    SELECT t.id, t.version, t.created_at, t.state ->> 'name' AS name, lower(t.state ->> 'name') AS folded, t.state ->> 'parentTeamId' AS parent,
           json_build_object('id', 'team_' || t.id, 'name', t.state ->> 'name', 'parentTeamId', t.state ->> 'parentTeamId',
                             'memberCount', jsonb_array_length(coalesce(t.state -> 'members', '[]')),
                             'createdAt', rfc3339(t.created_at), 'updatedAt', rfc3339(t.updated_at), 'version', t.version) AS doc
      FROM aggregates t
     WHERE t.kind = 'team' AND t.tenant_id = (SELECT current_tenant()) AND t.status = 'active';

ALTER VIEW team_views OWNER TO chancery_owner;
GRANT SELECT ON team_views TO chancery_gateway;
