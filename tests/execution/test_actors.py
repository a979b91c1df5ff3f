"""Who acts for a role in a workload is a login: resetting the role in a function gains nothing.

What the schema itself opens to the role is found all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
import pytest

from invariants.checks import INVARIANTS
from invariants.contract.contract import Contract
from invariants.errors import InfrastructureError
from invariants.execution.executor import Executor
from invariants.search.judge import Judge
from invariants.servers.environment import Environment
from invariants.workload.operations import Call, Operation, Workload
from tests.engine import A, B, Lab, altered, at_once, event, of, transaction, workload

ROLE_RESETS = (
    "RESET ROLE",
    "SET ROLE NONE",
    "SELECT set_config('role', 'none', true)",
    "SELECT set_config('role', 'none', false)",
    "SET ROLE postgres",
)
RESETS = (
    *ROLE_RESETS,
    "RESET SESSION AUTHORIZATION",
    "SET SESSION AUTHORIZATION DEFAULT",
    "SET SESSION AUTHORIZATION postgres",
)


def trying(resets: Sequence[str]) -> str:
    """Do what one can to be somebody else, whatever is refused."""
    return "".join(
        f" BEGIN EXECUTE $q${statement}$q$; EXCEPTION WHEN OTHERS THEN NULL; END;"
        for statement in resets
    )


def peek(resets: Sequence[str]) -> str:
    """A function that shows the events that it can see once it has tried all that."""
    return (
        "CREATE FUNCTION peek() RETURNS SETOF attribution_events LANGUAGE plpgsql AS $f$ BEGIN"
        f"{trying(resets)} RETURN QUERY SELECT * FROM attribution_events; END $f$"
    )


# Every scratch database is changed so, and the roles are the server's.
BOSS = """
    DO $$ BEGIN CREATE ROLE boss BYPASSRLS; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
    GRANT SELECT ON attribution_events TO boss
"""
BECOMES_BOSS = """
    CREATE FUNCTION peek() RETURNS SETOF attribution_events LANGUAGE plpgsql AS $f$ BEGIN
    EXECUTE 'SET ROLE boss'; RETURN QUERY SELECT * FROM attribution_events; END $f$
"""
OF_BOSS = """
    CREATE FUNCTION peek() RETURNS SETOF attribution_events LANGUAGE sql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp AS 'SELECT * FROM public.attribution_events';
    ALTER FUNCTION peek() OWNER TO boss
