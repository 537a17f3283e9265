-- What operators do about dead letters: events are let be tried anew (redriven) or given up for good (discarded), and who did it stays known.
ALTER TABLE consumer_parked ADD COLUMN redrives integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN consumer_parked.redrives IS 'How often an operator has let it be tried anew after it was given up.';

-- One row for each letter that somebody has dealt with. Nobody may change or remove one.
CREATE TABLE deadletter_actions (
    n         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    acted_at  timestamptz NOT NULL DEFAULT now(),
    actor     text NOT NULL,
    action    text NOT NULL CHECK (action IN ('redrive', 'discard')),
    reason    text CHECK (action = 'redrive' OR coalesce(reason, '') <> ''),
    consumer  text NOT NULL,
    letter    bigint NOT NULL,
    event_id  uuid,
    type      text NOT NULL,
    tenant_id uuid,
    -- How often it had been tried anew before.
    redrives  integer NOT NULL
);
CREATE INDEX deadletter_actions_event ON deadletter_actions (event_id) WHERE event_id IS NOT NULL;
ALTER TABLE deadletter_actions OWNER TO chancery_owner;
ALTER TABLE deadletter_actions ENABLE ROW LEVEL SECURITY;
ALTER TABLE deadletter_actions FORCE ROW LEVEL SECURITY;
CREATE POLICY operators ON deadletter_actions TO chancery_gateway USING ((SELECT is_operator())) WITH CHECK ((SELECT is_operator()));
GRANT SELECT, INSERT ON deadletter_actions TO chancery_gateway;

-- The queue behind a letter of a consumer in order, for platform operators. The gateway itself sees the rows of one tenant, and changes none:
-- these functions do it, with the rights of the tables' owner, and for one event each.
ALTER POLICY own_rows ON consumer_parked
    USING (consumer = (SELECT replace(substr(current_user, length('chancery_') + 1), '_', '-'))
           OR (SELECT current_user IN ('chancery_gateway', 'chancery_worker', 'chancery_owner')));
CREATE POLICY operators ON consumer_parked TO chancery_owner USING ((SELECT is_operator())) WITH CHECK ((SELECT is_operator()));

-- The event of a letter in its queue: by its place (0 where it has none) and by its id, where that can be read.
CREATE FUNCTION parked_letter(of_consumer text, at_place bigint, of_event uuid)
    RETURNS TABLE (place bigint, aggregate text, dead boolean, attempts integer, redrives integer)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    $$ SELECT k.stream_sequence, k.aggregate, k.dead, k.attempts, k.redrives FROM public.consumer_parked k
        WHERE k.consumer = of_consumer AND (at_place <> 0 OR of_event IS NOT NULL)
          AND (at_place = 0 OR k.stream_sequence = at_place) AND (of_event IS NULL OR k.envelope ->> 'id' = 'evt_' || of_event)
        ORDER BY k.stream_sequence LIMIT 1 $$;
-- What waits behind it, the first of them, and how many there are.
CREATE FUNCTION parked_behind(of_consumer text, of_aggregate text, after_place bigint, most integer)
    RETURNS TABLE (total bigint, event text, type text, sequence bigint)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    $$ SELECT count(*) OVER (), k.envelope ->> 'id', k.envelope ->> 'type', (k.envelope ->> 'sequence')::bigint FROM public.consumer_parked k
        WHERE k.consumer = of_consumer AND k.aggregate = of_aggregate AND k.stream_sequence > after_place
        ORDER BY k.stream_sequence LIMIT most $$;
-- Both only if it is still as the letter says: given up, and as often redriven.
CREATE FUNCTION redrive_parked(of_consumer text, at_place bigint, redriven integer) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    $$ UPDATE public.consumer_parked SET dead = false, attempts = 0, next_at = now(), redrives = redrives + 1
        WHERE consumer = of_consumer AND stream_sequence = at_place AND dead AND redrives = redriven RETURNING true $$;
CREATE FUNCTION discard_parked(of_consumer text, at_place bigint, redriven integer) RETURNS boolean
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS
    $$ DELETE FROM public.consumer_parked
        WHERE consumer = of_consumer AND stream_sequence = at_place AND dead AND redrives = redriven RETURNING true $$;
DO $$
DECLARE f text;
BEGIN
    FOREACH f IN ARRAY ARRAY['parked_letter(text, bigint, uuid)', 'parked_behind(text, text, bigint, integer)',
                             'redrive_parked(text, bigint, integer)', 'discard_parked(text, bigint, integer)'] LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO chancery_owner', f);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM public', f);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO chancery_gateway', f);
    END LOOP;
END $$;
