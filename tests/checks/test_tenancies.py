"""Every way to say whose a row is: a leak is found, and the same schema without it holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from invariants.front.cli import main

VERBS = '["select", "insert", "update", "delete"]'
ROLES = """
DO $$ BEGIN CREATE ROLE web NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE firm_acme NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
DO $$ BEGIN CREATE ROLE firm_bolt NOLOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
"""
FIRMS = "CREATE TABLE firms (id uuid PRIMARY KEY, name text);"
DEALS = """
CREATE TABLE deals (id uuid PRIMARY KEY, firm_id uuid NOT NULL REFERENCES firms ON DELETE CASCADE,
  note text);
"""
GUARDED = """
ALTER TABLE deals ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON deals USING ({});
GRANT SELECT, INSERT, UPDATE, DELETE ON deals TO web;
"""
TENANCY = '[tenancy]\nroot = "firms"\ncolumn = "firm_id"\n'
WEB = f"[roles.web]\ndeals = {VERBS}\n"
MEMBERSHIPS = (
    FIRMS
    + DEALS
    + """
CREATE TABLE people (id bigint PRIMARY KEY);
CREATE TABLE seats (firm_id uuid NOT NULL REFERENCES firms ON DELETE CASCADE,
  person bigint NOT NULL REFERENCES people, PRIMARY KEY (firm_id, person));
CREATE FUNCTION my_firms() RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER
  SET search_path = public, pg_temp
  AS $$ SELECT firm_id FROM seats
    WHERE person = nullif(current_setting('my.id', true), '')::bigint $$;
"""
    + GUARDED
)
PLACES = (
    FIRMS
    + """
CREATE TABLE sites (id integer PRIMARY KEY, firm_id uuid NOT NULL REFERENCES firms);
CREATE TABLE deals (id uuid PRIMARY KEY, firm_id uuid NOT NULL REFERENCES firms,
  site_id integer NOT NULL REFERENCES sites, note text);
"""
    + GUARDED
)
PARTS = (
    FIRMS
    + DEALS
    + GUARDED.format("firm_id = current_setting('my.firm')::uuid")
    + """
CREATE TABLE parts (deal_id uuid NOT NULL REFERENCES deals ON DELETE CASCADE, number integer,
  PRIMARY KEY (deal_id, number));
