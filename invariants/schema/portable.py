"""A catalog as it can be compared across servers: whoever migrated, whatever the major version.

What `difference` reads, told so that it does not depend on which role ran the migrations, which
server they ran on, and which PostgreSQL prints it: NOT NULL constraints (a column says so already),
MAINTAIN beside all other privileges, columns qualified in a view of one relation. Besides: what the
contract's roles are and whom they may become.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from invariants.schema.difference import PRELUDE, QUERIES, gather, is_of_tools

MIGRATOR = "(migrator)"
OWNER = "(owner)"
_NAMES = "invariants.migrators"
_NAME = r"pg_get_userbyid\(([\w.]+)\)|([\w.]+)::regrole"
_ALL = frozenset(["DELETE", "INSERT", "REFERENCES", "SELECT", "TRIGGER", "TRUNCATE", "UPDATE"])
_PRIVILEGES = """
SELECT acl.kind, acl.name, pg_get_userbyid(acl.owner),
       CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee) END,
       pg_get_userbyid(x.grantor), x.privilege_type, x.is_grantable
FROM acl, LATERAL aclexplode(acl.items) x
WHERE NOT (acl.kind = 'database' AND x.privilege_type = 'CONNECT')
"""
_ROLES = """
SELECT 'role', quote_ident(r.rolname),
       concat_ws(E'\\n', concat_ws(' ',
           CASE WHEN rolsuper THEN 'superuser' END, CASE WHEN rolbypassrls THEN 'bypassrls' END,
           CASE WHEN rolcreaterole THEN 'createrole' END,
           CASE WHEN rolcreatedb THEN 'createdb' END, CASE WHEN rolcanlogin THEN 'login' END,
           CASE WHEN rolreplication THEN 'replication' END,
           CASE WHEN NOT rolinherit THEN 'noinherit' END),
           (SELECT string_agg('member of ' || quote_ident(g.rolname)
                              || CASE WHEN m.admin_option THEN ' with admin option' ELSE '' END,
                              E'\\n' ORDER BY g.rolname)
            FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid),
           (SELECT string_agg('set ' || c, E'\\n' ORDER BY c)
            FROM pg_db_role_setting s, unnest(s.setconfig) c
            WHERE s.setrole = r.oid AND s.setdatabase = 0))
FROM pg_roles r WHERE rolname = ANY (%s)
"""
# The owner of the table that Alembic keeps, else whoever owns most.
_MIGRATOR = """
SELECT pg_get_userbyid(c.relowner)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
GROUP BY c.relowner ORDER BY bool_or(c.relname = 'alembic_version') DESC, count(*) DESC, 1 LIMIT 1
"""
_AS_MADE = """
SELECT n.nspacl IS NOT DISTINCT FROM i.initprivs, (SELECT rolname FROM pg_roles WHERE oid = 10)
FROM pg_namespace n LEFT JOIN pg_init_privs i
  ON i.objoid = n.oid AND i.classoid = 'pg_namespace'::regclass
