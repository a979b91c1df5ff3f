"""Mutants of views: without the tenant's filter, without their barrier, read as someone else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from invariants.contract.contract import Contract
from invariants.mutants.base import Mutant
from invariants.mutants.definitions import change_view
from invariants.mutants.facts import Facts
from invariants.mutants.tokens import depths, replaced, terms, tokens
from invariants.workload.sql import quote

# Where a WHERE clause ends, if not with the query it is of.
_CLAUSES = ("GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR")
_AFTER_WHERE = frozenset({*_CLAUSES, "UNION", "INTERSECT", "EXCEPT"})
_TRUE = frozenset({"true", "on", "yes", "1"})


def mutants(facts: Facts, contract: Contract) -> Iterator[Mutant]:
    """Every view and materialized view."""
    for view in facts.relations.values():
        if view.kind == "table":
            continue
        unfiltered = without_filter(view.definition, contract.tenancy.settings)
        if unfiltered is not None:
            statements = change_view(facts, view, unfiltered)
            yield Mutant("view-without-filter", view.name, statements)
        if view.kind == "matview":
            continue
        options = dict(option.split("=", 1) for option in view.options)
        alter = f"ALTER VIEW {view.sql}"
        if options.get("security_barrier") in _TRUE:
            reset = f"{alter} RESET (security_barrier)"
            yield Mutant("view-without-barrier", view.name, (reset,))
        other = "false" if options.get("security_invoker") in _TRUE else "true"
        yield Mutant(
            "view-security-invoker",
            view.name,
            (f"{alter} SET (security_invoker = {other})",),
            detail=other,
        )


def without_filter(definition: str, settings: Sequence[str]) -> str | None:
    """A query without the conditions on some settings; None when it has none."""
    found = tokens(definition)
    level = depths(found)
    changed = definition
    # From the end, so that positions before it stay, and the innermost first.
    for i in reversed(range(len(found))):
        if found[i].word != "WHERE":
            continue
        end = next(
            (
                t.start
                for t, depth in zip(found[i + 1 :], level[i + 1 :], strict=True)
                if depth < level[i] or (depth == level[i] and t.word in _AFTER_WHERE)
            ),
            len(definition),
        )
        clause = definition[found[i].end : end]
        conditions = terms(clause, "AND")
        kept = [c for c in conditions if not any(quote(s) in c for s in settings)]
        if len(kept) == len(conditions):
            continue
        where = f"WHERE {' AND '.join(kept)} " if kept else ""
        changed = replaced(definition, found[i].start, end, where)
        break
    return changed.rstrip() if changed != definition else None
