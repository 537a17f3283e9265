-- What lists of many invitations are read by. Measured with 100,000 in a tenant: by address 180 ms a page, by end 205, by attribute 160,
-- because there was no index that could be used; with these 1 to 10.

-- By address: the index before this one left rows without an address out, so no order could be read from it.
CREATE INDEX aggregates_address ON aggregates (tenant_id, kind, email, id);
DROP INDEX aggregates_email;

-- By end. The text is a time in UTC of fixed length, so its order is that of time. A column, not an expression of the index: that would
-- count the whole state as indexed, and no update of any aggregate could leave the indexes alone (HOT).
ALTER TABLE aggregates ADD COLUMN expires text GENERATED ALWAYS AS (CASE WHEN kind = 'invitation' THEN state ->> 'expiresAt' END) STORED;
CREATE INDEX aggregates_expires ON aggregates (tenant_id, expires, id) WHERE kind = 'invitation';

-- By attribute. `@>` could fail on a row that must not be seen, so under row level security it finds nothing by an index; equality does.
-- Each value that is a text, a number or a truth value is a term: the hash of its key, `=` and itself (values may be too long for an index).
-- Follows the states by triggers, so in the transaction that writes them; other rows, and states that keep their attributes, do not pay.
CREATE TABLE invitation_terms (
    tenant_id     uuid NOT NULL,
    term          uuid NOT NULL,
    invitation_id uuid NOT NULL,
    PRIMARY KEY (tenant_id, term, invitation_id)
);
CREATE INDEX invitation_terms_invitation ON invitation_terms (tenant_id, invitation_id);

CREATE FUNCTION attribute_terms(attributes jsonb) RETURNS SETOF uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    $$ SELECT DISTINCT md5(key || '=' || CASE jsonb_typeof(value) WHEN 'number' THEN trim_scale((value #>> '{}')::numeric)::text
                                                                  ELSE value #>> '{}' END)::uuid
         FROM jsonb_each(coalesce(attributes, '{}')) WHERE jsonb_typeof(value) IN ('string', 'number', 'boolean') $$;
CREATE FUNCTION follow_attributes() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        DELETE FROM public.invitation_terms t WHERE t.tenant_id = NEW.tenant_id AND t.invitation_id = NEW.id;
    END IF;
    INSERT INTO public.invitation_terms (tenant_id, term, invitation_id)
        SELECT NEW.tenant_id, term, NEW.id FROM public.attribute_terms(NEW.attributes) AS term ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
ALTER FUNCTION attribute_terms(jsonb) OWNER TO chancery_owner;
ALTER FUNCTION follow_attributes() OWNER TO chancery_owner;
CREATE TRIGGER follow_new_attributes AFTER INSERT ON aggregates FOR EACH ROW
    WHEN (NEW.kind = 'invitation' AND NEW.attributes <> '{}') EXECUTE FUNCTION follow_attributes();
CREATE TRIGGER follow_changed_attributes AFTER UPDATE ON aggregates FOR EACH ROW
    WHEN (NEW.kind = 'invitation' AND OLD.attributes IS DISTINCT FROM NEW.attributes) EXECUTE FUNCTION follow_attributes();

ALTER TABLE invitation_terms OWNER TO chancery_owner;
ALTER TABLE invitation_terms ENABLE ROW LEVEL SECURITY;
ALTER TABLE invitation_terms FORCE ROW LEVEL SECURITY;
CREATE POLICY worker ON invitation_terms TO chancery_worker USING (true) WITH CHECK (true);
CREATE POLICY tenant_reads ON invitation_terms FOR SELECT TO chancery_gateway USING (tenant_id = (SELECT current_tenant()));
GRANT SELECT, INSERT, DELETE ON invitation_terms TO chancery_worker;
GRANT SELECT ON invitation_terms TO chancery_gateway;

INSERT INTO invitation_terms (tenant_id, term, invitation_id)
    SELECT a.tenant_id, term, a.id FROM aggregates a, attribute_terms(a.attributes) AS term WHERE a.kind = 'invitation';
DROP INDEX aggregates_attributes;
