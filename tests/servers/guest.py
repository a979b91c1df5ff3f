"""A server of somebody else's, with databases and roles in use, that may be restarted."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from invariants.servers.account import server_account
from invariants.servers.binaries import Binaries, find_binaries

SETTINGS = {
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "60",
    "listen_addresses": "",
    "log_min_messages": "fatal",
}

# What the owner has on it.
THEIRS = """
CREATE ROLE boss LOGIN CREATEDB PASSWORD 'theirs';
CREATE ROLE reader NOINHERIT;
CREATE ROLE auditor;
GRANT reader TO boss;
GRANT auditor TO boss WITH ADMIN OPTION;
ALTER ROLE boss SET work_mem = '5MB';
ALTER ROLE boss CONNECTION LIMIT 3 VALID UNTIL '2040-01-01 00:00:00+00';
COMMENT ON ROLE reader IS 'may read';
CREATE DATABASE shop OWNER boss;
ALTER DATABASE shop SET lock_timeout = '7s';
GRANT CONNECT ON DATABASE shop TO reader;
"""
IN_SHOP = """
CREATE TABLE precious AS SELECT 1 AS id;
ALTER TABLE precious OWNER TO boss;
GRANT SELECT ON precious TO reader;
CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql
  AS $$ BEGIN IF current_user <> 'boss' THEN RAISE 'hands off'; END IF; END $$;
CREATE EVENT TRIGGER refuse ON ddl_command_start EXECUTE FUNCTION refuse();
"""


class Guest:
    """The server: its folder, its programs, and a superuser's conninfo that names `shop`."""

    def __init__(self, folder: Path, binaries: Binaries) -> None:
        self.folder, self.bin = folder, binaries.bin
        self.data = folder / "data"
        self.account = server_account()
        self.run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
            file.write(f"unix_socket_directories = '{folder}'\n")
        self.start()
        self.execute(THEIRS, "postgres")
        self.execute(IN_SHOP)

    @property
    def conninfo(self) -> str:
        """The superuser's, as its owner would write it."""
        return f"host={self.folder} port=5432 user=postgres dbname=shop"

    def run(self, program: str, *arguments: str) -> str:
        """Run one of the server's programs; returns what it prints."""
        done = subprocess.run(
            [str(self.bin / program), *arguments],
            stdout=subprocess.PIPE if program != "pg_ctl" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            cwd="/",
            **self.account.spawn,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout or ""

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.run("pg_ctl", "-D", str(self.data), "-w", "-l", str(self.folder / "log"), "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stop: `immediate` is a crash, after which it has to recover."""
        self.run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def execute(self, script: str, database: str = "shop") -> None:
        """Run a script as the superuser, one statement after the other."""
        with psycopg.connect(self.conninfo, dbname=database, autocommit=True) as connection:
            for statement in re.split(r";\n(?=\S|\Z)", script):
                if statement.strip():
                    connection.execute(statement.strip().rstrip(";").encode())

    def rows(self, query: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """What a query returns to the superuser."""
        with psycopg.connect(self.conninfo, dbname=database, autocommit=True) as connection:
            return connection.execute(query.encode()).fetchall()

    def names(self) -> list[str]:
        """The databases and roles of ours that are there."""
        found = self.rows(
            "SELECT datname FROM pg_database WHERE datname LIKE 'invariants%' UNION ALL"
            " SELECT rolname FROM pg_roles WHERE rolname LIKE 'invariants%' ORDER BY 1"
        )
        return [str(name) for (name,) in found]

    def dump(self) -> str:
        """All that is on the server, as pg_dumpall writes it."""
        text = self.run("pg_dumpall", "-h", str(self.folder), "-p", "5432", "-U", "postgres")
        # Newer versions write a key that is another every time.
        return re.sub(r"(?m)^\\(un)?restrict .*$", "", text)


@contextmanager
def guest(major: int = 18) -> Iterator[Guest]:
    """A server for the length of a `with` statement."""
    memory = Path("/dev/shm")
    parent = str(memory) if memory.is_dir() else "/tmp"
    folder = Path(tempfile.mkdtemp(prefix="ig", dir=parent))
    account = server_account()
    shutil.chown(folder, account.uid, account.gid)
    made: Guest | None = None
    try:
        made = Guest(folder, find_binaries(major))
        yield made
    finally:
        if made is not None and (made.data / "postmaster.pid").exists():
            made.stop()
        shutil.rmtree(folder, ignore_errors=True)
