"""taxonomy: every code in use exists, codes in use stay, and only maintenance changes the list."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import yaml

from invariants.checks import guards
from invariants.checks.base import (
    Case,
    Condition,
    Evidence,
    Invariant,
    Violation,
    changed_proof,
    row_matches,
    shown,
)
from invariants.contract.contract import Contract
from invariants.contract.sections import Taxonomy
from invariants.errors import UsageError
from invariants.execution.history import Step
from invariants.schema.catalog import Catalog
from invariants.workload import sql
from invariants.workload.operations import Truncate


class TaxonomyKept(Invariant):
    """Codes are referred to, never lost, and written by maintenance alone."""

    name = "taxonomy"
    promise = "Every code in use exists in the taxonomy, and application roles do not write it."
    examines = "a row that uses a code"
    asks_schema = True
    sweeps = ("taxonomies",)
    concurrent = True
    duets = ("taxonomies",)
    focus = {"taxonomy": 16, "tamper": 4, "refresh": 0, "probe": 0, "erase": 0, "truncate": 2}

    def check(self, case: Case) -> Iterator[Violation]:
        """Check use, writes by application roles, retirement, and the mapping file."""
        for rule in case.contract.taxonomies:
            yield from self._mapping(case, rule)
            yield from self._retired(case, rule)
            for step in case.history.steps:
                if step.changes:
                    yield from self._unknown(case, rule, step)
                    yield from self._written(case, rule, step)
                    yield from self._spread(case, rule, step)

    def examined(self, case: Case) -> int:
        """Rows that use a code, after each operation that changed a row."""
        return sum(
            row[column] is not None
            for rule in case.contract.taxonomies
            for table, column in rule.used_by
            for step in case.history.steps
            if step.changes
            for row in step.after.rows(table)
        )

    def unruled(self, contract: Contract, catalog: Catalog) -> str | None:
        """Without a rule there is nothing to check."""
        del catalog
        return None if contract.taxonomies else "the contract has no [[taxonomies]]"

    def _mapping(self, case: Case, rule: Taxonomy) -> Iterator[Violation]:
        known = {r[rule.code] for r in case.history.initial.rows(rule.table)}
        missing = sorted(mapped_codes(rule.mapping) - known) if rule.mapping else []
        if missing:
            code = sql.literal(missing[0])
            yield Violation(
                signature=self.signature("mapping", rule.table, ""),
                operation=-1,
                summary=f"{rule.mapping.name if rule.mapping else ''} maps to "
                f"{', '.join(missing)}, which {rule.table} does not have",
                promise="Every code in the mapping exists in the taxonomy.",
                proof=(
                    Condition(
                        "state",
                        -1,
                        f"NOT EXISTS (SELECT FROM {sql.name(rule.table)} "
                        f"WHERE {sql.column(rule.code)} = {code})",
                    ),
                ),
            )

    def _retired(self, case: Case, rule: Taxonomy) -> Iterator[Violation]:
        """What ingestion maps to is in use in the schema as migrated."""
        mapped = mapped_codes(rule.mapping) if rule.mapping and rule.active else frozenset()
        for row in case.history.initial.rows(rule.table):
            if row[rule.code] in mapped and rule.active and row[rule.active] is False:
                yield Violation(
                    signature=self.signature("mapping", rule.table, "retired"),
                    operation=-1,
                    summary=f"{rule.mapping.name if rule.mapping else ''} maps to "
                    f"{row[rule.code]}, which {rule.table} has retired",
                    promise="No code in the mapping is retired in the schema as migrated.",
                    proof=(
                        Condition(
                            "state",
                            -1,
                            row_matches(
                                rule.table, {rule.code: row[rule.code], rule.active: False}
                            ),
                        ),
                    ),
                    evidence=(Evidence("retired", shown(row)),),
                )
                return

    def _unknown(self, case: Case, rule: Taxonomy, step: Step) -> Iterator[Violation]:
        known = {r[rule.code] for r in step.after.rows(rule.table)}
        changed = {c.table: c for c in step.changes}
        for table, column in rule.used_by:
            if table not in changed and rule.table not in changed:
                continue
            for row in step.after.rows(table):
                if row[column] is None or row[column] in known:
                    continue
                key = case.catalog.tables[table].foreign_key_of(column)
                yield Violation(
                    signature=self.signature(
                        step.operation.statements[-1].kind,
                        table if table in changed else rule.table,
                        key.name if key else "no foreign key",
                    ),
                    operation=step.index,
                    summary=f"{table}.{column} uses {row[column]!r}, "
                    f"which {rule.table} does not have",
                    promise="Every code in use exists in the taxonomy; unknown codes are refused.",
                    proof=(
                        Condition(
                            "state",
                            step.index,
                            f"EXISTS (SELECT FROM {sql.name(table)} u WHERE NOT EXISTS "
                            f"(SELECT FROM {sql.name(rule.table)} t "
                            f"WHERE t.{sql.column(rule.code)} = u.{sql.column(column)}))",
                        ),
                    ),
                    evidence=(Evidence(f"the row in {table}", shown(row)),),
                )
                return

    def _written(self, case: Case, rule: Taxonomy, step: Step) -> Iterator[Violation]:
        if not case.is_application(step):
            return
        for change in step.changes:
            if change.table == rule.table:
                yield Violation(
                    signature=self.signature(change.effect, rule.table, "privilege"),
                    operation=step.index,
                    summary=f"{step.operation.actor.role} writes the taxonomy {rule.table}",
                    promise="Application roles read the taxonomy and do not write it.",
                    proof=changed_proof(case, step, change),
                    evidence=(Evidence("before and after", shown(change.before, change.after)),),
                )

    def _spread(self, case: Case, rule: Taxonomy, step: Step) -> Iterator[Violation]:
        """Maintenance of the list must not reach the rows that use it."""
        statements = step.operation.statements
        if {s.relation for s in statements} != {rule.table}:
            return
        if any(isinstance(s, Truncate) and s.cascade for s in statements):
            # It asks for that.
            return
        for change in step.changes:
            if change.table != rule.table and change.before is not None:
                table, column = next(
                    ((t, c) for t, c in rule.used_by if t == change.table), ("", "")
                )
                key = case.catalog.tables[table].foreign_key_of(column) if table else None
                yield Violation(
                    signature=self.signature(
                        step.operation.statements[-1].kind,
                        change.table,
                        key.name if key else guards.firing(rule.table, "update", case.catalog),
                    ),
                    operation=step.index,
                    summary=f"a change to {rule.table} altered rows of {change.table}",
                    promise="A code in use is not removed or renamed away; "
                    "a retired code keeps its rows.",
                    proof=changed_proof(case, step, change),
                    evidence=(Evidence("before and after", shown(change.before, change.after)),),
                )


@lru_cache(maxsize=16)
def mapped_codes(path: Path) -> frozenset[str]:
    """The canonical codes a mapping file maps to: vendor -> indicator -> code.

    Raises `UsageError` naming the file when it has another shape.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        return frozenset(
            str(code) for vendor in document["sources"].values() for code in vendor.values()
        )
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: not a mapping of vendors to codes under 'sources' ({error})"
        ) from None
