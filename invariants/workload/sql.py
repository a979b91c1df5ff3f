"""Statements as SQL: with parameters for the server, with literals for people and for psql."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from psycopg import sql as pgsql

from invariants.workload import inquiries
from invariants.workload.operations import (
    OPERATOR,
    RUNS_AS_ANOTHER,
    Assignments,
    Attach,
    Become,
    Call,
    Comment,
    CommentTarget,
    Conflict,
    Copy,
    Delete,
    Inquire,
    Insert,
    Json,
    Leftover,
    LeftoverTarget,
    Merge,
    Operation,
    Refresh,
    Row,
    Select,
    Set,
    Shadow,
    Statement,
    Transaction,
    Truncate,
    Update,
    Value,
)
from invariants.workload.templates import Templates

Parameters = tuple[str | None, ...]

# What a session sets so that no index keeps the conditions of a query from seeing all rows.
SCANS_OFF = ("enable_indexscan", "enable_indexonlyscan", "enable_bitmapscan")

# What COMMENT calls it.
_COMMENTED: Mapping[CommentTarget, str] = {
    "table": "TABLE",
    "view": "VIEW",
    "materialized view": "MATERIALIZED VIEW",
    "function": "FUNCTION",
    "procedure": "PROCEDURE",
}

# What is left in a session: of its own process, and nothing that was there when it began.
_LEFT: Mapping[LeftoverTarget, str] = {
    "setting": "SELECT current_setting($1, true) AS value WHERE current_setting($1, true) <> ''",
    "server settings": "SELECT name, setting FROM pg_settings WHERE source = 'session' "
    "AND name <> ALL (ARRAY['client_encoding', 'transaction_isolation']) ORDER BY 1",
    "advisory locks": "SELECT classid, objid, objsubid FROM pg_locks "
    "WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "temporary objects": "SELECT relname AS name FROM pg_class "
    "WHERE relnamespace = pg_my_temp_schema() "
    "AND (relkind = 'v' OR relkind IN ('r', 'S') AND pg_relation_size(oid) > 0)",
    "channels": "SELECT name FROM pg_listening_channels() AS name",
    "prepared statements": "SELECT name FROM pg_prepared_statements WHERE from_sql",
    "cursors": "SELECT name FROM pg_cursors WHERE is_holdable",
}

_PART = re.compile(r'"(?:[^"]|"")++"|[^\W\d][\w$]*+')
# Words, names in quotes, dots, commas and brackets of arrays: no text of a statement.
_SIGNATURE = re.compile(
    rf"((?:{_PART.pattern})(?:\.(?:{_PART.pattern}))?)"
    rf"\(((?:(?:{_PART.pattern})|[., ]|\[\])*+)\)\Z"
)
_ARGUMENT = re.compile(r'(?:"(?:[^"]|"")*"|[^,"])+')
# What takes any type is given one.
_CONCRETE = {
    **dict.fromkeys(
        ("anyelement", "anynonarray", "anycompatible", "anycompatiblenonarray"), "text"
    ),
    **dict.fromkeys(("anyarray", "anycompatiblearray"), "text[]"),
}
# What lets a client choose a key that the server would number always.
_OVERRIDING = " OVERRIDING SYSTEM VALUE"
_IN_QUOTES = re.compile(r'"(?:[^"]|"")+"\Z')
_PARTS = re.compile(r'"(?:[^"]|"")+"(?=\.|\Z)|[^.]+')
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*\Z")
# Names that must be quoted although they look plain: PostgreSQL's reserved words.
_RESERVED = frozenset(
    [
        "all",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "asymmetric",
        "both",
        "case",
        "cast",
        "check",
        "collate",
        "column",
        "constraint",
        "create",
        "current_catalog",
        "current_date",
        "current_role",
        "current_time",
        "current_timestamp",
        "current_user",
        "default",
        "deferrable",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "false",
        "fetch",
        "for",
        "foreign",
        "from",
        "grant",
        "group",
        "having",
        "in",
        "initially",
        "intersect",
        "into",
        "lateral",
        "leading",
        "limit",
        "localtime",
        "localtimestamp",
        "not",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "placing",
        "primary",
        "references",
        "returning",
        "select",
        "session_user",
        "some",
        "symmetric",
        "system_user",
        "table",
        "then",
        "to",
        "trailing",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "variadic",
        "when",
        "where",
        "window",
        "with",
    ]
)


@lru_cache(maxsize=4096)
def name(identifier: str) -> str:
    """A relation's name, quoted where need be; `schema.table` in its two parts.

    A part with a dot or a quote in it stands in quotes already, as the catalog has it.
    """
    return ".".join(_part(_bare(part)) for part in _PARTS.findall(identifier))


def _bare(part: str) -> str:
    return part[1:-1].replace('""', '"') if _IN_QUOTES.match(part) else part


@lru_cache(maxsize=4096)
def column(identifier: str) -> str:
    """A column's name: there is no schema in it, whatever dots there are."""
    return _part(identifier)


