"""drift: what a live database is, against what its revision makes of an empty one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import psycopg

from invariants.contract.contract import Contract, load
from invariants.errors import InfrastructureError, UsageError
from invariants.live.looking import checked, looking
from invariants.options import SchemaOptions
from invariants.schema.portable import migrator, portable_catalog
from invariants.search.run import opened
from invariants.servers.base import connect, version_number
from invariants.servers.binaries import having
from invariants.servers.environment import Environment

Say = Callable[[str], None]

_VERSION_TABLES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_'
GROUP BY 1 HAVING array_agg(a.attname::text) = ARRAY['version_num'] ORDER BY 1
"""
_WHOLE = re.compile(
    r"(?:table|view|materialized view|sequence|foreign table|function|procedure|type|schema) (.*)"
)
_SEE_ONLY_TOGETHER = "internal trigger "


@dataclass(frozen=True)
class Difference:
    """An object that is missing, extra or changed, and what is said of it on both sides."""

    name: str
    how: str
    expected: tuple[str, ...] = ()
    found: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drift:
    """What came of the comparison. `versions` are the live server's and ours."""

    revision: str
    behind: int
    versions: tuple[str, str]
    differences: tuple[Difference, ...]

    @property
    def one_major(self) -> bool:
        """Whether both servers print definitions in the same way."""
        live, ours = (v.partition(".")[0] for v in self.versions)
        return live == ours


def drift(url: str, options: SchemaOptions, revision: str | None, say: Say) -> Drift:
    """Compare. Raises `UsageError` where the revision is unknown, and `InfrastructureError`."""
    checked(url)
    contract = load(options.contract) if options.contract.exists() else None
    roles = tuple(contract.roles) if contract else ()
    with looking(url) as live:
        there = version_number(live)
        at = _revision(live, revision, contract, options.schema)
        who = migrator(live)
        migrators = {who} if who else set[str]()
        found = portable_catalog(live, migrators, roles)
    with _made(replace(options, revision=at), contract, there, say) as environment:
        ours = environment.server.version
        scratch = environment.scratch()
        with connect(scratch.conninfo) as connection:
            maker = migrator(connection)
            expected = portable_catalog(
                connection, migrators | ({maker} if maker else set()), roles
            )
        lineage = environment.lineage
    behind = len([r for r in lineage.known if r not in lineage.applied])
    differences = tuple(compared(expected, found))
    return Drift(lineage.applied[-1], behind, (there, ours), differences)


def compared(expected: Mapping[str, str], found: Mapping[str, str]) -> Iterator[Difference]:
    """Every object that differs, by name; nothing twice that goes with a table or a constraint."""
    gone, added = (
        _Apart(frozenset(here.keys() - there.keys()))
        for here, there in ((expected, found), (found, expected))
    )
    for name in sorted(expected.keys() | found.keys()):
        if name.startswith("column order "):
            both = [_lines(c.get(name)) for c in (expected, found)]
            now, then = ([c for c in b if c in both[1 - i]] for i, b in enumerate(both))
            if now != then:
                yield Difference(name, "changed", (", ".join(now),), (", ".join(then),))
        elif name not in expected or name not in found:
            extra = name in found
            text = (found if extra else expected)[name]
            if not _goes_along(name, text, added if extra else gone):
                lines = _lines(text)
                how = "extra" if extra else "missing"
                yield Difference(name, how, *((), lines) if extra else (lines, ()))
        elif expected[name] != found[name]:
            should, does = _lines(expected[name]), _lines(found[name])
            yield Difference(
                name,
                "changed",
                tuple(line for line in should if line not in does) or should,
                tuple(line for line in does if line not in should) or does,
            )


def _lines(text: str | None) -> tuple[str, ...]:
    return tuple(text.split("\n")) if text else ()


@dataclass(frozen=True)
class _Apart:
    """The names that one side has and the other has not."""

    names: frozenset[str]

    @cached_property
    def wholes(self) -> tuple[tuple[str, str], ...]:
        """Those of objects with parts, each with how its parts call it."""
        matches = ((n, _WHOLE.fullmatch(n)) for n in sorted(self.names))
        return tuple((name, of[1]) for name, of in matches if of)


def _goes_along(name: str, text: str, apart: _Apart) -> bool:
    """Whether something is missing because what it is part of is, which is named itself."""
    if name.startswith(_SEE_ONLY_TOGETHER):
        return True
    kind, _, rest = name.partition(" ")
    lost = apart.names
    for other, whole in apart.wholes:
        if other == name:
            continue
        if kind in ("column", "constraint", "trigger", "policy", "rule", "index") and (
            rest.startswith(f"{whole}.")
        ):
            return True
        if kind == "index" and re.search(rf" ON (ONLY )?{re.escape(whole)} ", text):
            return True
        if kind == "privileges" and re.fullmatch(
            rf"(relation|function|type|schema) {re.escape(whole)}|column {re.escape(whole)}\..*",
            rest,
        ):
            return True
        if kind == "sequence" and f" of table {whole}" in text:
            return True
        if kind == "comment" and re.search(rf" (on )?{re.escape(whole)}(\.|$)", name):
            return True
    if kind == "privileges" and rest.startswith("column "):
        return f"column {rest.removeprefix('column ')}" in lost
    if kind == "comment" and (part := re.fullmatch(r"(?:table )?(\w+) (\S+) on (.+)", rest)):
        return f"{part[1]} {part[3]}.{part[2]}" in lost
    if kind == "comment":
        return rest.removeprefix("table column ") in {n.partition(" ")[2] for n in lost}
    if kind == "index":
        # Made by a constraint of the same name.
        schema, _, own = rest.rpartition(".")
        return any(o.startswith(f"constraint {schema}.") and o.endswith(f".{own}") for o in lost)
    return False


def _revision(
    live: psycopg.Connection, wanted: str | None, contract: Contract | None, schema: str | None
) -> str:
    """What the database says it is at, unless another is wanted."""
    if wanted is not None:
        named = contract.revisions if contract else {}
        return named.get(wanted, wanted)
    if schema is not None and not schema.endswith((".ini", ".toml")):
        return "head"
    tables = [str(row[0]) for row in live.execute(_VERSION_TABLES).fetchall()]
    found = sorted(
        {str(r[0]) for t in tables for r in live.execute(f"SELECT * FROM {t}".encode()).fetchall()}
    )
    if not found:
        raise UsageError(
            "URL: the database does not say which revision it is at (no alembic_version); name it "
            "with --revision"
        )
    if len(found) > 1:
        raise InfrastructureError(
            f"URL: the database is at several revisions at once ({', '.join(found)}); name the one "
            "to compare with, with --revision"
        )
    return found[0]


@contextmanager
def _made(
    options: SchemaOptions, contract: Contract | None, version: str, say: Say
) -> Iterator[Environment]:
    """What the revision makes, on a server of the same major where there is one."""
    major = int(version.partition(".")[0])
    with ExitStack() as stack:
        environment = None
        if options.server == "auto" and any(b.major == major for b in having("plpgsql")):
            like = replace(options, server=f"embedded:{major}")
            try:
                environment = stack.enter_context(opened(like, contract, say))
            except InfrastructureError as error:
                # Any other server will do as well, if it has what the schema asks for.
                if "is not available" not in str(error):
                    raise
        yield environment or stack.enter_context(opened(options, contract, say))
