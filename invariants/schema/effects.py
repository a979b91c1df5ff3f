"""What a definition does, read with PostgreSQL's own parser: what it reads, writes, calls and asks.

One text at a time, as the server prints it: an expression, a query, a function in SQL or PL/pgSQL.
Names stay as they are written; `schema.reach` looks them up. What cannot be read here (another
language, SQL made at run time) is `opaque`: it may do anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

Node = Any
Parts = tuple[str, ...]

# What a variable of PL/pgSQL is assigned with.
_ASSIGNMENT = re.compile(r":?=")
# PLpgSQL_expr.parseMode: a statement, an expression; from 3 on an assignment with its target.
_STATEMENT, _EXPRESSION = 0, 2
_WRITES = {
    "InsertStmt": "insert",
    "UpdateStmt": "update",
    "DeleteStmt": "delete",
    "MergeStmt": "merge",
}
_IDENTITIES = {
    "SVFOP_CURRENT_USER": "current_user",
    "SVFOP_CURRENT_ROLE": "current_user",
    "SVFOP_USER": "current_user",
    "SVFOP_SESSION_USER": "session_user",
}
# Statements that read or write rows, or say something.
_NO_UTILITIES = frozenset(
    {*_WRITES, "RawStmt", "SelectStmt", "TruncateStmt", "NotifyStmt", "VariableSetStmt"}
)
# What reaches beyond the database, by its parser's names.
SERVER_WIDE = frozenset(
    [
        *("CreateRoleStmt", "AlterRoleStmt", "AlterRoleSetStmt", "DropRoleStmt", "GrantRoleStmt"),
        *("CreatedbStmt", "DropdbStmt", "AlterDatabaseStmt", "AlterDatabaseSetStmt"),
        *("AlterSystemStmt", "CreateTableSpaceStmt", "DropTableSpaceStmt", "CopyStmt", "LoadStmt"),
        *("CreateSubscriptionStmt", "DropSubscriptionStmt", "ReassignOwnedStmt", "DropOwnedStmt"),
    ]
)
# Functions that hand on what they are given.
_PASSING = frozenset({"current_setting", "nullif", "coalesce", "lower", "upper", "trim", "btrim"})
_JSON_PATHS = frozenset(
    f"{kind}_extract_path{text}" for kind in ("json", "jsonb") for text in ("", "_text")
)


EACH = "[]"
"""The end of a way to a key under which there is a list, of which each element is taken."""
_JSON_LISTS = frozenset(
    f"{kind}_array_elements{form}" for kind in ("json", "jsonb") for form in ("", "_text")
)
_IN_LIST = ("?", "@>")


@dataclass(frozen=True)
class Setting:
    """A setting that is asked for, the JSON keys taken from it, and what it is compared with."""

    name: str
    claims: frozenset[Parts] = frozenset()
    literals: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Match:
    """A column that is compared with what the session says: a setting, who acts, what a call gives.

    `claim` is the way to a key in the document that the setting holds or the call gives. `reads`
    are relations of a subquery that the column's value has to be in.
    """

    column: Parts
    setting: str = ""
    claim: Parts = ()
    identity: str = ""
    call: Parts = ()
    reads: frozenset[Parts] = frozenset()


@dataclass(frozen=True)
class Effects:
    """What a definition does by itself, whatever it calls. Names are as written, in parts.

    `writes` has relation and verb, `assigns` the columns of a trigger's new row, `identities` the
    names under which it asks who is acting, `sets` the settings that it changes, the role too.
    `utilities` are statements that change no rows, as the parser calls them; `clock` when it asks
    what time it is. `claimed` are calls with the way to a key in the document that they give.
    `returns_null` and `returns_old` are said of triggers.
    """

    reads: frozenset[Parts] = frozenset()
    writes: frozenset[tuple[Parts, str]] = frozenset()
    calls: frozenset[Parts] = frozenset()
    settings: frozenset[Setting] = frozenset()
    sets: frozenset[str] = frozenset()
    assigns: frozenset[str] = frozenset()
    identities: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    columns: frozenset[Parts] = frozenset()
    matches: frozenset[Match] = frozenset()
    claimed: frozenset[tuple[Parts, Parts]] = frozenset()
    literals: frozenset[str] = frozenset()
    utilities: frozenset[str] = frozenset()
    raises: bool = False
    opaque: bool = False
    clock: bool = False
    returns_null: bool = False
    returns_old: bool = False

    def ways(self, call: Parts) -> list[Parts]:
        """The whole ways to keys that are taken from what a call gives; one empty way for none."""
        return _whole(way for name, way in self.claimed if name == call)

    @property
    def setting_names(self) -> frozenset[str]:
        """The names of the settings it asks for."""
        return frozenset(s.name for s in self.settings)

    @classmethod
    def of(cls, several: Iterable[Effects]) -> Effects:
        """What several do together."""
        made = list(several)
        joined: dict[str, Any] = {}
        for f in fields(cls):
            values = [getattr(e, f.name) for e in made]
            joined[f.name] = any(values) if f.type == "bool" else frozenset().union(*values)
        joined["settings"] = _merged(joined["settings"])
        return cls(**joined)


OPAQUE = Effects(opaque=True)


@lru_cache(maxsize=4096)
def of_expression(text: str) -> Effects:
    """What an expression does: of a policy, a CHECK, a default."""
    return of_query(f"SELECT ({text})")


@lru_cache(maxsize=4096)
def of_query(text: str) -> Effects:
    """What one or more statements do; opaque when they are no SQL."""
    import pgparse

    try:
        statements = pgparse.parse(text)
    except (pgparse.PGQueryError, RecursionError, ValueError):
        return OPAQUE
    walk = _Walk()
    walk.visit(statements)
    return walk.effects()


@lru_cache(maxsize=4096)
def of_routine(definition: str) -> Effects:
    """What a function or procedure does, from `pg_get_functiondef`."""
    import pgparse

    try:
        (parsed,) = pgparse.parse(definition)
        created = parsed["stmt"]["CreateFunctionStmt"]
    except (pgparse.PGQueryError, RecursionError, ValueError, KeyError):
        return OPAQUE
    options = {o["DefElem"]["defname"]: o["DefElem"].get("arg") for o in created.get("options", ())}
    walk = _Walk()
    walk.visit(created.get("parameters", ()))
    language = options.get("language", {}).get("String", {}).get("sval", "sql").lower()
    if "sql_body" in created:
        walk.visit(created["sql_body"])
        return walk.effects()
    body = _strings(options.get("as"))
    if language == "sql":
        return Effects.of([walk.effects(), of_query(body[0] if body else "")])
    if language != "plpgsql":
        return Effects.of([walk.effects(), OPAQUE])
    try:
        functions = pgparse.parse_pgsql(definition)
    except (pgparse.PGQueryError, RecursionError, ValueError):
        return OPAQUE
    for function in functions:
        _Procedural(function["PLpgSQL_function"], walk).visit()
    return walk.effects()


@dataclass
class _Walk:
    """Goes through a parse tree and keeps what it sees."""

    reads: set[Parts] = field(default_factory=set)
    writes: set[tuple[Parts, str]] = field(default_factory=set)
    calls: set[Parts] = field(default_factory=set)
    settings: set[Setting] = field(default_factory=set)
    sets: set[str] = field(default_factory=set)
    assigns: set[str] = field(default_factory=set)
    identities: set[str] = field(default_factory=set)
    channels: set[str] = field(default_factory=set)
    columns: set[Parts] = field(default_factory=set)
    matches: set[Match] = field(default_factory=set)
    claimed: set[tuple[Parts, Parts]] = field(default_factory=set)
    literals: set[str] = field(default_factory=set)
    utilities: set[str] = field(default_factory=set)
    raises: bool = False
    opaque: bool = False
    clock: bool = False
    returns_null: bool = False
    returns_old: bool = False

    def effects(self) -> Effects:
        kept: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        kept = {k: frozenset(v) if isinstance(v, set) else v for k, v in kept.items()}
        return Effects(**{**kept, "settings": _merged(self.settings)})

    def add(self, made: Effects) -> None:
        """Count what another text does as well."""
        for f in fields(made):
            value = getattr(made, f.name)
            if isinstance(value, frozenset):
                getattr(self, f.name).update(value)
            else:
                setattr(self, f.name, getattr(self, f.name) or value)

    def visit(self, node: Node, local: frozenset[str] = frozenset()) -> None:
        """Look at a node and all below it. `local` are the names that WITH has given."""
        if isinstance(node, list | tuple):
            for part in node:
                self.visit(part, local)
            return
        if not isinstance(node, dict):
            return
        if ctes := node.get("withClause", {}).get("ctes"):
            local |= {c["CommonTableExpr"]["ctename"] for c in ctes}
        for kind, inner in node.items():
            if kind == "TruncateStmt":
                self.writes |= {(_relation(r), "truncate") for r in inner["relations"]}
                continue
            if kind in _WRITES and isinstance(inner, dict):
                self.writes.add((_relation(inner["relation"]), _WRITES[kind]))
                rest = {k: v for k, v in inner.items() if k != "relation"}
                if "onConflictClause" in rest and "UPDATE" in str(
                    rest["onConflictClause"].get("action")
                ):
                    self.writes.add((_relation(inner["relation"]), "update"))
                self.visit(rest, local)
                continue
            if kind.endswith("Stmt") and kind not in _NO_UTILITIES:
                self.utilities.add(kind)
            handler = getattr(self, f"_{kind}", None)
            if handler is not None and isinstance(inner, dict):
                handler(inner, local)
            self.visit(inner, local)

    def _RangeVar(self, node: Node, local: frozenset[str]) -> None:
        name = _relation(node)
        if len(name) > 1 or name[0] not in local:
            self.reads.add(name)

    def _ColumnRef(self, node: Node, local: frozenset[str]) -> None:
        del local
        self.columns.add(_strings(node.get("fields")))

    def _A_Const(self, node: Node, local: frozenset[str]) -> None:
        del local
        if (text := _constant({"A_Const": node})) is not None:
            self.literals.add(text)

    def _SQLValueFunction(self, node: Node, local: frozenset[str]) -> None:
        del local
        if identity := _IDENTITIES.get(node.get("op", "")):
            self.identities.add(identity)
        elif "TIME" in node.get("op", "") or "DATE" in node.get("op", ""):
            self.clock = True

    def _NotifyStmt(self, node: Node, local: frozenset[str]) -> None:
        del local
        self.channels.add(node["conditionname"])

    def _VariableSetStmt(self, node: Node, local: frozenset[str]) -> None:
        del local
        self.sets.add(node.get("name", "*"))

    def _FuncCall(self, node: Node, local: frozenset[str]) -> None:
        del local
        name, arguments = _strings(node["funcname"]), node.get("args", [])
        first = _constant(arguments[0]) if arguments else None
        if name[:-1] not in ((), ("pg_catalog",)):
            self.calls.add(name)
            return
        match name[-1]:
            case "current_setting" if first is None:
                self.opaque = self.opaque or bool(arguments)
            case "current_setting":
                assert first is not None
                self.settings.add(Setting(first.lower()))
            case "set_config":
                self.sets.add(first.lower() if first is not None else "*")
            case "pg_notify":
                self.channels.add(first if first is not None else "*")
            case "getpgusername":
                self.identities.add("current_user")
            case word if word in _JSON_PATHS:
                keys = [_constant(a) for a in arguments[1:]]
                if None not in keys:
                    self._claimed(arguments[0], tuple(k for k in keys if k is not None))
            case word if word in _JSON_LISTS and arguments:
                self._claimed(arguments[0], (EACH,))
        self.calls.add(name)

    def _A_Expr(self, node: Node, local: frozenset[str]) -> None:
        del local
        operator = _strings(node.get("name"))[-1:]
        left, right = node.get("lexpr"), node.get("rexpr")
        if operator and operator[0] in ("->", "->>", "#>", "#>>"):
            key = _constant(right)
            if key is not None:
                path = key.strip("{}").split(",") if operator[0][0] == "#" else [key]
                self._claimed(left, tuple(p.strip().strip('"') for p in path))
            return
        if operator and operator[0] in _IN_LIST:
            self._claimed(left, (EACH,))
        for one, other in ((left, right), (right, left)):
            self._compared(one, other)
            for literal in _constants(other):
                self.settings |= {
                    Setting(s.name, s.claims, frozenset({literal})) for s in _asked(one)
                }

    def _SubLink(self, node: Node, local: frozenset[str]) -> None:
        del local
        self._compared(node.get("testexpr"), node.get("subselect"))

    def _compared(self, one: Node, other: Node) -> None:
        """A column on one side, and something of the session on the other."""
        column = _column(one)
        if not column:
            return
        walk = _Walk()
        walk.visit(other)
        said = walk.effects()
        for setting in said.settings:
            self.matches |= {Match(column, setting.name, c) for c in _whole(setting.claims)}
        self.matches |= {Match(column, identity=i) for i in said.identities}
        self.matches |= {
            Match(column, call=c, claim=way) for c in _own_calls(said) for way in said.ways(c)
        }
        if said.reads:
            self.matches.add(Match(column, reads=said.reads))

    def _claimed(self, node: Node, path: Parts) -> None:
        """A key taken from the document that a setting holds, at the end of those before it."""
        while isinstance(node, dict):
            (kind, inner), *_ = node.items()
            if kind == "TypeCast":
                node = inner.get("arg")
            elif kind == "A_Expr" and _strings(inner.get("name"))[-1:] in (("->",), ("#>",)):
                key = _constant(inner.get("rexpr"))
                if key is None:
                    return
                path = (*(p.strip() for p in key.strip("{}").split(",")), *path)
                node = inner.get("lexpr")
            else:
                break
        walk = _Walk()
        walk.visit(node)
        said = walk.effects()
        for setting in said.settings:
            self.settings.add(Setting(setting.name, frozenset({path})))
        self.claimed |= {(call, path) for call in _own_calls(said)}


@dataclass
class _Procedural:
    """Goes through a function in PL/pgSQL; its expressions are parsed as SQL."""

    function: Mapping[str, Any]
    walk: _Walk

    def visit(self) -> None:
        self._visit(self.function.get("datums", ()))
        self._visit(self.function.get("action", {}))

    def _visit(self, node: Node) -> None:
        if isinstance(node, list | tuple):
            for part in node:
                self._visit(part)
        if not isinstance(node, dict):
            return
        for kind, inner in node.items():
            if kind == "PLpgSQL_expr":
                self._expression(inner)
                continue
            if kind == "PLpgSQL_stmt_return":
                self._returned(inner)
            if kind == "PLpgSQL_stmt_raise" and inner.get("elog_level", 21) >= 21:
                self.walk.raises = True
            made = kind in ("PLpgSQL_stmt_dynexecute", "PLpgSQL_stmt_dynfors")
            # RETURN QUERY EXECUTE, and OPEN .. FOR EXECUTE.
            if made or (isinstance(inner, dict) and "dynquery" in inner):
                self.walk.opaque = True
            if kind == "PLpgSQL_stmt_assign":
                self._assigned(inner.get("varno"))
            if kind == "PLpgSQL_row":  # what INTO names
                for target in inner.get("fields", ()):
                    self._assigned(target.get("varno"))
            if kind in ("PLpgSQL_stmt_commit", "PLpgSQL_stmt_rollback"):
                self.walk.sets.add("*")
            self._visit(inner)

    def _expression(self, expression: Mapping[str, Any]) -> None:
        text, mode = expression["query"], expression.get("parseMode", _STATEMENT)
        if mode == _STATEMENT:
            self.walk.add(of_query(text))
        elif mode == _EXPRESSION:
            # Not in parentheses: `FOR i IN 1, 2` and `RETURN a, b` have lists.
            self.walk.add(of_query(f"SELECT {text}"))
        else:
            assigned = _ASSIGNMENT.search(text)
            self.walk.add(of_query(f"SELECT {text[assigned.end() :] if assigned else text}"))

    def _returned(self, statement: Mapping[str, Any]) -> None:
        """A trigger that returns no row, or the old one, leaves the new one out."""
        text = statement.get("expr", {}).get("PLpgSQL_expr", {}).get("query", "").strip().lower()
        datums, number = self.function.get("datums", ()), statement.get("retvarno")
        if isinstance(number, int) and 0 <= number < len(datums):
            ((_, datum),) = datums[number].items()
            text = text or datum.get("refname", "")
        self.walk.returns_null = self.walk.returns_null or text == "null"
        self.walk.returns_old = self.walk.returns_old or text == "old"

    def _assigned(self, number: int | None) -> None:
        datums = self.function.get("datums", ())
        if number is None or number >= len(datums):
            return
        ((kind, datum),) = datums[number].items()
        parent = datum.get("recparentno")
        if kind == "PLpgSQL_recfield" and parent is not None:
            ((_, record),) = datums[parent].items()
            if record.get("refname") == "new":
                self.walk.assigns.add(datum["fieldname"])
        elif kind == "PLpgSQL_rec" and datum.get("refname") == "new":
            self.walk.assigns.add("*")


def _merged(found: Iterable[Setting]) -> frozenset[Setting]:
    """One entry for each name."""
    by_name: dict[str, list[Setting]] = {}
    for setting in found:
        by_name.setdefault(setting.name, []).append(setting)
    return frozenset(
        Setting(
            name,
            frozenset().union(*(s.claims for s in same)),
            frozenset().union(*(s.literals for s in same)),
        )
        for name, same in by_name.items()
    )


def _whole(ways: Iterable[Parts]) -> list[Parts]:
    """The longest ways; those they begin with were met on the way."""
    every = set(ways)
    return sorted(w for w in every if not any(_begins(w, other) for other in every)) or [()]


def _own_calls(said: Effects) -> Iterator[Parts]:
    """The calls of functions that are not the server's own."""
    return (c for c in said.calls if c[-1] not in _PASSING and c[0] != "pg_catalog")