def _part(identifier: str) -> str:
    if _PLAIN.match(identifier) and identifier not in _RESERVED:
        return identifier
    return '"' + identifier.replace('"', '""') + '"'


@lru_cache(maxsize=1024)
def signature(routine: str) -> str:
    """A function by its name and argument types, as `pg_get_function_identity_arguments` has it.

    Of names, types and commas alone: raises ValueError for a text that is anything else.
    """
    found = _SIGNATURE.match(routine)
    if found is None:
        raise ValueError(f"{routine!r} is not the name of a function with the types it takes")
    return f"{_qualified(found[1])}({found[2]})"


def _qualified(spelled: str) -> str:
    """A name in its parts, some of them in quotes."""
    parts = (p[1:-1].replace('""', '"') if p[0] == '"' else p for p in _PART.findall(spelled))
    return ".".join(map(_part, parts))


@lru_cache(maxsize=1024)
def _call(routine: str, procedure: bool) -> str:
    """A call with a placeholder for each argument, by the types that stand in its signature."""
    found = _SIGNATURE.match(routine)
    if found is None:
        return f"SELECT * FROM {name(routine)}()"
    types = [t.strip() for t in _ARGUMENT.findall(found[2])]
    values = ", ".join(_argument(kind, i) for i, kind in enumerate(types, 1))
    called = f"{_qualified(found[1])}({values})"
    return f"CALL {called}" if procedure else f"SELECT * FROM {called}"


def _argument(kind: str, number: int) -> str:
    bare = kind.removeprefix("VARIADIC ")
    word = "VARIADIC " if bare != kind else ""
    return f"{word}(${number})::{_CONCRETE.get(bare, bare)}"


@lru_cache(maxsize=256)
def role(identifier: str) -> str:
    """A role's name: there is no schema in it, whatever dots there are."""
    return _part(identifier)


def names(identifiers: tuple[str, ...]) -> str:
    """Names of columns separated by commas."""
    return ", ".join(map(column, identifiers))


def text(value: Value) -> str | None:
    """A value as PostgreSQL reads it in text form; None is NULL."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.text if isinstance(value, Json) else str(value)


def literal(value: Value) -> str:
    """A value as an SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool | int):
        return str(value).lower()
    return quote(value.text if isinstance(value, Json) else value)


def quote(string: str) -> str:
    """A string literal."""
    if "\\" in string:
        return pgsql.Literal(string).as_string().strip()
    return "'" + string.replace("'", "''") + "'"


@lru_cache(maxsize=8192)
def _insert(
    relation: str,
    columns: tuple[str, ...],
    rows: int,
    conflict: Conflict | None,
    overriding: bool,
) -> str:
    width = len(columns)
    if not width:
        return f"INSERT INTO {name(relation)} DEFAULT VALUES"
    values = ", ".join(
        "(" + ", ".join(f"${r * width + c + 1}" for c in range(width)) + ")" for r in range(rows)
    )
    return (
        f"INSERT INTO {name(relation)} ({names(columns)}){_OVERRIDING if overriding else ''} "
        f"VALUES {values}{_conflict(conflict)}"
    )


def _conflict(conflict: Conflict | None) -> str:
    if conflict is None:
        return ""
    target = f" ({names(conflict.target)})" if conflict.target else ""
    where = f" WHERE {conflict.where}" if conflict.where else ""
    if not conflict.updates:
        return f" ON CONFLICT{target}{where} DO NOTHING"
    updates = ", ".join(f"{column(c)} = EXCLUDED.{column(c)}" for c in conflict.updates)
    return f" ON CONFLICT{target}{where} DO UPDATE SET {updates}"