ALTER TABLE parts ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON parts USING ({});
GRANT SELECT, INSERT, UPDATE, DELETE ON parts TO web;
"""
)
OF_FIRM = "firm_id = nullif(current_setting('my.firm', true), '')::uuid"
IN_CLAIMS = "(nullif(current_setting('my.claims', true), '')::json ->> 'firm')::integer"
NUMBERED = """
CREATE TABLE firms (id integer PRIMARY KEY, name text);
CREATE TABLE deals (id uuid PRIMARY KEY, firm_id integer NOT NULL REFERENCES firms, note text);
"""

# By name: the schema with a place for a policy, the contract, a policy that holds, and the leak.
SHAPES = {
    "claims": (
        NUMBERED + GUARDED,
        TENANCY
        + """session = { "my.claims" = '{"firm": {tenant}}' }\ntables = ["deals"]\n"""
        + WEB,
        f"firm_id = {IN_CLAIMS}",
        "select/deals",
    ),
    "members": (
        MEMBERSHIPS,
        TENANCY
        + 'session = { "my.id" = "{user}" }\nshared = ["people"]\ntables = ["deals", "seats"]\n'
        + 'members = { table = "seats", user = "person", tenant = "firm_id" }\n'
        + WEB,
        "firm_id IN (SELECT my_firms())",
        "select/deals",
    ),
    "members of a rank": (
        MEMBERSHIPS.replace(
            "PRIMARY KEY (firm_id, person)",
            "rank text NOT NULL DEFAULT 'guest' CHECK (rank IN ('guest', 'clerk', 'chief')),"
            " PRIMARY KEY (firm_id, person)",
        ).replace("::bigint $$", "::bigint AND rank IN ('clerk', 'chief') $$"),
        TENANCY
        + 'session = { "my.id" = "{user}" }\nshared = ["people"]\ntables = ["deals", "seats"]\n'
        + 'members = { table = "seats", user = "person", tenant = "firm_id" }\n'
        + WEB,
        "firm_id IN (SELECT my_firms())",
        "select/deals",
    ),
    "no root": (
        "CREATE TABLE deals (id uuid PRIMARY KEY, firm_id text NOT NULL, note text);" + GUARDED,
        '[tenancy]\ncolumn = "firm_id"\nsetting = "my.firm"\ntables = ["deals"]\n' + WEB,
        "firm_id = nullif(current_setting('my.firm', true), '')",
        "select/deals",
    ),
    "texts cast": (
        "CREATE TABLE firms (id text PRIMARY KEY); CREATE TABLE deals (id uuid PRIMARY KEY,"
        " firm_id text NOT NULL REFERENCES firms, note text);" + GUARDED,
        TENANCY + 'setting = "my.firm"\ntables = ["deals"]\n' + WEB,
        "firm_id::uuid = nullif(current_setting('my.firm', true), '')::uuid",
        "select/deals",
    ),
    "texts of a shape": (
        "CREATE TABLE firms (id text PRIMARY KEY CHECK (id ~ '^[a-z]+-[0-9]+$'));"
        "CREATE TABLE deals (id uuid PRIMARY KEY, firm_id text NOT NULL REFERENCES firms,"
        " note text);" + GUARDED,
        TENANCY + 'setting = "my.firm"\ntables = ["deals"]\n' + WEB,
        "firm_id = nullif(current_setting('my.firm', true), '')",
        "select/deals",
    ),
    "texts without room": (
        "CREATE TABLE firms (id text PRIMARY KEY CHECK (length(id) < 9));"
        "CREATE TABLE deals (id uuid PRIMARY KEY, firm_id text NOT NULL REFERENCES firms,"
        " note text);" + GUARDED,
        TENANCY + 'setting = "my.firm"\ntables = ["deals"]\n' + WEB,
        "firm_id = nullif(current_setting('my.firm', true), '')",
        "select/deals",
    ),
    "numbers counted always": (
        NUMBERED.replace("integer PRIMARY", "integer GENERATED ALWAYS AS IDENTITY PRIMARY")
        + GUARDED,
        TENANCY + 'setting = "my.firm"\ntables = ["deals"]\n' + WEB,
        "firm_id = nullif(current_setting('my.firm', true), '')::integer",
        "select/deals",
    ),
    "numbers of any size": (
        NUMBERED.replace("integer", "numeric(12, 0)") + GUARDED,
        TENANCY + 'setting = "my.firm"\ntables = ["deals"]\n' + WEB,
        "firm_id = nullif(current_setting('my.firm', true), '')::numeric",
        "select/deals",
    ),
    "texts filled up": (
        NUMBERED.replace("integer", "character(3)") + GUARDED,
        TENANCY + 'setting = "my.firm"\ntables = ["deals"]\n' + WEB,
        "firm_id = nullif(current_setting('my.firm', true), '')",
        "select/deals",
    ),
    "owners": (
        "CREATE TABLE people (id uuid PRIMARY KEY); CREATE TABLE firms (id uuid PRIMARY KEY,"
        " owner_id uuid NOT NULL REFERENCES people);"
        "CREATE TABLE deals (id uuid PRIMARY KEY, firm_id uuid NOT NULL REFERENCES firms);"
        + GUARDED,
        TENANCY + 'setting = "my.firm"\ntables = ["deals"]\nshared = ["people"]\n' + WEB,
        OF_FIRM,
        "select/deals",
    ),
    "shared and written": (
        "CREATE TABLE firms (id uuid PRIMARY KEY); CREATE TABLE labels (id uuid PRIMARY KEY,"
        " name text NOT NULL UNIQUE); CREATE TABLE deals (id uuid PRIMARY KEY,"
        " firm_id uuid NOT NULL REFERENCES firms, label_id uuid REFERENCES labels);"
        + GUARDED
        + "GRANT SELECT, INSERT, UPDATE, DELETE ON labels TO web;",
        TENANCY
        + 'setting = "my.firm"\ntables = ["deals"]\nshared = ["labels"]\n'
        + WEB
        + f"labels = {VERBS}\n",
        OF_FIRM,
        "select/deals",
    ),
    "parents": (
        PARTS,
        TENANCY
        + 'setting = "my.firm"\ntables = ["deals"]\nscoped_by = { parts = "deal_id" }\n'
        + WEB
        + f"parts = {VERBS}\n",
        "EXISTS (SELECT FROM deals d WHERE d.id = deal_id)",
        "select/parts",
    ),
    "places": (
        PLACES,
        TENANCY
        + 'setting = "my.firm"\ntables = ["deals", "sites"]\n'
        + 'within = [{ column = "site_id", root = "sites", session = { "my.site" = "{site}" } }]\n'
        + WEB,
        f"{OF_FIRM} AND site_id = nullif(current_setting('my.site', true), '')::integer",
        "select/deals",
    ),
    "roles": (
        "CREATE TABLE deals (id uuid PRIMARY KEY, firm text NOT NULL, note text);"
        + GUARDED.replace("TO web", "TO firm_acme, firm_bolt"),
        '[tenancy]\ncolumn = "firm"\nsession = { role = "firm_{tenant}" }\ntables = ["deals"]\n'
        + f"[roles.firm_acme]\ndeals = {VERBS}\n[roles.firm_bolt]\ndeals = {VERBS}\n",
        "firm = substr(current_user, 6)",
        "select/deals",
    ),
}
# What each shape leaks where a policy says less; the firm alone where there are places within it.
LEAKS = dict.fromkeys(SHAPES, "true") | {"places": OF_FIRM}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("leaks", [False, True], ids=["holds", "leaks"])
def test_a_row_is_its_tenants_alone(
    shape: str,
    leaks: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    schema, contract, policy, found = SHAPES[shape]
    monkeypatch.chdir(tmp_path)
    Path("schema.sql").write_text(ROLES + schema.format(LEAKS[shape] if leaks else policy))
    accepted = '[[accepted]]\nchannel = "primary-key-collision"\nreason = "drawn by lot"\n'
    Path("invariants.toml").write_text(f"format = 1\n{contract}{accepted}")
    arguments = ["run", "--schema", "schema.sql", "--server", "embedded", "--seed", "1"]
    invariants = ["--invariant", "cross-tenant", "--invariant", "liveness"]
    status = main([*arguments, *invariants, "--max-examples", "40", "--sessions", "0"])
    told, complaint = capsys.readouterr()
    assert status == (1 if leaks else 0), told + complaint
    assert (f"VIOLATED cross-tenant/{found}/own" in told) is leaks
