"""The hardened chain itself: there and back, on data, by both kinds of migrator."""

import io
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import pytest
from alembic import command

from invariants.schema.difference import catalog_difference
from tests.database.hardened import (
    MATERIALIZED_VIEWS,
    MIGRATORS,
    A,
    B,
    Templates,
    acting,
    hardening,
    rows,
)
from tests.databases import (
    DOCUMENTED_HEAD,
    TENANT_SCOPED_TABLES,
    Database,
    MakeDatabase,
    config,
    plain_owner,
)


def test_the_chain_goes_there_and_back_and_there(
    documented: Database, make_database: MakeDatabase
) -> None:
    below, kept = documented.fingerprint(), rows(documented)
    documented.upgrade("head")
    above = documented.fingerprint()
    assert documented.revision() == hardening()[-1]
    assert rows(documented) == kept
    documented.downgrade(DOCUMENTED_HEAD)
    assert catalog_difference(below, documented.fingerprint()) == []
    assert rows(documented) == kept
    documented.upgrade("head")
    assert catalog_difference(above, documented.fingerprint()) == []
    assert rows(documented) == kept

    empty = make_database(documented.migrator)
    empty.upgrade("baseline")
    documented.downgrade("base")
    assert catalog_difference(empty.fingerprint(), documented.fingerprint()) == []
    documented.upgrade("head")
    assert catalog_difference(above, documented.fingerprint()) == []


def test_every_revision_can_be_undone_and_repeated_on_data(documented: Database) -> None:
    kept = rows(documented)
    for before, revision in pairwise(hardening()):
        below = documented.fingerprint()
        documented.upgrade(revision)
        above = documented.fingerprint()
        assert catalog_difference(below, above) != []
        documented.downgrade(before)
        assert catalog_difference(below, documented.fingerprint()) == [], f"down from {revision}"
        assert rows(documented) == kept, f"down from {revision}"
        documented.upgrade(revision)
        assert catalog_difference(above, documented.fingerprint()) == [], f"up to {revision} again"
        assert rows(documented) == kept, f"up to {revision} again"


def test_both_migrators_make_the_same_catalog_but_for_the_owner_and_what_it_reads(
    templates_of: Callable[[str], Templates],
) -> None:
    as_superuser = templates_of("superuser").hardened
    as_owner = templates_of("migration_owner").hardened
    superuser = str(as_superuser.execute("SELECT current_user")[0][0])

    def anonymous(database: Database, owner: str) -> dict[str, str]:
        return {
            key: re.sub(rf"(?m)^(owner |)\b{owner}$|(?<= by ){owner}$", r"\1OWNER", value)
            for key, value in database.fingerprint().items()
        }

    def of_others(fingerprint: dict[str, str], owner: str) -> dict[str, str]:
        """Without the privileges of the owner, and of migration_owner, which may be the owner."""
        mine = re.compile(rf"({owner}|migration_owner): .*")
        return {
            key: "\n".join(line for line in value.splitlines() if not mine.fullmatch(line))
            if key.startswith("privileges")
            else value
            for key, value in fingerprint.items()
        }

    by_superuser = anonymous(as_superuser, superuser)
    by_owner = anonymous(as_owner, "migration_owner")
    read_by_owner = sorted(set(TENANT_SCOPED_TABLES) - {"dead_events"})
    assert catalog_difference(
        of_others(by_superuser, superuser), of_others(by_owner, "migration_owner")
    ) == [
        *(f"added: comment policy owner_reads_policy on public.{t}" for t in read_by_owner),
        *(f"added: policy public.{table}.owner_reads_policy" for table in read_by_owner),
    ]
    granted = {
        key: line
        for key, value in by_superuser.items()
        if key.startswith("privileges")
        for line in value.splitlines()
        if line.startswith("migration_owner: ")
    }
    assert granted == {
        "privileges relation public.attribution_allocations": (
            "migration_owner: TRUNCATE by OWNER"
        ),
        "privileges relation public.attribution_events": (
            "migration_owner: DELETE, SELECT, TRUNCATE, UPDATE by OWNER"
        ),
        "privileges relation public.revenue_ledger": (
            "migration_owner: DELETE, SELECT, TRUNCATE, UPDATE by OWNER"
        ),
        "privileges relation public.tenants": "migration_owner: DELETE, SELECT by OWNER",
    }


OWNERS = (
    "SELECT c.relname, pg_get_userbyid(c.relowner) FROM pg_class c"
    " WHERE c.relkind = 'm' AND c.relnamespace = 'public'::regnamespace ORDER BY 1"
)


@contextmanager
def member_of_the_superuser(database: Database) -> Iterator[None]:
    """migration_owner may do what the superuser may as an owner, and is still no superuser."""
    superuser = str(database.execute("SELECT quote_ident(current_user)")[0][0])
    database.execute(f"GRANT {superuser} TO migration_owner")
    try:
        yield
    finally:
        database.execute(f"REVOKE {superuser} FROM migration_owner")