@lru_cache(maxsize=8192)
def _merge(
    relation: str,
    columns: tuple[str, ...],
    on: tuple[str, ...],
    updates: tuple[str, ...],
    overriding: bool,
) -> str:
    match = " AND ".join(f"t.{column(c)} = s.{column(c)}" for c in on)
    change = (
        "UPDATE SET " + ", ".join(f"{column(c)} = s.{column(c)}" for c in updates)
        if updates
        else "DO NOTHING"
    )
    values = ", ".join(f"s.{column(c)}" for c in columns)
    return (
        f"MERGE INTO {name(relation)} AS t "
        f"USING (SELECT * FROM jsonb_populate_record(NULL::{name(relation)}, $1)) AS s ON {match} "
        f"WHEN MATCHED THEN {change} "
        f"WHEN NOT MATCHED THEN INSERT ({names(columns)}){_OVERRIDING if overriding else ''} "
        f"VALUES ({values})"
    )


def _merge_source(statement: Merge) -> str:
    row = zip(statement.columns, statement.row, strict=True)
    return Json.of({c: v.document if isinstance(v, Json) else v for c, v in row}).text


def _where(assignments: Assignments, first: int) -> tuple[str, Parameters]:
    if not assignments:
        return "", ()
    terms, values = [], []
    for column, value in assignments:
        if value is None:
            terms.append(f"{_part(column)} IS NULL")
        else:
            values.append(text(value))
            terms.append(f"{_part(column)} = ${first + len(values) - 1}")
    return " WHERE " + " AND ".join(terms), tuple(values)


def _flat(rows: tuple[Row, ...]) -> Parameters:
    return tuple(text(v) for row in rows for v in row)


def parametrised(statement: Statement) -> tuple[str, Parameters]:
    """SQL with `$n` placeholders and the values in text form. COPY has no such form."""
    match statement:
        case Insert(relation, columns, rows, conflict, overriding):
            return _insert(relation, columns, len(rows), conflict, overriding), _flat(rows)
        case Select(relation, where, columns, leak):
            clause, values = _where(where, 1)
            if leak:
                clause += (
                    f" {'AND' if clause else 'WHERE'} {column(leak)}::text::pg_lsn IS NOT NULL"
                )
            return f"SELECT {names(columns) or '*'} FROM {name(relation)}{clause}", values
        case Update(relation, assign, where):
            setting = ", ".join(f"{column(c)} = ${i}" for i, (c, _) in enumerate(assign, 1))
            clause, values = _where(where, len(assign) + 1)
            return (
                f"UPDATE {name(relation)} SET {setting}{clause}",
                tuple(text(v) for _, v in assign) + values,
            )
        case Delete(relation, where):
            clause, values = _where(where, 1)
            return f"DELETE FROM {name(relation)}{clause}", values
        case Truncate(relation, cascade):
            return f"TRUNCATE {name(relation)}{' CASCADE' if cascade else ''}", ()
        case Merge(relation, columns, _, on, updates, overriding):
            return _merge(relation, columns, on, updates, overriding), (_merge_source(statement),)
        case Refresh(relation, concurrently):
            how = " CONCURRENTLY" if concurrently else ""
            return f"REFRESH MATERIALIZED VIEW{how} {name(relation)}", ()
        case Call(relation, arguments, procedure):
            return _call(relation, procedure), tuple(map(text, arguments))
        case Copy(relation, columns, _):
            return f"COPY {name(relation)} ({names(columns)}) FROM STDIN", ()
        case Comment(relation, target):
            routine = target in ("function", "procedure")
            what = signature(relation) if routine else name(relation)
            return f"COMMENT ON {_COMMENTED[target]} {what} IS 'taken'", ()
        case Attach(relation):
            return _attach(signature(relation)), ()
        case Shadow(relation, target):
            return _shadow(relation, target), ()
        case Set(relation, value):
            return "SELECT set_config($1, $2, true)", (relation, value)
        case Become(relation):
            return "SELECT set_config('role', $1, true)", (relation,)
        case Inquire():
            return inquiries.inquiry(statement, name)
        case Leftover(relation, target):
            return _LEFT[target], (relation,) if target == "setting" else ()


def _attach(function: str) -> str:
    return block(
        "BEGIN CREATE TEMP TABLE own () ON COMMIT DROP; "
        f"CREATE TRIGGER own AFTER INSERT ON own EXECUTE FUNCTION {function}; END"
    )


