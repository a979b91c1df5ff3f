"""The mark of our databases: each is created with an OID that its name stands for.

A database gets name and OID in one step, so there is no moment in which one of ours lacks its mark,
and nobody else's has it: the server counts its own OIDs up from 16384. A name alone proves nothing.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import psycopg
from psycopg.rows import tuple_row

# Every database we create starts with this, on every kind of server.
DATABASE_PREFIX = "invariants_"
# Far above what a server counts up to in years.
_LOWEST = 1 << 31
# Far above the limits of connections that people set, and below what fits there.
_LEAST, _SPAN = 1 << 29, 1 << 29
# Before 15 the OID cannot be chosen; then it is the limit of connections, as high as none.
VERSION_WITH_OID = 150000


def mark(version: int, name: str) -> str:
    """What to add to CREATE DATABASE, for a server of this version, to mark a database as ours."""
    number = _number(name)
    if version >= VERSION_WITH_OID:
        return f"OID {_LOWEST + number}"
    return f"CONNECTION LIMIT {number}"


def marked(connection: psycopg.Connection[Any], pattern: str = "") -> list[str]:
    """The databases that bear our mark and whose name, without our prefix, matches a pattern."""
    mark = "oid::bigint" if connection.info.server_version >= VERSION_WITH_OID else "datconnlimit"
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            f"SELECT datname, {mark} FROM pg_database WHERE starts_with(datname, %s)"
            " ORDER BY datname".encode(),
            [DATABASE_PREFIX],
        ).fetchall()
    return [
        name
        for name, number in rows
        if number % _LOWEST == _number(name)
        and re.match(pattern, name.removeprefix(DATABASE_PREFIX))
    ]


def _number(name: str) -> int:
    digest = hashlib.sha256(f"invariants database {name}".encode()).digest()
    return _LEAST + int.from_bytes(digest[:8], "big") % _SPAN
