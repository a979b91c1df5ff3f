"""Names the guard concerned: policy, trigger, constraint or privilege that acted or is missing."""

from __future__ import annotations

from invariants.execution.wire import ServerError
from invariants.schema.catalog import Catalog
from invariants.schema.reach import Reach
from invariants.workload.operations import Copy, Insert, Leftover, Merge, Statement


def refusing(error: ServerError, statement: Statement, catalog: Catalog) -> str:
    """The guard that refused a statement, as its error tells."""
    relation = catalog.relations.get(statement.relation)
    if error.function:
        # A trigger that raises on purpose is one cause, one that trips over itself is another.
        raised = error.sqlstate == "P0001" or error.sqlstate.startswith("23")
        return error.function if raised else f"{error.function} {error.sqlstate}"
    if statement.kind == "refresh" and relation and error.sqlstate in ("23505", "21000"):
        return ",".join(u.name for u in relation.uniques)
    if error.constraint:
        return error.constraint
    if error.sqlstate == "42501":
        if "row-level security" in error.message:
            return ",".join(relation.policies) if relation else "row security"
        return "privilege"
    if relation and relation.policies and error.sqlstate in ("42704", "22P02"):
        # The policy cannot read the tenant setting.
        return ",".join(relation.policies)
    return error.sqlstate


def looking_up(error: ServerError) -> str:
    """The function that took a temporary object for what it looked for, as the error of it says."""
    own = f"shadow_{error.relation.rpartition('.')[2]}"
    return next((f for f in error.functions if f != own), "no function")


def isolating(relation: str, catalog: Catalog) -> str:
    """The guard that keeps tenants apart in a relation, or what is missing."""
    found = catalog.relations.get(relation)
    if found is None:
        return "function"
    if found.kind not in ("table", "partition"):
        return f"{found.kind} without tenant filter"
    if not found.row_security:
        return "row security disabled"
    return ",".join(found.policies) or "no policy"


def planned(relation: str, catalog: Catalog) -> str:
    """The functions that are computed when a plan is made, and ask who it is made for."""
    reached = Reach(catalog, catalog.definitions).of_read(relation).routines
    names = (r.known_as.partition("(")[0] for r in catalog.routines if r.folds)
    known = {name.partition("(")[0] for name in reached}
    return ",".join(n for n in names if n in known) or "kept plan"


def spanning(statement: Statement, tenant: str, catalog: Catalog) -> str:
    """The unique indexes over all tenants that can keep a row out; empty for what adds no row."""
    relation = catalog.relations.get(statement.relation)
    if relation is None or not isinstance(statement, Insert | Merge | Copy):
        return ""
    uniques = (u for u in relation.uniques if not u.primary and tenant not in u.columns)
    return ",".join(u.name for u in uniques)


def leaving(statement: Leftover, catalog: Catalog) -> str:
    """The functions that leave in a session what was found there, as far as their sources say."""
    left = (x for x in catalog.lingering if x.target == statement.target)
    names = dict.fromkeys(x.function for x in left if x.name == statement.relation)
    return ",".join(names) or "no function"


def folding(relation: str, catalog: Catalog) -> str:
    """The unique indexes that look at something made of a row, not at what the row says."""
    found = catalog.relations.get(relation)
    return ",".join(u.name for u in (found.uniques if found else ()) if u.expressions)


def computing(relation: str, catalog: Catalog) -> str:
    """What makes something of a new row that unique indexes look at: triggers, else the indexes."""
    return ",".join(_filling(relation, catalog)) or folding(relation, catalog)


def filled_in(relation: str, catalog: Catalog) -> frozenset[str]:
    """The columns that triggers write in a new row; `*` stands for any."""
    return frozenset().union(*_filling(relation, catalog).values())


def _filling(relation: str, catalog: Catalog) -> dict[str, frozenset[str]]:
    routines = catalog.definitions.routine
    return {
        t.name: routines[t.routine].effects.assigns
        for t in catalog.definitions.triggers
        if t.table == relation
        and t.enabled
        and "insert" in t.events
        and t.routine in routines
        and routines[t.routine].effects.assigns
    }


def firing(relation: str, event: str, catalog: Catalog, timing: str = "") -> str:
    """The enabled triggers of a table that fire for an event, or `no trigger`."""
    found = catalog.relations.get(relation)
    names = [
        t.name
        for t in (found.triggers if found else ())
        if t.enabled and event.upper() in t.events and (not timing or t.timing == timing)
    ]
    return ",".join(names) or "no trigger"