WHERE n.nspname = 'public'
"""


def migrator(conn: psycopg.Connection[Any]) -> str | None:
    """Who has migrated a database, as far as it shows; None of an empty one."""
    with conn.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(_MIGRATOR).fetchone()
    return row[0] if row else None


def portable_catalog(
    conn: psycopg.Connection[Any], migrators: Collection[str], roles: Collection[str]
) -> dict[str, str]:
    """Everything in the catalog by 'kind name'; `migrators` all go by one name.

    Of the tools that migrate, and of what is a server's own affair, nothing.
    """
    found: dict[str, str] = {}
    with conn.transaction(force_rollback=True), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET LOCAL search_path = pg_catalog")
        cursor.execute(
            "SELECT set_config(%s, %s, true)", (_NAMES, "\x01".join(sorted(migrators)) or "\x01")
        )
        for query in QUERIES:
            if "SELECT 'privileges'" not in query:
                gather(found, cursor.execute(_named(PRELUDE + query).encode()))
        rows = cursor.execute(_named(PRELUDE + _PRIVILEGES).encode()).fetchall()
        gather(found, cursor.execute(_ROLES.encode(), [list(roles)]))
        gather(found, _privileges(rows))
        as_made, bootstrap = cursor.execute(_AS_MADE).fetchone() or (False, "")
    _settle_public(found, as_made, bootstrap)
    told = {k: _portable(k, text) for k, text in found.items() if not is_of_tools(k)}
    told |= _orders({k: text for k, text in found.items() if not is_of_tools(k)})
    return {
        key: text
        for key, text in sorted(told.items())
        if key != "database owner"
        and not (key.startswith("constraint ") and re.fullmatch(r'NOT NULL ("[^"]+"|\w+)', text))
    }


def _named(query: str) -> str:
    """The query with whoever migrated under one name."""
    names = f"string_to_array(current_setting('{_NAMES}'), E'\\x01')"

    def name(match: re.Match[str]) -> str:
        role = f"pg_get_userbyid({match[1] or match[2]})::text"
        return f"(CASE WHEN {role} = ANY ({names}) THEN '{MIGRATOR}' ELSE {role} END)"

    return re.sub(_NAME, name, query)


def _privileges(rows: Collection[tuple[Any, ...]]) -> Iterator[tuple[str, str, str]]:
    """A line for each grantee: what an owner has and gives goes by what he is."""
    held: dict[tuple[str, str], dict[str, set[str]]] = {}
    for kind, name, owner, grantee, grantor, privilege, grantable in rows:
        who = OWNER if grantee == owner else grantee
        by = "" if grantor == owner else f" by {grantor}"
        word = privilege + (" (grantable)" if grantable and who != OWNER else "")
        held.setdefault((kind, name), {}).setdefault(f"{who}{by}", set()).add(word)
    for (kind, name), of in held.items():
        lines = []
        for who, words in sorted(of.items()):
            for suffix in ("", " (grantable)"):
                if {w + suffix for w in _ALL} <= words:
                    words.discard(f"MAINTAIN{suffix}")
            lines.append(f"{who}: {', '.join(sorted(words))}")
        yield "privileges", f"{kind} {name}".strip(), "\n".join(lines)


def _settle_public(found: dict[str, str], as_made: bool, bootstrap: str) -> None:
    """What every server makes of the schema public, each major in its way, is nobody's doing."""
    if as_made:
        found.pop("privileges schema public", None)
    if "schema public" in found:
        usual = {f"owner {name}" for name in ("pg_database_owner", MIGRATOR, bootstrap)}
        lines = found["schema public"].split("\n")
        found["schema public"] = "\n".join(line for line in lines if line not in usual)


def _portable(key: str, text: str) -> str:
    if key.startswith("column "):
        return re.sub(r"^position \d+ ", "", text)
    if key.startswith("extension "):
        return re.sub(r"^version \S+ ", "", text)
    if key.startswith("sequence ") and "\nowned by " in text:
        # It belongs to whom the table belongs to.
        return text.partition("\n")[2]
    if key.startswith(("view ", "materialized view ")):
        return _unqualified(text)
    return text


def _unqualified(view: str) -> str:
    """The query of one relation without its name before the columns: PostgreSQL 16 left it out."""
    of = re.search(r'\n +FROM ((?:[\w."]+\.)?([\w"]+))(?: ([\w"]+))?(;|\n +(?:WHERE|GROUP))', view)
    if of is None or len(re.findall(r"\bFROM\b", view)) != 1 or "JOIN" in view:
        return view
    alias = re.escape(of[3] or of[2])
    parts = re.split(r"('(?:[^']|'')*')", view)
    return "".join(
        p if i % 2 else re.sub(rf"(?<![\w.\"]){alias}\.", "", p) for i, p in enumerate(parts)
    )


def _orders(found: dict[str, str]) -> dict[str, str]:
    """The order of the columns of each relation."""
    places: dict[str, list[tuple[int, str]]] = {}
    for key, text in found.items():
        if (place := re.match(r"position (\d+) ", text)) and key.startswith("column "):
            relation, _, column = key.removeprefix("column ").rpartition(".")
            places.setdefault(relation, []).append((int(place[1]), column))
    return {f"column order {r}": "\n".join(c for _, c in sorted(p)) for r, p in places.items()}
