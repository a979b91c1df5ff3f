"""ledger: postings carry the amount of what they post, once; corrections stay within a posting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from invariants.checks.base import (
    Case,
    Condition,
    Evidence,
    Invariant,
    Violation,
    exists,
    key_of,
    row_matches,
    shown,
)
from invariants.checks.values import exact
from invariants.contract.contract import Contract
from invariants.contract.sections import Ledger
from invariants.execution.history import Record, State, Step
from invariants.schema.catalog import Catalog
from invariants.workload import sql


@dataclass(frozen=True)
class _Fault:
    """What is wrong with a ledger row: told, as an SQL condition, and the rows that show it."""

    name: str
    summary: str
    proof: str
    rows: tuple[Record | None, ...] = ()


class LedgerAddsUp(Invariant):
    """Every committed ledger row is judged by the rows it names, after every commit."""

    name = "ledger"
    promise = (
        "A posting carries its allocation's amount, once; corrections name their posting and never "
        "take it below zero; every row traces to rows of its own tenant."
    )
    examines = "a row of the ledger"
    sweeps = ("ledgers",)
    concurrent = True
    duets = ("ledgers",)
    share = 4
    focus = {"repair": 10, "refresh": 0, "probe": 0, "taxonomy": 0}

    def check(self, case: Case) -> Iterator[Violation]:
        """Judge the rows after each operation; a fault is the operation's that brought it about."""
        for rule in case.contract.ledgers:
            for step in case.history.steps:
                if not step.changes:
                    continue
                for row in step.after.rows(rule.table):
                    earlier = step.before.find(rule.table, row.key)
                    known = {f.name for f in _faults(case, rule, step.before, earlier)}
                    for fault in _faults(case, rule, step.after, row):
                        if fault.name not in known:
                            yield self._violation(case, rule, step, row, fault)

    def examined(self, case: Case) -> int:
        """Ledger rows, after each operation that changed a row."""
        return sum(
            len(step.after.rows(rule.table))
            for rule in case.contract.ledgers
            for step in case.history.steps
            if step.changes
        )

    def unruled(self, contract: Contract, catalog: Catalog) -> str | None:
        """Without a rule there is nothing to check."""
        del catalog
        return None if contract.ledgers else "the contract has no [[ledger]]"

    def _violation(
        self, case: Case, rule: Ledger, step: Step, row: Record, fault: _Fault
    ) -> Violation:
        touched = [c for c in step.changes if (c.table, c.record.key) == (row.table, row.key)]
        change = (touched or list(step.changes))[0]
        return Violation(
            signature=self.signature(change.effect, change.table, fault.name),
            operation=step.index,
            summary=f"a row of {rule.table} {fault.summary}",
            promise=self.promise,
            proof=(
                Condition("state", step.index, exists(case, row)),
                Condition("state", step.index, fault.proof),
            ),
            evidence=(
                Evidence(f"the row in {rule.table}", shown(row)),
                *((Evidence("what it is judged by", shown(*fault.rows)),) if fault.rows else ()),
            ),
        )


def _faults(case: Case, rule: Ledger, state: State, row: Record | None) -> Iterator[_Fault]:
    if row is None:
        return
    yield from _untraced(case, state, row)
    if rule.is_correction(row.values):
        yield from _miscorrects(case, rule, state, row)
    elif rule.partial:
        yield from _overposts(case, rule, state, row)
    else:
        yield from _misposts(case, rule, state, row)


def _untraced(case: Case, state: State, row: Record) -> Iterator[_Fault]:
    """Follow what rows name, up to where it ends: all of it is there and one tenant's."""
    pending, seen = [row], {row}
    while pending:
        current = pending.pop()
        for column, table in case.contract.references(current.table):
            if current.get(column) is None or table not in case.contract.tenancy.owned:
                continue
            target = state.find(table, (current[column],))
            if target is None or case.tenant_of(target) != case.tenant_of(row):
                what = "a row that is not there" if target is None else "another tenant's row"
                named = {**key_of(case, current), column: current[column]}
                yield _Fault(
                    f"{current.table}.{column} traced",
                    f"leads to {what} in {table}, by way of {current.table}.{column}",
                    f"{row_matches(current.table, named)} "
                    f"AND NOT {_of_tenant(case, table, current[column], row)}",
                    (current, target) if current is not row else (target,),
                )
            elif target not in seen:
                seen.add(target)
                pending.append(target)


def _of_tenant(case: Case, table: str, key: object, row: Record) -> str:
    (column,) = case.catalog.tables[table].primary_key
    if table not in case.ownership.direct:
        return row_matches(table, {column: key})
    return row_matches(table, {column: key, case.contract.tenancy.column: case.tenant_of(row)})


