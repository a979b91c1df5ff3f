"""What a database's catalog says, as text by name, and how two such readings differ.

Everything people can change in the schemas of the user and on the database itself: names,
definitions, owners, privileges, comments, what is switched on. Not the rows, not OIDs, not
attribute numbers, and not what an extension or the server brought along.
"""

import difflib
from collections.abc import Iterable
from typing import Any, LiteralString

import psycopg
from psycopg.rows import tuple_row

from invariants.schema.catalog import TOOLS_SCHEMAS, TOOLS_TABLES

# Schemas of the user, relations in them, and the rendering of privileges. An unset ACL means the
# owner's default; acldefault() spells it out, so that GRANT followed by REVOKE is no difference.
PRELUDE: LiteralString = """
WITH member AS (
    SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), ns AS (
    SELECT n.* FROM pg_namespace n
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND NOT EXISTS (
          SELECT FROM member m WHERE m.classid = 'pg_namespace'::regclass AND m.objid = n.oid)
), rel AS (
    SELECT c.*, format('%I.%I', ns.nspname, c.relname) AS name
    FROM pg_class c JOIN ns ON ns.oid = c.relnamespace
    WHERE NOT EXISTS (
        SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
), proc AS (
    SELECT p.*,
           format('%I.%I(%s)', ns.nspname, p.proname, pg_get_function_identity_arguments(p.oid))
               AS name
    FROM pg_proc p JOIN ns ON ns.oid = p.pronamespace
    WHERE NOT EXISTS (
        SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = p.oid)
), typ AS (
    SELECT t.*, format('%I.%I', ns.nspname, t.typname) AS name
    FROM pg_type t JOIN ns ON ns.oid = t.typnamespace
    WHERE t.typtype IN ('c', 'd', 'e', 'r')
      AND (t.typrelid = 0 OR EXISTS (
          SELECT FROM pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c'))
      AND NOT EXISTS (
          SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)
), acl AS (
    SELECT 'schema' AS kind, quote_ident(nspname) AS name,
           coalesce(nspacl, acldefault('n', nspowner)) AS items, nspowner AS owner
    FROM ns
    UNION ALL
    SELECT 'relation', name,
           coalesce(relacl, acldefault(
               CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r'::"char" END, relowner)),
           relowner
    FROM rel WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT 'column', format('%s.%I', rel.name, a.attname), a.attacl, relowner
    FROM rel JOIN pg_attribute a ON a.attrelid = rel.oid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attacl IS NOT NULL
    UNION ALL
    SELECT 'function', name, coalesce(proacl, acldefault('f', proowner)), proowner FROM proc
    UNION ALL
    SELECT 'type', name, coalesce(typacl, acldefault('T', typowner)), typowner FROM typ
    UNION ALL
    SELECT 'default', concat_ws(' ', d.defaclrole::regrole, n.nspname, d.defaclobjtype),
           d.defaclacl, d.defaclrole
    FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
    UNION ALL
    SELECT 'database', '', coalesce(datacl, acldefault('d', datdba)), datdba
    FROM pg_database WHERE datname = current_database()
)
"""

