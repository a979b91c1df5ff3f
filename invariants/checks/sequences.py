"""Which columns show what sequences hand out: one counter for all tells how busy the others are.

A client may choose such a value itself; what it chose says nothing of others.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from invariants.schema.catalog import Catalog, Relation
from invariants.workload.operations import Workload, inserted

CHANNEL = "sequence"
"""The channel by which a contract accepts it."""

_found: dict[int, tuple[Catalog, dict[str, frozenset[str]]]] = {}
_KEPT = 64


def counted(catalog: Catalog, relation: str) -> frozenset[str]:
    """The columns of a relation whose values a sequence may have handed out; found out once."""
    known = _found.get(id(catalog))
    if known is None or known[0] is not catalog:
        if len(_found) >= _KEPT:
            _found.clear()
        known = _found[id(catalog)] = catalog, _all(catalog)
    return known[1].get(relation, frozenset())


def chosen(workload: Workload) -> frozenset[bytes]:
    """The numbers that the clients themselves send, as they are read."""
    return frozenset(
        str(value).encode()
        for operation in workload.all_operations
        for statement in operation.statements
        for row in inserted(statement)
        for value in row.values()
        if type(value) is int
    )


def _all(catalog: Catalog) -> dict[str, frozenset[str]]:
    found = {
        name: {c.name for c in relation.columns.values() if c.counted}
        for name, relation in catalog.relations.items()
    }
    queries = {v.name: v.query for v in catalog.definitions.views}
    changed = True
    while changed:
        changed = False
        for name, relation in catalog.relations.items():
            more = {
                c
                for key in relation.foreign_keys
                for c, t in zip(key.columns, key.target_columns, strict=True)
                if t in found.get(key.target, ())
            }
            if relation.part_of in found:
                more |= found[relation.part_of] & relation.columns.keys()
            query = queries.get(name, "")
            for read in _reads(relation, query, catalog):
                for column in found.get(read, ()):
                    more |= _shown_as(relation, query, column)
            if more - found[name]:
                found[name] |= more
                changed = True
    return {name: frozenset(columns) for name, columns in found.items()}


def _reads(relation: Relation, query: str, catalog: Catalog) -> Collection[str]:
    """What a view reads, as far as its query names it."""
    if relation.kind not in ("view", "matview"):
        return ()
    words = set(re.findall(r"\w+", query))
    return relation.reads or [r for r in catalog.relations if r.rpartition(".")[2] in words]


def _shown_as(relation: Relation, query: str, column: str) -> set[str]:
    """The columns of a view that show a column of what it reads: by its name, or by another."""
    bare = re.escape(column)
    renamed = re.findall(rf'(?<![\w"])"?{bare}"? AS (?:"((?:[^"]|"")+)"|(\w+))', query)
    names = {column, *(a.replace('""', '"') or b for a, b in renamed)}
    return names & relation.columns.keys()
