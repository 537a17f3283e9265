-- EVENTS can be ahead of a database that went back: a restored backup, a copy of its files, a fail-over that lost commits. To decide and to
-- consume then would write a second history over the first. So a worker that finds PostgreSQL started anew looks first whether EVENTS has what
-- the table does not know, and notes the start it found well. Until then no worker decides and no consumer has effects.
CREATE TABLE history_checks (
    start      text PRIMARY KEY,
    checked_at timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE history_checks OWNER TO chancery_owner;
GRANT SELECT, INSERT, DELETE ON history_checks TO chancery_worker;

-- What tells one start from the next, and a restored database from what it was a copy of: the start of the server, the database, and the
-- file of a table, because a dump may be restored while the server runs.
CREATE FUNCTION history_start() RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS
    $$ SELECT extract(epoch FROM pg_postmaster_start_time()) || '/' || d.oid || '/' || coalesce(pg_relation_filenode('public.history_checks'), 0)
         FROM pg_database d WHERE d.datname = current_database() $$;
ALTER FUNCTION history_start() OWNER TO chancery_owner;

-- Whether a consumer's connection may be used. A function, so that no role needs to see the table.
CREATE FUNCTION history_is_checked() RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    $$ SELECT EXISTS (SELECT FROM public.history_checks WHERE start = public.history_start()) $$;
ALTER FUNCTION history_is_checked() OWNER TO chancery_owner;

-- Whether EVENTS has everything that the table has: a consumer that begins anew asks, to be fed from the table what it has not.
CREATE FUNCTION events_begin_later(incarnation text) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    $$ SELECT EXISTS (SELECT FROM public.partitions
                       WHERE events_base > 0 OR sequence > 0 AND events_incarnation NOT IN ('', incarnation)) $$;
ALTER FUNCTION events_begin_later(text) OWNER TO chancery_owner;
