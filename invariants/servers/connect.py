"""What our own connections rely on, whatever the server, a database or a role has for defaults.

It is said in the startup packet (libpq's `options`): there it overrules postgresql.conf, ALTER
SYSTEM, ALTER DATABASE and ALTER ROLE, and is in force before the first statement, so that no
timeout of a millisecond comes between. A conninfo that `relying` has returned passes it on to every
conninfo made of it (`make_conninfo(conninfo, dbname=..)`), in this process or another.

Who connects as another role than the superuser takes `as_login`: what only a superuser may set is
left out there. Where ALTER DATABASE or ALTER ROLE gives a search path that is part of the schema,
`with_own_search_path` lets it through.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# Everybody may set these.
SETTINGS: Mapping[str, str] = {
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "role": "none",
    "row_security": "on",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "check_function_bodies": "on",
    "default_tablespace": "",
    "temp_tablespaces": "",
    "default_table_access_method": "heap",
    "client_encoding": "UTF8",
    "client_min_messages": "notice",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "xmlbinary": "base64",
    "xmloption": "content",
    "extra_float_digits": "1",
    # What we write is thrown away; the journal, which must not be lost, sets its own.
    "synchronous_commit": "off",
}
# Whose default may be the schema's own: a migration may have set it for its database.
SEARCH_PATH: Mapping[str, str] = {"search_path": '"$user", public'}
SUPERUSER_SETTINGS: Mapping[str, str] = {
    "session_replication_role": "origin",
    "lc_messages": "C",
    "lo_compat_privileges": "off",
}
# Where an older server would refuse the connection for a name that it does not know.
SETTINGS_SINCE: Mapping[int, Mapping[str, str]] = {170000: {"transaction_timeout": "0"}}


def relying(conninfo: str) -> str:
    """The conninfo with what our connections rely on. Connects, to see who and where we are.

    Raises psycopg.Error when there is no connection.
    """
    known = _with(conninfo, {**SETTINGS, **SEARCH_PATH})
    with psycopg.connect(known) as connection:  # no statement, so nothing can time out
        version = connection.info.server_version
        superuser = connection.info.parameter_status("is_superuser") == "on"
    for since, settings in SETTINGS_SINCE.items():
        if version >= since:
            known = _with(known, settings)
    return _with(known, SUPERUSER_SETTINGS) if superuser else known


# libpq's parameters that variables of the environment set, and what they are on a server of ours.
_SETTLED: Mapping[str, str] = {
    "hostaddr": "",
    "sslmode": "disable",
    "sslnegotiation": "postgres",
    "sslcertmode": "allow",
    "ssl_min_protocol_version": "TLSv1.2",
    "ssl_max_protocol_version": "",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
    "load_balance_hosts": "disable",
    "connect_timeout": "30",
    "gssencmode": "disable",
    "channel_binding": "prefer",
    "require_auth": "none,scram-sha-256,md5",
    "target_session_attrs": "any",
    "client_encoding": "UTF8",
}


# What PGSERVICE was, and how many servers of our own are open, which it would lead astray.
_services: list[str] = []
_servers: list[object] = []


def service_kept(server: object) -> None:
    """A server of our own is open: PGSERVICE stays away."""
    _servers.append(server)


def service_returned(server: object) -> None:
    """A server of our own is closed: after the last one PGSERVICE is what it was."""
    _servers[:] = [s for s in _servers if s is not server]
    if not _servers and _services:
        os.environ.setdefault("PGSERVICE", _services[0])
        _services.clear()


def settled(conninfo: str) -> str:
    """The conninfo of a server of our own, so that no variable such as PGHOSTADDR has a say.

    PGSERVICE alone cannot be overruled by a conninfo: it is taken out of the environment, and put
    back when the last such server is closed (`service_returned`).
    """
    if (service := os.environ.pop("PGSERVICE", None)) is not None:
        _services.append(service)
    known = {o.keyword.decode() for o in pq.Conninfo.get_defaults()}
    return make_conninfo(conninfo, **{k: v for k, v in _SETTLED.items() if k in known})


def with_own_search_path(conninfo: str) -> str:
    """The conninfo without a search path of ours: its database, or its role, has one of its own."""
    return _without(conninfo, SEARCH_PATH)


def as_login(conninfo: str, user: str, password: str | None = None) -> str:
    """The conninfo of another role, no superuser: without what only a superuser may set."""
    plain = _without(conninfo, SUPERUSER_SETTINGS)
    return make_conninfo(plain, user=user, password=password)


def _with(conninfo: str, settings: Mapping[str, str]) -> str:
    given = str(conninfo_to_dict(conninfo).get("options") or "")
    added = " ".join(_option(name, value) for name, value in settings.items())
    return make_conninfo(conninfo, options=f"{given} {added}".strip())


def _without(conninfo: str, settings: Mapping[str, str]) -> str:
    options = str(conninfo_to_dict(conninfo).get("options") or "")
    for name, value in settings.items():
        options = options.replace(_option(name, value), "")
    return make_conninfo(conninfo, options=" ".join(options.split()))


def _option(name: str, value: str) -> str:
    escaped = re.sub(r"([\\\s])", r"\\\1", value)
    return f"-c {name}={escaped}"