# Each query gives (kind, name, definition).
QUERIES: tuple[LiteralString, ...] = (
    """
    SELECT 'schema', quote_ident(nspname),
           concat_ws(E'\\n', 'owner ' || pg_get_userbyid(nspowner),
                     'comment ' || obj_description(oid, 'pg_namespace'))
    FROM ns
    """,
    """
    SELECT 'extension', quote_ident(extname), format('version %s in %I', extversion, n.nspname)
    FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
    """,
    # Tables, views, materialized views, sequences, composite types; indexes have their own query.
    """
    SELECT CASE relkind
               WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' WHEN 'v' THEN 'view'
               WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
               WHEN 'f' THEN 'foreign table' ELSE 'relation' END,
           rel.name,
           concat_ws(E'\\n',
               'owner ' || pg_get_userbyid(relowner),
               'persistence ' || relpersistence::text,
               'access method ' || am.amname,
               'row level security'
                   || CASE WHEN relrowsecurity THEN ' enabled' ELSE ' disabled' END
                   || CASE WHEN relforcerowsecurity THEN ', forced' ELSE '' END,
               'options ' || (SELECT string_agg(o, ', ' ORDER BY o) FROM unnest(reloptions) o),
               'partitioned by ' || pg_get_partkeydef(rel.oid),
               'partition ' || pg_get_expr(relpartbound, rel.oid),
               'inherits ' || (
                   SELECT string_agg(inhparent::regclass::text, ', ' ORDER BY inhseqno)
                   FROM pg_inherits WHERE inhrelid = rel.oid),
               'replica identity ' || nullif(relreplident, 'd')::text,
               CASE WHEN relkind IN ('v', 'm') THEN pg_get_viewdef(rel.oid) END,
               (SELECT format('as %s start %s increment %s min %s max %s cache %s%s',
                              format_type(s.seqtypid, NULL), s.seqstart, s.seqincrement, s.seqmin,
                              s.seqmax, s.seqcache, CASE WHEN s.seqcycle THEN ' cycle' END)
                FROM pg_sequence s WHERE s.seqrelid = rel.oid),
               (SELECT 'owned by ' || pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid)
                FROM pg_depend d
                WHERE relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = rel.oid
                  AND d.deptype IN ('a', 'i')))
    FROM rel LEFT JOIN pg_am am ON am.oid = rel.relam
    WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
    """,
    # The position counts living columns only.
    """
    SELECT 'column', format('%s.%I', rel.name, a.attname),
           concat_ws(' ',
               format('position %s', row_number() OVER (PARTITION BY rel.oid ORDER BY a.attnum)),
               format_type(a.atttypid, a.atttypmod),
               'collate ' || (
                   SELECT collname FROM pg_collation
                   WHERE oid = a.attcollation AND collname <> 'default'),
               CASE WHEN a.attnotnull THEN 'not null' END,
               CASE WHEN a.attgenerated <> '' THEN format('generated (%s) as ', a.attgenerated)
                    WHEN d.adbin IS NOT NULL THEN 'default ' END || pg_get_expr(d.adbin, d.adrelid),
               'identity ' || nullif(a.attidentity, '')::text)
    FROM rel
    JOIN pg_attribute a ON a.attrelid = rel.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE rel.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
    """,
    """
    SELECT 'constraint', format('%s.%I', rel.name, c.conname),
           pg_get_constraintdef(c.oid) || CASE WHEN c.convalidated THEN '' ELSE ' NOT VALID' END
    FROM pg_constraint c JOIN rel ON rel.oid = c.conrelid
    WHERE c.contype <> 't'
    UNION ALL
    SELECT 'constraint', format('%s.%I', typ.name, c.conname), pg_get_constraintdef(c.oid)
    FROM pg_constraint c JOIN typ ON typ.oid = c.contypid
    """,
    """
    SELECT 'index', rel.name,
           pg_get_indexdef(rel.oid)
               || CASE WHEN i.indisvalid THEN '' ELSE ' INVALID' END
               || CASE WHEN i.indisreplident THEN ' REPLICA IDENTITY' ELSE '' END
               || CASE WHEN i.indisclustered THEN ' CLUSTERED' ELSE '' END
    FROM rel JOIN pg_index i ON i.indexrelid = rel.oid
    """,
    # Foreign keys work through internal triggers, and those can be switched off.
    """
    SELECT 'trigger', format('%s.%I', rel.name, t.tgname),
           format('%s enabled %s', pg_get_triggerdef(t.oid), t.tgenabled)
    FROM pg_trigger t JOIN rel ON rel.oid = t.tgrelid
    WHERE NOT t.tgisinternal
    UNION ALL
    SELECT 'internal trigger',
           format('%s.%I %s', rel.name, c.conname, t.tgfoid::regproc),
           format('enabled %s', t.tgenabled)
    FROM pg_trigger t
    JOIN rel ON rel.oid = t.tgrelid
    JOIN pg_constraint c ON c.oid = t.tgconstraint
    WHERE t.tgisinternal
    """,
    """
    SELECT 'rule', format('%s.%I', rel.name, r.rulename),
           format('%s enabled %s', pg_get_ruledef(r.oid), r.ev_enabled)
    FROM pg_rewrite r JOIN rel ON rel.oid = r.ev_class
    WHERE r.rulename <> '_RETURN'
    """,
    """
    SELECT 'policy', format('%s.%I', rel.name, p.polname),
           concat_ws(E'\\n',
               CASE WHEN p.polpermissive THEN 'permissive' ELSE 'restrictive' END,
               'for ' || CASE p.polcmd WHEN 'r' THEN 'select' WHEN 'a' THEN 'insert'
                                       WHEN 'w' THEN 'update' WHEN 'd' THEN 'delete'
                                       ELSE 'all' END,
               'to ' || (
                   SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r) END, ', '
                                     ORDER BY CASE r WHEN 0 THEN '' ELSE pg_get_userbyid(r) END)
                   FROM unnest(p.polroles) r),
               'using ' || pg_get_expr(p.polqual, p.polrelid),
               'with check ' || pg_get_expr(p.polwithcheck, p.polrelid))
    FROM pg_policy p JOIN rel ON rel.oid = p.polrelid
    """,
    # pg_get_functiondef() shows SECURITY DEFINER and SET, and refuses aggregates.
    """
    SELECT CASE prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END,
           proc.name,
           concat_ws(E'\\n',
               'owner ' || pg_get_userbyid(proowner),
               CASE WHEN prosecdef THEN 'security definer' ELSE 'security invoker' END,
               'config ' || (SELECT string_agg(c, ', ' ORDER BY c) FROM unnest(proconfig) c),
               CASE WHEN prokind <> 'a' THEN pg_get_functiondef(proc.oid) END,
               (SELECT format('returns %s sfunc %s finalfunc %s stype %s initial %s',
                              format_type(proc.prorettype, NULL), g.aggtransfn, g.aggfinalfn,
                              format_type(g.aggtranstype, NULL), g.agginitval)
                FROM pg_aggregate g WHERE g.aggfnoid = proc.oid))
    FROM proc
    """,
    """
    SELECT 'type', typ.name,
           concat_ws(E'\\n',
               CASE typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'r' THEN 'range'
                            ELSE 'composite' END,
               'owner ' || pg_get_userbyid(typowner),
               'labels ' || (
                   SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
                   FROM pg_enum WHERE enumtypid = typ.oid),
               'over ' || format_type(nullif(typbasetype, 0), typtypmod),
               CASE WHEN typnotnull THEN 'not null' END,
               'default ' || typdefault,
               'subtype ' || (
                   SELECT format_type(rngsubtype, NULL) FROM pg_range WHERE rngtypid = typ.oid))
    FROM typ
    """,
    """
    SELECT 'privileges', concat_ws(' ', acl.kind, nullif(acl.name, '')),
           string_agg(grantee || ': ' || privileges, E'\\n' ORDER BY grantee, privileges)
    FROM acl, LATERAL (
        SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(x.grantee) END AS grantee,
               string_agg(
                   x.privilege_type || CASE WHEN x.is_grantable THEN ' (grantable)' ELSE '' END,
                   ', ' ORDER BY x.privilege_type)
                   || ' by ' || pg_get_userbyid(x.grantor) AS privileges
        FROM aclexplode(acl.items) x
        GROUP BY x.grantee, x.grantor
    ) shown
    GROUP BY acl.kind, acl.name
    """,
    # Objects the user made have OIDs from 16384 on; the server's own descriptions are below.
    """
    SELECT 'comment', concat_ws(' ', o.type, o.identity), d.description
    FROM pg_description d,
         LATERAL pg_identify_object(d.classoid, d.objoid, d.objsubid) o
    WHERE d.objoid >= 16384
      AND NOT EXISTS (SELECT FROM member m WHERE m.classid = d.classoid AND m.objid = d.objoid)
    """,
    """
    SELECT 'event trigger', quote_ident(evtname),
           format('on %s execute %s tags %s enabled %s owner %s', evtevent, evtfoid::regproc,
                  evttags, evtenabled, pg_get_userbyid(evtowner))
    FROM pg_event_trigger
    """,
    """
    SELECT 'statistics', format('%I.%I', ns.nspname, s.stxname), pg_get_statisticsobjdef(s.oid)
    FROM pg_statistic_ext s JOIN ns ON ns.oid = s.stxnamespace
    """,
    """
    SELECT 'database', 'owner', pg_get_userbyid(datdba)
    FROM pg_database WHERE datname = current_database()
    UNION ALL
    SELECT 'setting', CASE s.setrole WHEN 0 THEN 'everyone' ELSE pg_get_userbyid(s.setrole) END,
           (SELECT string_agg(c, E'\\n' ORDER BY c) FROM unnest(s.setconfig) c)
    FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
    WHERE d.datname = current_database()
    """,
)


