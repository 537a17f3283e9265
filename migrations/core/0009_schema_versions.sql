-- Which version the tables of each owner have, and the oldest version that a program must know to work on them: what every program looks at
-- before it begins and while it runs. `chancery migrate` writes it from the files of `migrations/<owner>/`.
CREATE TABLE schema_versions (
    owner   text PRIMARY KEY,
    version integer NOT NULL,
    oldest  integer NOT NULL CHECK (oldest BETWEEN 0 AND version)
);
ALTER TABLE schema_versions OWNER TO chancery_owner;

-- Every role looks, those that come later too: a right of their own is in their own migration.
DO $$
DECLARE r text;
BEGIN
    FOR r IN SELECT rolname FROM pg_roles WHERE rolname LIKE 'chancery\_%' AND rolname <> 'chancery_owner' LOOP
        EXECUTE format('GRANT SELECT ON schema_versions TO %I', r);
    END LOOP;
END $$;
