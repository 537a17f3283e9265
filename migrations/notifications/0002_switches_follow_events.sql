-- What a tenant has switched on follows its `tenant.updated`; the sequence tells an older event that comes late.
ALTER TABLE notifications.switches ADD COLUMN sequence bigint NOT NULL DEFAULT 0;
