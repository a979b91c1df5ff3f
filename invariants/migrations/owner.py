"""owner: the plain owner of the database, under forced policies, comes to the same as a superuser.

Policies hide rows from whoever is no superuser, and a backfill that sees none succeeds.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from invariants.errors import InfrastructureError, MigrationFailed
from invariants.migrations import rows
from invariants.migrations.finding import Finding
from invariants.migrations.shelf import LOADED
from invariants.migrations.stage import Stage, cause_of, failed_for_good, snapshot
from invariants.servers.base import connect, database_message
from invariants.servers.environment import Scratch
from invariants.workload import sql
from invariants.workload.operations import Actor, Workload


def alike(stage: Stage, workload: Workload | None = None) -> Iterator[Finding]:
    """Take the step as a superuser and as the plain owner, with the same rows, and compare."""
    owned = stage.owned
    if owned is None:
        return
    with stage.loaded(workload) as scratch:
        there = snapshot(scratch)
        names = rows.Names.after(stage.declared.renames, there)
        with owned.scratch(stage.step.below) as own:
            _copy(scratch, own, there)
            owned.keep(stage.step.before, own, LOADED)
    noted = stage.noted
    wanted = noted.upgraded if workload is None and noted.upgraded else None
    wanted = wanted or _by_superuser(stage, workload, there, names)
    if wanted is None:
        return  # told by another kind
    # What differs from run to run for a superuser as well says nothing.
    other = noted.once_more if workload is None and noted.once_more else None
    other = other or _by_superuser(stage, workload, there, names) or {}
    chance = {(d.table, d.column) for d in rows.differences(wanted, other, rows.Names())}
    tenancy = stage.contract.tenancy
    left_over = _some_tenant(stage)
    for setting in (None, *([left_over] if left_over else [])):
        with owned.scratch(stage.step.below, LOADED) as own:
            settings = dict(tenancy.session.values(Actor(owned.owner or "", setting)))
            how = f"with {', '.join(settings)} left over from a tenant" if settings else ""
            try:
                owned.up(own, stage.step, **settings)
            except MigrationFailed as failure:
                yield _finding(
                    stage,
                    cause_of(failed_for_good(failure)) or "fails",
                    f"the upgrade fails as {owned.owner}, and not as a superuser: {failure}",
                    how,
                    workload,
                )
                break
            different = [
                d
                for d in rows.differences(wanted, snapshot(own, there, names), rows.Names())
                if (d.table, d.column) not in chance
            ]
            for d in different:
                place = f"{d.table}.{d.column}" if d.column else d.table
                yield _finding(
                    stage,
                    place,
                    f"{d.count} rows of {place} come out another way when {owned.owner} migrates: "
                    f"{_value(d.is_now)} where a superuser has {_value(d.was)}",
                    how,
                    workload,
                    (d.table, d.key),
                )
            if different:
                break
    owned.forget(stage.step.before, LOADED)


def _by_superuser(
    stage: Stage, workload: Workload | None, there: rows.Snapshot, names: rows.Names
) -> rows.Snapshot | None:
    """The rows that come of the step; None where it fails."""
    with stage.loaded(workload) as scratch:
        try:
            stage.shelf.up(scratch, stage.step)
        except MigrationFailed:
            return None
        return snapshot(scratch, there, names)


def _some_tenant(stage: Stage) -> str | None:
    side = stage.before
    return side.workload.tenants[0].id if side is not None and side.workload.tenants else None


def _finding(
    stage: Stage,
    where: str,
    summary: str,
    how: str,
    workload: Workload | None,
    hint: tuple[str, rows.Values] | None = None,
) -> Finding:
    side = stage.before
    return Finding(
        "owner",
        stage.step.revision,
        where,
        summary,
        "let the revision see all rows: ALTER TABLE .. NO FORCE ROW LEVEL SECURITY before and "
        "FORCE after, in the same transaction",
        (how,) if how else (),
        workload or (side.workload if side else None),
        stage.step.below,
        hint,
    )


def _value(text: str | None) -> str:
    return "NULL" if text is None else sql.quote(text[:60])


def _copy(source: Scratch, target: Scratch, tables: rows.Snapshot) -> None:
    """The same rows in another database, whatever guards them there."""
    try:
        with connect(source.conninfo) as reading, connect(target.conninfo) as writing:
            writing.execute("SET session_replication_role = 'replica'")
            for table in tables.values():
                columns = [c for c in table.types if c not in table.generated]
                if not columns:
                    continue
                what = f"{sql.name(table.name)} ({sql.names(tuple(columns))})"
                writing.execute(f"DELETE FROM {sql.name(table.name)}".encode())
                with (
                    reading.cursor().copy(f"COPY {what} TO STDOUT".encode()) as out,
                    writing.cursor().copy(f"COPY {what} FROM STDIN".encode()) as into,
                ):
                    for block in out:
                        into.write(block)
    except psycopg.Error as error:
        raise InfrastructureError(f"rows cannot be copied: {database_message(error)}") from error


def again(stage: Stage, finding: Finding, workload: Workload) -> bool:
    """Whether fewer rows still show the same."""
    try:
        return any(f.signature == finding.signature for f in alike(stage, workload))
    except MigrationFailed:
        return False
