"""Schemas that need extensions, on servers that have them and on some that have not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from invariants.errors import InfrastructureError
from invariants.servers import open_server
from invariants.servers.base import Content, database_message
from invariants.servers.binaries import find_binaries, having
from tests.conftest import lacking


def creating(*extensions: str) -> Content:
    def fill(conninfo: str) -> None:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            for extension in extensions:
                try:
                    connection.execute(f'CREATE EXTENSION "{extension}"'.encode())
                except psycopg.Error as error:
                    raise InfrastructureError(
                        f"migration 1 (1.py) failed: {database_message(error)}"
                    ) from error

    return Content("extensions " + " ".join(extensions), fill)


def test_the_default_has_contrib_modules(cache: Path) -> None:
    del cache
    said: list[str] = []
    with closing(
        open_server("embedded", creating("citext", "btree_gist"), say=said.append)
    ) as server:
        assert server.info.version.startswith("18")


def test_another_embedded_server_is_taken_for_what_the_default_lacks(cache: Path) -> None:
    del cache
    if not having("pgcrypto"):
        lacking("no package with pgcrypto is installed")
    assert "pgcrypto" not in find_binaries(18).extensions
    said: list[str] = []
    with closing(
        open_server("embedded", creating("citext", "pgcrypto"), say=said.append)
    ) as server:
        assert server.info.version.startswith("17")
    assert any("pgcrypto" in line and "17" in line for line in said)


@pytest.mark.parametrize("spec", ["embedded", "embedded:18"])
def test_what_nobody_has_is_named_in_one_line(cache: Path, spec: str) -> None:
    del cache
    with pytest.raises(InfrastructureError, match="postgis") as caught:
        open_server(spec, creating("postgis"), say=lambda _: None)
    assert len(str(caught.value).splitlines()) == 1
    assert "container:" in str(caught.value)
