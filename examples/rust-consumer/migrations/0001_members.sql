-- Runs once, with the consumer's own schema as its search path.
CREATE TABLE members (
    tenant_id uuid NOT NULL,
    user_id uuid NOT NULL,
    email text NOT NULL,
    PRIMARY KEY (tenant_id, user_id)
);
