"""Makes the environment name one database, in every variable that names one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from urllib.parse import quote, urlencode

NOWHERE = "/nonexistent"
DOTENV_BYTES_MAX = 1 << 16
_URL = re.compile(r"(postgres(?:ql)?(?:\+\w+)?)://", re.IGNORECASE)
# Known to every version of libpq, and to asyncpg.
_IN_URL = ("sslmode", "sslrootcert", "sslcert", "sslkey")
_OF_LIBPQ = re.compile(r"PG[A-Z]+")
# What libpq and its programs read that says nothing about where to connect.
_HARMLESS = {"PGTZ", "PGDATESTYLE", "PGGEQO", "PGCLIENTENCODING", "PGAPPNAME", "PGDATA"}
_LINE = re.compile(r"\s*(?:export\s+)?(\w+)\s*=\s*['\"]?(.*?)['\"]?\s*")


def lead(
    environment: MutableMapping[str, str],
    parameters: Mapping[str, str],
    variables: Mapping[str, str],
    folders: Iterable[Path],
) -> None:
    """Point all variables of libpq, and all that hold a URL of PostgreSQL, to one database.

    `parameters` are libpq's, `variables` the same under the names of its variables. What a file
    `.env` in `folders` says is overridden: whoever reads one takes the environment first. A URL
    keeps its scheme, which also says which driver is wanted.
    """
    schemes = {"DATABASE_URL": "postgresql"}
    for name, value in [*_in_files(folders), *environment.items()]:
        if found := _URL.match(value):
            schemes[name] = found[1]
    for name in [n for n in environment if _OF_LIBPQ.fullmatch(n) and n not in _HARMLESS]:
        del environment[name]
    environment.update(variables)
    for name in ("PGPASSFILE", "PGSERVICEFILE", "PGSYSCONFDIR"):
        environment[name] = os.devnull
    for name, scheme in schemes.items():
        environment[name] = f"{scheme}://{_rest(parameters)}"


def _rest(parameters: Mapping[str, str]) -> str:
    """What follows the scheme. A folder of a socket is quoted: then every URL has a host."""
    host = parameters.get("host") or parameters.get("hostaddr") or NOWHERE
    named = f"[{host}]" if ":" in host and not host.startswith("/") else quote(host, safe="")
    user = quote(parameters.get("user", "postgres"), safe="")
    if password := parameters.get("password"):
        user += f":{quote(password, safe='')}"
    port = parameters.get("port") or "5432"
    database = quote(parameters.get("dbname", "postgres"), safe="")
    query = {k: v for k, v in parameters.items() if k in _IN_URL}
    return f"{user}@{named}:{port}/{database}" + (f"?{urlencode(query)}" if query else "")


def _in_files(folders: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for path in sorted(folder.glob(".env*")):
            try:
                if path.is_file() and path.stat().st_size <= DOTENV_BYTES_MAX:
                    text = path.read_text(encoding="utf-8", errors="replace")
                    for line in text.splitlines():
                        if found := _LINE.fullmatch(line):
                            yield found[1], found[2]
            except OSError:
                continue  # who cannot read it now cannot read it later
