-- A small help desk: firms, their tickets, and what is said about each ticket.
DO $$ BEGIN CREATE ROLE helpdesk_app NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
CREATE TABLE firms (id uuid PRIMARY KEY, name text NOT NULL);
CREATE TABLE tickets (
  id uuid PRIMARY KEY,
  firm_id uuid NOT NULL REFERENCES firms,
  subject text NOT NULL,
  state text NOT NULL CHECK (state IN ('open', 'closed'))
);
CREATE TABLE comments (
  id uuid PRIMARY KEY,
  ticket_id uuid NOT NULL REFERENCES tickets,
  body text NOT NULL
);
ALTER TABLE tickets ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON tickets
  USING (firm_id = nullif(current_setting('helpdesk.firm', true), '')::uuid);
GRANT SELECT, INSERT, UPDATE ON tickets TO helpdesk_app;
GRANT SELECT, INSERT ON comments TO helpdesk_app;
