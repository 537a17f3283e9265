-- Which teams name a person as their member, or a team as their parent: how the teams of a person, and those below a team, are found.
-- Follows the teams' states by a trigger, so in the transaction that writes them; other rows do not pay for it (the condition is a
-- comparison of a column).
CREATE TABLE team_names (
    tenant_id uuid NOT NULL,
    named     uuid NOT NULL,
    team_id   uuid NOT NULL,
    PRIMARY KEY (tenant_id, named, team_id)
);
CREATE INDEX team_names_team ON team_names (tenant_id, team_id);

CREATE FUNCTION follow_team() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE names uuid[];
BEGIN
    SELECT coalesce(array_agg(split_part(id, '_', 2)::uuid), '{}') INTO names FROM (
        SELECT jsonb_array_elements_text(coalesce(NEW.state -> 'members', '[]')) AS id
        UNION SELECT NEW.state ->> 'parentTeamId' WHERE NEW.state ->> 'parentTeamId' IS NOT NULL) AS named;
    DELETE FROM public.team_names t WHERE t.tenant_id = NEW.tenant_id AND t.team_id = NEW.id AND t.named <> ALL (names);
    INSERT INTO public.team_names (tenant_id, named, team_id) SELECT NEW.tenant_id, unnest(names), NEW.id ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
ALTER FUNCTION follow_team() OWNER TO chancery_owner;
CREATE TRIGGER follow_team AFTER INSERT OR UPDATE ON aggregates FOR EACH ROW WHEN (NEW.kind = 'team') EXECUTE FUNCTION follow_team();

ALTER TABLE team_names OWNER TO chancery_owner;
ALTER TABLE team_names ENABLE ROW LEVEL SECURITY;
ALTER TABLE team_names FORCE ROW LEVEL SECURITY;
CREATE POLICY worker ON team_names TO chancery_worker USING (true) WITH CHECK (true);
CREATE POLICY tenant_reads ON team_names FOR SELECT TO chancery_gateway USING (tenant_id = (SELECT current_tenant()));
GRANT SELECT, INSERT, DELETE ON team_names TO chancery_worker;
GRANT SELECT ON team_names TO chancery_gateway;
