"""Which roles of a server a run has made, and that nobody else has used since.

Noted in the journal, as they are made: OID and name of each role, and the transactions of ours that
wrote about it (its attributes, memberships, settings, comments). A role of ours is dropped when all
that is written about it was written by these, and nothing outside our databases depends on it. Any
other is somebody's by now, and stays.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import sql

from invariants.errors import InfrastructureError
from invariants.servers import roles
from invariants.servers.base import connect, database_message

POLL_SECONDS = 0.03

TABLES = """
CREATE TABLE IF NOT EXISTS public.made (token text, oid oid, name text, PRIMARY KEY (token, oid));
CREATE TABLE IF NOT EXISTS public.written (token text, xid text, PRIMARY KEY (token, xid));
"""

# The transactions that wrote what the server knows about some roles.
_WRITERS = """
SELECT xmin::text FROM pg_authid WHERE oid = ANY(%(roles)s)
UNION SELECT xmin::text FROM pg_auth_members
  WHERE roleid = ANY(%(roles)s) OR member = ANY(%(roles)s) OR grantor = ANY(%(roles)s)
UNION SELECT xmin::text FROM pg_db_role_setting WHERE setrole = ANY(%(roles)s)
UNION SELECT xmin::text FROM pg_shdescription
  WHERE classoid = 'pg_authid'::regclass AND objoid = ANY(%(roles)s)
UNION SELECT xmin::text FROM pg_shseclabel
  WHERE classoid = 'pg_authid'::regclass AND objoid = ANY(%(roles)s)
"""
# What of a role was not written by us, in words.
_FOREIGN = """
SELECT 'an object in database ' || d.datname || ' depends on it' FROM pg_shdepend s
  JOIN pg_database d ON d.oid = s.dbid
  WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = %(oid)s
UNION ALL
SELECT 'it has privileges on, or owns, something of the whole server' FROM pg_shdepend s
  WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = %(oid)s AND s.dbid = 0
    AND s.classid <> 'pg_auth_members'::regclass
UNION ALL
SELECT 'somebody has granted ' || m.roleid::regrole || ' to ' || m.member::regrole
  FROM pg_auth_members m
  WHERE %(oid)s IN (m.roleid, m.member, m.grantor) AND m.xmin::text <> ALL(%(written)s)
UNION ALL
SELECT 'somebody has altered it' FROM pg_authid
  WHERE oid = %(oid)s AND xmin::text <> ALL(%(written)s)
UNION ALL
SELECT 'somebody has changed its settings' FROM pg_db_role_setting
  WHERE setrole = %(oid)s AND xmin::text <> ALL(%(written)s)
UNION ALL
SELECT 'somebody has written a comment on it' FROM pg_shdescription
  WHERE classoid = 'pg_authid'::regclass AND objoid = %(oid)s AND xmin::text <> ALL(%(written)s)
"""
# All transactions that have left something in a database's catalog.
_LEFT_BEHIND = """
SELECT xmin::text FROM pg_class UNION SELECT xmin::text FROM pg_proc
UNION SELECT xmin::text FROM pg_namespace UNION SELECT xmin::text FROM pg_attribute
UNION SELECT xmin::text FROM pg_type UNION SELECT xmin::text FROM pg_depend
UNION SELECT xmin::text FROM pg_shdepend
  WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
