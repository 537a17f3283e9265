-- One unique index fewer to keep: the event's id is the key. A row's own id is only a name.
ALTER TABLE audit_log DROP CONSTRAINT audit_log_pkey;
ALTER TABLE audit_log DROP CONSTRAINT audit_log_event_id_key;
ALTER TABLE audit_log ADD PRIMARY KEY (event_id);