"""
# Two tenants with a row each, and a look by one of them.
LOOKING = workload(of(A, event(1)), of(B, event(2, B)), of(A, Call("peek")))


@contextmanager
def judging(head: Environment, contract: Contract, *changes: str) -> Iterator[Judge]:
    with altered(head, *changes) as environment, Judge(environment, contract) as judge:
        yield judge


def leaks(judge: Judge, shown: Workload = LOOKING) -> list[str]:
    case, violations = judge.violations(INVARIANTS["cross-tenant"], shown)
    assert all(step.committed for step in case.history.steps)
    return sorted({str(v.signature) for v in violations})


def seen(judge: Judge, *operations: Operation) -> list[tuple[str, ...]]:
    """What the last operation was answered."""
    step = judge.executor("").run(workload(*operations)).steps[-1]
    assert step.error is None
    return [tuple((v or b"").decode() for v in row) for row in step.answers[-1].rows]


def test_who_resets_its_role_is_its_login(head: Environment, contract: Contract) -> None:
    who = f"""
        CREATE FUNCTION who() RETURNS TABLE (session text, now text, superuser text, owned bigint,
            member text) LANGUAGE plpgsql AS $f$ BEGIN {trying(RESETS)}
        RETURN QUERY SELECT session_user::text, current_user::text, current_setting('is_superuser'),
            (SELECT count(*) FROM pg_shdepend d JOIN pg_roles r ON r.oid = d.refobjid
             WHERE r.rolname = session_user AND d.deptype = 'o'),
            (SELECT string_agg(roleid::regrole::text, ' ') FROM pg_auth_members m
             JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = session_user); END $f$
    """
    with judging(head, contract, who) as judge:
        for role in contract.roles:
            (row,) = seen(judge, of(A, Call("who"), role=role))
            assert row == (f"invariants_as_{role}",) * 2 + ("off", "0", role)
            (unset,) = seen(judge, of(None, Call("who"), role=role))
            assert unset == row


def test_a_function_that_resets_the_role_gains_nothing(
    head: Environment, contract: Contract
) -> None:
    with judging(head, contract, peek(RESETS)) as judge:
        assert leaks(judge) == []
        assert len(seen(judge, *LOOKING.operations)) == 1


def test_nor_does_one_side_by_side_with_others(head: Environment, contract: Contract) -> None:
    shown = at_once(
        workload(of(A, event(1)), of(B, event(2, B))),
        (transaction(of(A, Call("peek"))),),
        (transaction(of(B, Call("peek"))),),
        schedule="1212",
    )
    with judging(head, contract, peek(RESETS)) as judge:
        history = judge.executor("").run(shown)
        assert [len(s.answers[-1].rows) for s in history.steps[-2:]] == [1, 1]


@pytest.mark.parametrize("timing", ["BEFORE", "AFTER"])
def test_head_stays_lawful_with_a_trigger_that_resets_the_role(
    head: Environment, contract: Contract, timing: str
) -> None:
    trigger = (
        f"CREATE FUNCTION resets() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {trying(RESETS)}"
        " RETURN NEW; END $f$",
        f"CREATE TRIGGER resets {timing} INSERT ON attribution_events FOR EACH ROW"
        " EXECUTE FUNCTION resets()",
    )
    shown = workload(of(A, event(1)), of(B, event(2, B)), of(A, event(1)), of(A, event(3)))
    with judging(head, contract, *trigger) as judge:
        for name in ("cross-tenant", "append-only", "idempotent-ingest", "liveness"):
            _, violations = judge.violations(INVARIANTS[name], shown)
            assert [str(v.signature) for v in violations] == [], name


@pytest.mark.parametrize(
    "opened",
    [
        (BOSS, "GRANT boss TO app_rw", BECOMES_BOSS),
        (BOSS, OF_BOSS),
        # Not the role itself: what it is a member of.
        (BOSS, "CREATE ROLE team", "GRANT boss TO team", "GRANT team TO app_rw", BECOMES_BOSS),
    ],
    ids=["membership", "definer", "membership-of-a-group"],
)
def test_what_the_schema_opens_to_the_role_is_found(
    head: Environment, contract: Contract, opened: tuple[str, ...]
) -> None:
    with judging(head, contract, *opened) as judge:
        assert leaks(judge) == ["cross-tenant/call/peek/function"]


def test_psql_alone_agrees(head_lab: Lab) -> None:
    """It acts in the session of a superuser, to whom no reset of the role leads either."""
    broken = f"{BOSS}; GRANT boss TO app_rw; {BECOMES_BOSS}"
    found = head_lab.tells_apart("cross-tenant", LOOKING, broken=broken, mended=peek(ROLE_RESETS))
    assert found.keys() == {"call/peek/function"}


def test_a_role_that_stays_set_is_not_in_the_way(head: Environment, contract: Contract) -> None:
    """It stays in that session, as in a pool of connections; the rows are read all the same."""
    stays = """
        CREATE FUNCTION stay() RETURNS text LANGUAGE plpgsql AS $f$ BEGIN
        EXECUTE 'SET ROLE app_ro'; RETURN current_user; END $f$
    """
    with judging(head, contract, "GRANT app_ro TO app_rw", stays) as judge:
        shown = workload(of(A, event(1)), of(A, Call("stay"), event(2)), of(A, Call("stay")))
        history = judge.executor("").run(workload(*shown.operations, of(A, event(3))))
        assert [s.committed for s in history.steps] == [True, False, True, True]
        assert len(history.final.rows("attribution_events")) == 2


def test_the_rows_of_all_are_read_by_nobody_but_us(head: Environment, contract: Contract) -> None:
    """Not by the role that a login acts for, whatever default privileges the schema has."""
    opened = (
        "ALTER DEFAULT PRIVILEGES GRANT USAGE ON SCHEMAS TO app_rw",
        "ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO app_rw",
    )
    with judging(head, contract, *opened) as judge:
        executor = judge.executor("")
        executor.run(workload(of(A, event(1))))
        with psycopg.connect(executor.conninfo) as connection:
            found = connection.execute(
                "SELECT r.rolname FROM pg_roles r, pg_proc p"
                " JOIN pg_namespace n ON n.oid = p.pronamespace"
                " WHERE p.proname = 'committed' AND n.nspname ~ '^invariants_' AND NOT r.rolsuper"
                " AND r.rolname !~ '^pg_'"
                " AND (has_schema_privilege(r.rolname, n.oid, 'USAGE')"
                "      OR has_function_privilege(r.rolname, p.oid, 'EXECUTE'))"
            ).fetchall()
        assert found == [("invariants_as_app_rw",)]


def test_a_database_that_lets_few_connect(head: Environment, contract: Contract) -> None:
    """A role acts for which nobody could log in: SET ROLE needs no CONNECT, a login does."""
    with altered(head) as environment, Judge(environment, contract) as judge:
        executor = judge.executor("")
        with psycopg.connect(executor.conninfo, autocommit=True) as connection:
            connection.execute(
                "DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM PUBLIC',"
                " current_database()); END $$"
            )
        history = executor.run(workload(of(A, event(1))))
        assert [s.error for s in history.steps] == [None]


def test_a_schema_without_its_language(head: Environment, contract: Contract) -> None:
    with altered(head) as environment:
        scratch = environment.scratch()
        with psycopg.connect(scratch.conninfo, autocommit=True) as connection:
            connection.execute("DROP EXTENSION plpgsql CASCADE")
        with Judge(environment, contract) as judge:
            catalog = judge.catalog
        with Executor(scratch.conninfo, contract, catalog, scratch.login) as executor:
            assert executor.run(workload(of(A, event(1)))).final.rows("attribution_events")


def test_what_keeps_us_from_reading_is_told(head: Environment, contract: Contract) -> None:
    scratch = head.scratch()
    with Judge(head, contract) as judge:
        catalog = judge.catalog
    with psycopg.connect(scratch.conninfo, autocommit=True) as connection:
        connection.execute("DROP TABLE dead_events CASCADE")
    with pytest.raises(InfrastructureError, match="the committed rows cannot be read: "):
        Executor(scratch.conninfo, contract, catalog, scratch.login)
    scratch.drop()