"""

Journal = psycopg.Connection[Any]


def made(journal: Journal, token: str) -> dict[int, str]:
    """The roles that a run has made so far: names by OID."""
    rows = journal.execute("SELECT oid::bigint, name FROM public.made WHERE token = %s", [token])
    return dict(rows.fetchall())


def note(journal: Journal, token: str, planned: Sequence[str], by: Sequence[str] = ()) -> None:
    """Note the planned roles that are there, and who has written about them, as the run's own.

    Called while the run's migrations are under way, when nobody else is expected to make just
    these. With `by`, only what one of these transactions has written is noted: the proof where the
    run is no more.
    """
    found = journal.execute(
        "SELECT oid::bigint FROM pg_authid WHERE rolname = ANY(%(planned)s)"
        " AND (%(by)s::text[] = '{}' OR xmin::text = ANY(%(by)s))"
        " UNION SELECT oid::bigint FROM public.made WHERE token = %(token)s",
        {"planned": list(planned), "by": list(by), "token": token},
    ).fetchall()
    oids = [oid for (oid,) in found]
    with journal.transaction():
        journal.execute(
            "INSERT INTO public.made SELECT %s, oid, rolname FROM pg_authid WHERE oid = ANY(%s)"
            " ON CONFLICT DO NOTHING",
            [token, oids],
        )
        _note_writers(journal, token, [x for x in _writers(journal, oids) if not by or x in by])


@contextmanager
def noting(conninfo: str, token: str, planned: Sequence[str]) -> Iterator[None]:
    """Note the planned roles as they are made, from a thread; `conninfo` is the journal's."""
    ended = threading.Event()

    def watch() -> None:
        # Should the server go away, whoever migrates says so.
        with suppress(psycopg.Error, InfrastructureError), connect(conninfo) as journal:
            while not ended.wait(POLL_SECONDS):
                note(journal, token, planned)

    if not planned:
        yield
        return
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        with suppress(psycopg.Error, InfrastructureError), connect(conninfo) as journal:
            note(journal, token, planned)


def put_back(
    journal: Journal, token: str, before: roles.RoleSnapshot, names: Sequence[str]
) -> None:
    """Make roles of ours what they were in a snapshot, and note it; no other role is touched."""
    with noted(journal, token):
        roles.restore(journal, before, names)


@contextmanager
def noted(journal: Journal, token: str) -> Iterator[None]:
    """A transaction in which what it makes or changes of roles is noted as ours."""
    with journal.transaction():
        # One snapshot: what differs before the commit is ours, whatever others do meanwhile.
        journal.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        everybody = "SELECT oid::bigint, rolname FROM pg_authid"
        before = dict(journal.execute(everybody).fetchall())
        known = list(made(journal, token))
        written = set(_writers(journal, known))
        yield
        now = dict(journal.execute(everybody).fetchall())
        new = [oid for oid in now if oid not in before]
        for oid in new:
            journal.execute("INSERT INTO public.made VALUES (%s, %s, %s)", [token, oid, now[oid]])
        fresh = set(_writers(journal, [*known, *new])) - written
        _note_writers(journal, token, sorted(fresh))


def transactions_of(conninfo: str) -> list[str]:
    """The transactions that have left something in a database."""
    with connect(conninfo) as connection:
        return [xid for (xid,) in connection.execute(_LEFT_BEHIND.encode()).fetchall()]


def drop_roles(journal: Journal, token: str) -> list[str]:
    """Drop what a run has made of roles, once its databases are gone.

    Returns a line for each that stays, saying why: it is somebody's by now.
    """
    written = [
        xid
        for (xid,) in journal.execute(
            "SELECT xid FROM public.written WHERE token = %s", [token]
        ).fetchall()
    ]
    there = journal.execute(
        "SELECT a.oid::bigint, a.rolname FROM pg_authid a JOIN public.made m USING (oid)"
        " WHERE m.token = %s ORDER BY 2",
        [token],
    ).fetchall()
    stays: list[str] = []
    ours: list[str] = []
    for oid, name in there:
        foreign = journal.execute(_FOREIGN.encode(), {"oid": oid, "written": written}).fetchone()
        if foreign is None:
            ours.append(name)
        else:
            stays.append(f"role {name}, which a run had made, stays: {foreign[0]}")
    try:
        # All in one statement: one may be the grantor of another's membership.
        _drop(journal, ours)
    except psycopg.Error:
        for name in ours:
            try:
                _drop(journal, [name])
            except psycopg.Error as error:
                stays.append(f"role {name}, which a run had made, stays: {database_message(error)}")
    return stays


def _drop(journal: Journal, names: Sequence[str]) -> None:
    if names:
        journal.execute(
            sql.SQL("DROP ROLE {}").format(sql.SQL(", ").join(map(sql.Identifier, names)))
        )


def _writers(journal: Journal, oids: Sequence[int]) -> list[str]:
    found = journal.execute(_WRITERS.encode(), {"roles": list(oids)})
    return [xid for (xid,) in found.fetchall()]


def _note_writers(journal: Journal, token: str, xids: Sequence[str]) -> None:
    journal.execute(
        "INSERT INTO public.written SELECT %s, unnest(%s::text[]) ON CONFLICT DO NOTHING",
        [token, list(xids)],
    )
