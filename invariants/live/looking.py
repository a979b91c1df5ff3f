"""A look at a database that is in use: one transaction that only reads, and waits for nobody.

Read only is said three times over (startup packet, transaction, and no statement here that writes);
nothing is locked above ACCESS SHARE, and a lock that somebody else holds is waited for a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from invariants.errors import InfrastructureError, UsageError
from invariants.servers.base import database_message

_SECONDS = 30


def checked(url: str) -> str:
    """The URL. Raises `UsageError` where it is none."""
    if not re.match(r"postgres(ql)?://", url):
        raise UsageError("URL: not a database; name one as postgresql://USER@HOST/DATABASE")
    return url


@contextmanager
def looking(url: str, seconds: float = _SECONDS) -> Iterator[psycopg.Connection[Any]]:
    """A connection in its one transaction, undone at the end. No statement takes longer.

    Rows that row level security would hide are an error instead. Raises `InfrastructureError`.
    """
    options = " ".join(
        f"-c {name}={value}"
        for name, value in {
            "default_transaction_read_only": "on",
            "lock_timeout": "1s",
            "statement_timeout": f"{int(seconds * 1000)}ms",
            "idle_in_transaction_session_timeout": "5min",
            "search_path": "pg_catalog",
            "row_security": "off",
            "TimeZone": "UTC",
            "DateStyle": "ISO",
            "quote_all_identifiers": "off",
        }.items()
    )
    try:
        connection = psycopg.connect(
            url, options=options, connect_timeout=10, application_name="invariants"
        )
    except psycopg.Error as error:
        why = database_message(error)
        remedy = "; name the server itself, not a pooler" if "startup parameter" in why else ""
        raise InfrastructureError(f"URL: {why}{remedy}") from None
    try:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield connection
    except psycopg.errors.LockNotAvailable:
        raise InfrastructureError(
            "URL: somebody holds a lock that keeps readers out (a migration is running?), and it "
            "is not waited for; run again later"
        ) from None
    except psycopg.errors.QueryCanceled:
        raise InfrastructureError(
            f"URL: a statement took longer than {seconds:g} s and was given up; run again when "
            "there is less to do there"
        ) from None
    except psycopg.Error as error:
        raise InfrastructureError(f"URL: {database_message(error)}") from None
    finally:
        # Nothing was written; an open transaction is undone by this.
        connection.close()