@lru_cache(maxsize=256)
def _shadow(relation: str, target: str) -> str:
    bare = relation.rpartition(".")[2]
    function, shadow = name(f"pg_temp.shadow_{bare}"), name(f"pg_temp.{bare}")
    # Who called, by SET ROLE or by a login: neither changes in a function that runs as its owner.
    caller = "coalesce(nullif(current_setting('role'), 'none'), session_user)"
    made = (
        f"CREATE DOMAIN {shadow} AS {name(relation)} CHECK ({function}())"
        if target == "type"
        else f"CREATE VIEW {shadow} AS SELECT * FROM {name(relation)} WHERE {function}()"
    )
    body = (
        f"BEGIN IF current_user = {caller} THEN RETURN true; END IF; "
        "RAISE EXCEPTION '% runs what another role made', current_user "
        f"USING ERRCODE = '{RUNS_AS_ANOTHER}', TABLE = {quote(relation)}; END"
    )
    return block(
        f"BEGIN CREATE FUNCTION {function}() RETURNS boolean LANGUAGE plpgsql "
        f"AS {_dollars(f' {body} ', 'f')}; {made}; END"
    )


def block(body: str) -> str:
    """A DO statement that runs PL/pgSQL, in quotes that nothing in it can end."""
    return f"DO {_dollars(f' {body} ')}"


def _dollars(text: str, tag: str = "") -> str:
    """Text between dollars; no name in it can end it."""
    while f"${tag}$" in text:
        tag += "x"
    return f"${tag}${text}${tag}$"


def acting(operation: Operation, templates: Templates, *, login: bool = False) -> tuple[str, ...]:
    """What makes the actor of an operation, inside its transaction.

    By SET, which unlike a function call leaves the snapshot to the first statement proper. In the
    session of a login that acts for the role; else in a superuser's, which is to be one no more
    when something resets the role.
    """
    actor = operation.actor
    lines = [f"SET LOCAL {name(s)} = {quote(v)}" for s, v in templates.values(actor)]
    if actor.role != OPERATOR:
        become = "ROLE" if login else "SESSION AUTHORIZATION"
        lines.append(f"SET LOCAL {become} {role(actor.role)}")
    lines += [f"SET LOCAL {s} = {quote(v)}" for s, v in local_settings(operation)]
    return tuple(lines)


def local_settings(operation: Operation) -> tuple[tuple[str, str], ...]:
    """What an operation's transaction sets besides what makes its actor."""
    return (*operation.settings, *((s, "off") for s in SCANS_OFF if operation.leaks))


def opening(
    transaction: Transaction, templates: Templates, *, login: bool = False
) -> tuple[str, ...]:
    """What begins a transaction and makes the actor."""
    begin = f"BEGIN ISOLATION LEVEL {transaction.isolation.upper()}"
    return (begin, *acting(transaction.operation, templates, login=login))


def ending(transaction: Transaction, part: int) -> str:
    """What comes in a part after the statements: the check of deferred constraints, or the end."""
    if part < transaction.turns - 1:
        return "SET CONSTRAINTS ALL IMMEDIATE"
    return "COMMIT" if transaction.commits else "ROLLBACK"


# Or a name or a literal, in which a dollar is a dollar.
_PLACEHOLDER = re.compile(r"""\$(\d+)|"(?:[^"]|"")*"|'(?:[^']|'')*'""")


def spelled(statement: Statement) -> str:
    """SQL with literals, one statement without its semicolon; for COPY without its data."""
    match statement:
        case Set(relation, value):
            return f"SET LOCAL {name(relation)} TO {'DEFAULT' if value is None else quote(value)}"
        case Become(relation):
            return f"SET LOCAL ROLE {role(relation)}"
    query, values = parametrised(statement)
    if not values:
        return query
    native = _values(statement)
    told = values if native is None else native
    return _PLACEHOLDER.sub(lambda m: literal(told[int(m[1]) - 1]) if m[1] else m[0], query)


def _values(statement: Statement) -> tuple[Value, ...] | None:
    """The values behind the placeholders as they are, so that numbers print as numbers."""
    match statement:
        case Insert(_, _, rows):
            return tuple(v for row in rows for v in row)
        case Update(_, assign, where):
            return tuple(v for _, v in assign) + tuple(v for _, v in where if v is not None)
        case Select(_, where) | Delete(_, where):
            return tuple(v for _, v in where if v is not None)
        case Call(_, arguments):
            return arguments
        case _:
            return None


def copy_data(rows: tuple[Row, ...]) -> str:
    """Rows in COPY's text format, each ended by a newline."""
    return "".join("\t".join(_copy_field(text(v)) for v in row) + "\n" for row in rows)


def _copy_field(field: str | None) -> str:
    if field is None:
        return "\\N"
    for raw, escaped in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r")):
        field = field.replace(raw, escaped)
    return field