@pytest.mark.parametrize("migrator", MIGRATORS)
def test_another_migrator_hardens_what_the_first_one_owns(
    server_url: str,
    make_database: MakeDatabase,
    templates_of: Callable[[str], Templates],
    migrator: str,
) -> None:
    first = templates_of(migrator).documented
    name = make_database(first.migrator, template=first.name).name
    plain_owner(server_url)
    other = Database(server_url, name, None if first.migrator else "migration_owner")
    with ExitStack() as stack:
        if other.migrator is not None:
            stack.enter_context(member_of_the_superuser(other))
        below, kept, owners = other.fingerprint(), rows(other), other.execute(OWNERS)
        other.upgrade("head")
        above = other.fingerprint()
        refreshes_show_both_tenants(other)
        assert other.execute(OWNERS) == owners
        other.downgrade(DOCUMENTED_HEAD)
        assert catalog_difference(below, other.fingerprint()) == []
        other.upgrade("head")
        assert catalog_difference(above, other.fingerprint()) == []
        assert rows(other) == kept
    refreshes_show_both_tenants(other)
    policies = {key for key in above if key.endswith(".owner_reads_policy")}
    assert len(policies) == (0 if first.migrator is None else 4)


def test_another_migrator_takes_back_what_the_owner_hardened(
    server_url: str, make_database: MakeDatabase, templates_of: Callable[[str], Templates]
) -> None:
    templates = templates_of("migration_owner")
    name = make_database("migration_owner", template=templates.hardened.name).name
    other = Database(server_url, name)
    other.downgrade(DOCUMENTED_HEAD)
    assert catalog_difference(templates.documented.fingerprint(), other.fingerprint()) == []


def refreshes_show_both_tenants(database: Database) -> None:
    with acting(database, role=None, tenant=None) as session:
        for view in MATERIALIZED_VIEWS:
            session.run(f"REFRESH MATERIALIZED VIEW {view}")
            shown = session.run(f"SELECT DISTINCT tenant_id::text FROM {view} ORDER BY 1")
            assert shown == [(A,), (B,)], view


def test_the_printed_sql_makes_the_same_catalog(
    templates: Templates, documented: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)

    def run_printed(migrate: Callable[..., None], revisions: str) -> None:
        printed = io.StringIO()
        migrate(config(output=printed), revisions, sql=True)
        with documented.connect_as_migrator() as conn:
            conn.autocommit = True
            conn.execute(printed.getvalue().encode())

    kept = rows(documented)
    run_printed(command.upgrade, f"{DOCUMENTED_HEAD}:head")
    assert documented.revision() == hardening()[-1]
    assert catalog_difference(templates.hardened.fingerprint(), documented.fingerprint()) == []
    run_printed(command.downgrade, f"head:{DOCUMENTED_HEAD}")
    assert documented.revision() == DOCUMENTED_HEAD
    assert catalog_difference(templates.documented.fingerprint(), documented.fingerprint()) == []
    assert rows(documented) == kept


def test_a_migration_by_database_url_does_not_wait_forever(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = make_database()
    database.execute("""
        CREATE SCHEMA seen
            CREATE TABLE timeouts (lock_timeout text, statement_timeout text);
        CREATE FUNCTION seen.note() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen.timeouts
            VALUES (current_setting('lock_timeout'), current_setting('statement_timeout'));
        END $$;
        CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION seen.note();
    """)
    monkeypatch.setenv("DATABASE_URL", database.url())
    command.upgrade(config(), "head")
    assert database.execute("SELECT DISTINCT * FROM seen.timeouts") == [("30s", "5min")]


def test_what_the_hardening_adds_carries_a_comment(templates: Templates) -> None:
    below, above = templates.documented.fingerprint(), templates.hardened.fingerprint()
    added = [key.split(" ", 1) for key in above.keys() - below.keys()]
    commented = set()
    for kind, name in added:
        relation, _, part = name.rpartition(".")
        if kind in ("function", "view"):
            # A comment names the function by the types of its arguments alone.
            typed = re.sub(r"[a-z]+ ([a-z]+[,)])", r"pg_catalog.\1", name)
            commented.add(f"comment {kind} {typed}")
        elif kind in ("trigger", "policy"):
            commented.add(f"comment {kind} {part} on {relation}")
        elif kind == "constraint" and part.startswith(("ck_", "fk_", "uq_")):
            commented.add(f"comment table constraint {part} on {relation}")
        elif kind == "column" and not relation.startswith("public.v_"):
            commented.add(f"comment table column {name}")
    assert len(commented) > 20
    assert sorted(commented - above.keys()) == []
    for table in TENANT_SCOPED_TABLES:
        assert f"comment policy tenant_isolation_policy on public.{table}" in above


def test_what_was_there_keeps_its_comment(templates: Templates) -> None:
    below, above = templates.documented.fingerprint(), templates.hardened.fingerprint()
    lost = {key for key in below.keys() - above.keys() if key.startswith("comment ")}
    assert lost == set()