def _overposts(case: Case, rule: Ledger, state: State, row: Record) -> Iterator[_Fault]:
    """Postings in parts: more than there is to post."""
    source = state.find(rule.source_table, (row[rule.posts],))
    if source is None or source[rule.source_amount] is None:
        return
    postings = [
        r
        for r in state.rows(rule.table)
        if r[rule.posts] == row[rule.posts] and not rule.is_correction(r.values)
    ]
    total = sum((exact(r[rule.amount] or 0) for r in postings), exact(0))
    if total <= exact(source[rule.source_amount]):
        return
    (key,) = case.catalog.tables[rule.source_table].primary_key
    posted = sql.literal(row[rule.posts])
    postings_only = f" AND {sql.column(rule.corrects)} IS NULL" if rule.corrects else ""
    yield _Fault(
        f"{rule.amount} posted in parts",
        f"takes what is posted to {total}, and {rule.source_table}.{rule.source_amount} "
        f"is {source[rule.source_amount]}",
        f"(SELECT sum({sql.column(rule.amount)}) FROM {sql.name(rule.table)} "
        f"WHERE {sql.column(rule.posts)} = {posted}{postings_only}) > "
        f"(SELECT {sql.column(rule.source_amount)} FROM {sql.name(rule.source_table)} "
        f"WHERE {sql.column(key)} = {posted})",
        (source, *(p for p in postings if p is not row)),
    )


def _misposts(case: Case, rule: Ledger, state: State, row: Record) -> Iterator[_Fault]:
    source = state.find(rule.source_table, (row[rule.posts],))
    if source is not None and source[rule.source_amount] != row[rule.amount]:
        (key,) = case.catalog.tables[rule.source_table].primary_key
        posted = {**key_of(case, row), rule.amount: row[rule.amount]}
        same = {key: row[rule.posts], rule.source_amount: row[rule.amount]}
        yield _Fault(
            f"{rule.amount} posted",
            f"posts {row[rule.amount]}, and {rule.source_table}.{rule.source_amount} "
            f"is {source[rule.source_amount]}",
            f"{row_matches(rule.table, posted)} AND NOT {row_matches(rule.source_table, same)}",
            (source,),
        )
    twins = [
        r
        for r in state.rows(rule.table)
        if r is not row
        and r[rule.posts] == row[rule.posts]
        # Another tenant's posting of it leads to another tenant's row, which is a fault of its own.
        and case.tenant_of(r) == case.tenant_of(row)
        and row[rule.posts] is not None
        and not rule.is_correction(r.values)
    ]
    if twins:
        yield _Fault(
            f"{rule.posts} posted once",
            f"posts the same row of {rule.source_table} as {len(twins)} other",
            f"(SELECT count(*) > 1 FROM {sql.name(rule.table)} "
            f"WHERE {sql.column(rule.posts)} = {sql.literal(row[rule.posts])}"
            + (f" AND {sql.column(rule.corrects)} IS NULL)" if rule.corrects else ")"),
            tuple(twins),
        )


def _miscorrects(case: Case, rule: Ledger, state: State, row: Record) -> Iterator[_Fault]:
    assert rule.corrects is not None
    posting = state.find(rule.table, (row[rule.corrects],))
    if posting is None:
        return
    corrected = {**key_of(case, row), rule.corrects: row[rule.corrects]}
    named = key_of(case, posting)
    if rule.is_correction(posting.values):
        yield _Fault(
            f"{rule.corrects} a posting",
            "corrects a row that is itself a correction",
            f"{row_matches(rule.table, corrected)} AND NOT "
            f"{row_matches(rule.table, {**named, rule.corrects: None})}",
            (posting,),
        )
        return
    if posting[rule.posts] != row[rule.posts]:
        yield _Fault(
            f"{rule.posts} of the posting",
            f"corrects a posting and names another row of {rule.source_table} than that does",
            f"{row_matches(rule.table, {**corrected, rule.posts: row[rule.posts]})} AND NOT "
            f"{row_matches(rule.table, {**named, rule.posts: row[rule.posts]})}",
            (posting,),
        )
    corrections = [r for r in state.rows(rule.table) if r[rule.corrects] == row[rule.corrects]]
    net = posting[rule.amount] + sum(r[rule.amount] for r in corrections)
    if net < 0:
        (key,) = case.catalog.tables[rule.table].primary_key
        posted = sql.literal(row[rule.corrects])
        yield _Fault(
            "net below zero",
            f"takes its posting below zero, to {net}",
            f"(SELECT sum({sql.column(rule.amount)}) < 0 FROM {sql.name(rule.table)} "
            f"WHERE {sql.column(key)} = {posted} OR {sql.column(rule.corrects)} = {posted})",
            (posting, *(c for c in corrections if c is not row)),
        )
