-- A comment is seen and made by whoever sees its ticket.
ALTER TABLE comments ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON comments
  USING (EXISTS (SELECT FROM tickets WHERE tickets.id = ticket_id));