def _begins(one: Parts, other: Parts) -> bool:
    return len(one) < len(other) and other[: len(one)] == one


def _column(node: Node) -> Parts:
    """The column that a node is, whatever it is cast to; empty for anything else."""
    while isinstance(node, dict) and "TypeCast" in node:
        node = node["TypeCast"].get("arg")
    if isinstance(node, dict) and "ColumnRef" in node:
        return _strings(node["ColumnRef"].get("fields"))
    return ()


def _asked(node: Node) -> frozenset[Setting]:
    """The settings asked for below a node."""
    walk = _Walk()
    walk.visit(node)
    return walk.effects().settings


def _relation(node: Mapping[str, Any]) -> Parts:
    inner = node.get("RangeVar", node)
    schema = inner.get("schemaname")
    return (schema, inner["relname"]) if schema else (inner["relname"],)


def _strings(node: Node) -> Parts:
    """The names in a list of String nodes."""
    if isinstance(node, dict):
        node = node.get("List", {}).get("items", [node])
    return tuple(n["String"]["sval"] for n in node or () if "String" in n)


def _constant(node: Node) -> str | None:
    """The text of a literal, whatever it is cast to."""
    while isinstance(node, dict) and "TypeCast" in node:
        node = node["TypeCast"].get("arg")
    if not isinstance(node, dict) or "A_Const" not in node:
        return None
    inner = node["A_Const"]
    text = inner.get("sval", {}).get("sval")
    return text if isinstance(text, str) else None


def _constants(node: Node) -> Iterator[str]:
    """The literals of one side of a comparison, lists and arrays included."""
    if isinstance(node, list):
        for part in node:
            yield from _constants(part)
    elif isinstance(node, dict):
        if "List" in node:
            yield from _constants(node["List"].get("items", []))
        elif "A_ArrayExpr" in node:
            yield from _constants(node["A_ArrayExpr"].get("elements", []))
        elif (text := _constant(node)) is not None:
            yield text
