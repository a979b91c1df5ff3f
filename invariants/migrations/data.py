"""upgrade, data, downgrade: lawful rows are taken up the step, and down again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import psycopg

from invariants.contract.chain import Said
from invariants.errors import MigrationFailed, UsageError
from invariants.migrations import loads, rows
from invariants.migrations.chain import with_rows
from invariants.migrations.finding import Finding, Kind
from invariants.migrations.stage import Stage, catalog_of, cause_of, failed_for_good, snapshot
from invariants.servers.base import connect
from invariants.servers.environment import Scratch
from invariants.workload import sql
from invariants.workload.operations import Workload

_NOT_VALID = """
SELECT c.conname, format('%I.%I', n.nspname, r.relname), r.relname
FROM pg_constraint c JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace n
  ON n.oid = r.relnamespace
WHERE NOT c.convalidated AND c.contype IN ('c', 'f') AND n.nspname NOT LIKE 'pg\\_%'
ORDER BY 2, 1
"""


def upwards(stage: Stage, workload: Workload | None = None) -> Iterator[Finding]:
    """What happens to lawful data of the revision before: on the way up, and down again."""
    before_side = stage.before
    with stage.loaded(workload) as scratch:
        before = snapshot(scratch)
        names = rows.Names.after(stage.declared.renames, before)
        try:
            stage.shelf.up(scratch, stage.step)
        except MigrationFailed as failure:
            yield _refused(stage, "upgrade", failed_for_good(failure), workload)
            return
        after = snapshot(scratch, before, names)
        if workload is None:
            stage.noted.there, stage.noted.upgraded = before, after
            yield from with_rows(stage, catalog_of(scratch))
        owned = before_side.ground.contract.tenancy.owned if before_side else ()
        # Codes and the like may well be added by a revision.
        changed = [
            d
            for d in rows.differences(before, after, names)
            if d.what != "rows came" or d.table in owned
        ]
        yield from _undeclared(
            stage, "data", changed, stage.declared.changes, workload, stage.step.below
        )
        if before_side is not None:
            yield from _invalid(stage, scratch, workload)
        if not stage.course.undoes or before_side is None:
            return
        try:
            stage.shelf.down(scratch, stage.step)
        except MigrationFailed as failure:
            yield _refused(stage, "downgrade", failed_for_good(failure), workload)
            return
        back = snapshot(scratch, before)
        touched = {(d.table, d.column) for d in changed} | {(d.table, "") for d in changed}
        lost = [
            d
            for d in rows.differences(before, back, rows.Names())
            if d.what != "rows came" and (d.table, d.column) not in touched
        ]
        declared = (*stage.declared.loses, *stage.declared.changes)
        yield from _undeclared(stage, "downgrade", lost, declared, workload, stage.step.below)


def written_since(stage: Stage, workload: Workload | None = None) -> Iterator[Finding]:
    """What happens on the way down to what clients have written since the upgrade."""
    side = stage.after
    if side is None or not stage.course.undoes:
        return
    wanted = side.workload if workload is None else workload
    with stage.below() as scratch:
        stage.shelf.up(scratch, stage.step)
        loads.fill(side.ground, scratch, wanted)
        before = snapshot(scratch)
        try:
            stage.shelf.down(scratch, stage.step)
        except MigrationFailed as failure:
            yield _refused(
                stage, "downgrade", failed_for_good(failure), wanted, stage.step.revision
            )
            return
        if stage.before is None and not _has_tables(scratch):
            # Below is nothing: what there was before it, too.
            return
        names = _turned(stage, before)
        back = snapshot(scratch, before, names)
        lost = [d for d in rows.differences(before, back, names) if d.what != "rows came"]
        declared = (*stage.declared.loses, *stage.declared.changes)
        yield from _undeclared(stage, "downgrade", lost, declared, wanted, stage.step.revision)


def _turned(stage: Stage, now: rows.Snapshot) -> rows.Names:
    """Where what is there after the step is found once it is undone."""
    tables, columns = {}, {}
    for old, new in stage.declared.renames.items():
        table, _, column = old.rpartition(".")
        if new in now:
            tables[new] = old
        elif table:
            columns[table, new] = column
    renamed = {old: new for new, old in tables.items()}
    return rows.Names(tables, {(renamed.get(t, t), c): old for (t, c), old in columns.items()})


def _has_tables(scratch: Scratch) -> bool:
    return bool(snapshot(scratch))


def _refused(
    stage: Stage,
    kind: Kind,
    failure: MigrationFailed,
    workload: Workload | None,
    loaded_at: str | None = None,
) -> Finding:
    side = stage.before if loaded_at is None else stage.after
    what = "upgrade" if kind == "upgrade" else "downgrade"
    return Finding(
        kind,
        stage.step.revision,
        cause_of(failure),
        f"the {what} fails on rows that the contract permits: {failure}",
        "map, merge or refuse such rows before, with a message that names them; or let the "
        "contract not permit them"
        if kind == "upgrade"
        else "let the downgrade take such rows along, or refuse them by a name",
        workload=workload or (side.workload if side else None),
        loaded_at=loaded_at or stage.step.below,
        fails=True,
    )


_WHAT = {
    "table is gone": "the table {place} is gone with {count} rows",
    "column is gone": "the column {place} is gone, and held {was}",
    "rows are gone": "{count} rows of {place} are gone",
    "values changed": "{place} was {was} and is {is_now}, in {count} rows",
    "rows came": "{count} rows came to {place}",
}


def _undeclared(
    stage: Stage,
    kind: Kind,
    found: Iterable[rows.Difference],
    declared: tuple[Said, ...],
    workload: Workload | None,
    loaded_at: str | None,
) -> Iterator[Finding]:
    side = stage.before if loaded_at == stage.step.below else stage.after
    for d in found:
        if any(s.covers(d.table, d.column) for s in declared):
            continue
        place = f"{d.table}.{d.column}" if d.column else d.table
        told = _WHAT[d.what].format(
            place=place, count=d.count, was=_value(d.was), is_now=_value(d.is_now)
        )
        way = "after the upgrade" if kind == "data" else "after the downgrade"
        key = ", ".join(f"{c} = {_value(v)}" for c, v in d.key.items())
        section = f"[migrations.revisions.{stage.step.revision}]"
        said = "changes" if kind == "data" else "loses"
        yield Finding(
            kind,
            stage.step.revision,
            f"{place}/rows" if d.what in ("rows are gone", "rows came") else place,
            f"{told} {way}",
            f'keep it, or say so in the contract: {section} {said} = ["{place}: why"]'
            + ("; or renames, where it has another name" if d.what == "column is gone" else ""),
            (f"the row: {key}",) if key else (),
            workload or (side.workload if side else None),
            loaded_at,
            hint=(d.table, d.key),
        )


def _value(text: str | None) -> str:
    if text is None:
        return "NULL"
    return sql.quote(text if len(text) <= 60 else text[:58] + "..")


def _invalid(stage: Stage, scratch: Scratch, workload: Workload | None) -> Iterator[Finding]:
    """Constraints that were added without looking at the rows, and do not hold on them."""
    with connect(scratch.conninfo) as connection:
        for name, table, bare in connection.execute(_NOT_VALID.encode()).fetchall():
            statement = f"ALTER TABLE {table} VALIDATE CONSTRAINT {sql.name(name)}"
            try:
                with connection.transaction(force_rollback=True):
                    connection.execute(statement.encode())
            except psycopg.Error as error:
                side = stage.before
                yield Finding(
                    "data",
                    stage.step.revision,
                    f"{bare}/{name}",
                    f"{name} of {bare} does not hold on the rows that were there: "
                    f"{error.diag.message_primary}",
                    "mend the rows in the same step, or in one before",
                    workload=workload or (side.workload if side else None),
                    loaded_at=stage.step.below,
                )


def again(stage: Stage, finding: Finding, workload: Workload) -> bool:
    """Whether less data still show the same."""
    judged = upwards if finding.loaded_at == stage.step.below else written_since
    with suppress(MigrationFailed, UsageError):
        return any(f.signature == finding.signature for f in judged(stage, workload))
    return False