def catalog_fingerprint(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """Everything in the catalog of this database, by 'kind name', sorted."""
    found: dict[str, str] = {}
    # Undone at the end, search_path included: the names below come out fully qualified.
    with conn.transaction(force_rollback=True), conn.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SET LOCAL search_path = pg_catalog")
        for query in QUERIES:
            cursor.execute(PRELUDE + query)
            gather(found, cursor)
    return dict(sorted(found.items()))


def gather(found: dict[str, str], rows: Iterable[tuple[str, str, str]]) -> None:
    """Add what a query has given: (kind, name, definition)."""
    for kind, name, definition in sorted(rows):
        key = f"{kind} {name}"
        # Only internal triggers of one foreign key to its own table can share a name.
        found[key] = f"{found[key]}\n{definition}" if key in found else definition


def is_of_tools(name: str) -> bool:
    """Whether an entry is of the books that a tool for migrations keeps."""
    words = name.replace(".", " ").replace('"', " ").replace("_pkc", " ").split()
    return any(w in TOOLS_TABLES or w in TOOLS_SCHEMAS for w in words)


def catalog_difference(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """One line per object that came or went, several per object that changed."""
    lines: list[str] = []
    for key in sorted(before.keys() | after.keys()):
        if key not in after:
            lines.append(f"removed: {key}")
        elif key not in before:
            lines.append(f"added: {key}")
        elif before[key] != after[key]:
            lines.append(f"changed: {key}")
            delta = difflib.ndiff(before[key].splitlines(), after[key].splitlines())
            lines.extend(f"    {line}" for line in delta if line[0] in "+-")
    return lines
