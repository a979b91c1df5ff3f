"""Whatever env.py does, the chain runs on the template, and the developer's database stays."""

from __future__ import annotations

import shutil
from pathlib import Path

import alembic
import pytest
from psycopg.conninfo import make_conninfo

from invariants.errors import InfrastructureError
from tests.conftest import query
from tests.schema.conftest import Project

TEMPLATES = Path(alembic.__file__).parent / "templates"
MIGRATED = ["alembic_version", "first", "second"]
REFUSED = r"cannot be led to the scratch database"


def as_initialised(project: Project, template: str, *schemes: str) -> None:
    """What `alembic init --template` writes, with the developer's URL put in, and no more."""
    for path in (TEMPLATES / template).iterdir():
        if path.name == "env.py":
            shutil.copy(path, project.folder / "scripts/env.py")
        elif path.name.endswith(".mako") and path.name != "script.py.mako":
            text = path.read_text().replace("${script_location}", "%(here)s/scripts")
            text = text.replace("%(here)s/%(here)s", "%(here)s").replace("${pathsep}", "/")
            for scheme in schemes:
                url = project.databases.url(scheme).replace("%", "%%")
                text = text.replace("driver://user:pass@localhost/dbname", url, 1)
            project.write(path.name.removesuffix(".mako"), text)


@pytest.mark.parametrize(
    ("template", "scheme"),
    [
        ("generic", "postgresql+psycopg"),
        ("generic", "postgresql+psycopg2"),
        ("generic", "postgresql+pg8000"),
        ("async", "postgresql+asyncpg"),
        ("async", "postgresql+psycopg"),
        ("pyproject", "postgresql+psycopg"),
        ("pyproject_async", "postgresql+asyncpg"),
    ],
)
def test_what_alembic_init_writes_works_unchanged(
    project: Project, template: str, scheme: str
) -> None:
    as_initialised(project, template, scheme)
    project.upgrade()
    assert project.databases.tables() == MIGRATED


def test_several_databases_become_one(project: Project) -> None:
    as_initialised(project, "multidb", "postgresql+psycopg", "postgresql+psycopg")
    ini = project.folder / "alembic.ini"
    # The template names two databases, as their owner would.
    text = ini.read_text().replace("developers_own", "another", 1)
    ini.write_text(text.replace("driver://user:pass@localhost/dbname2", "postgresql+psycopg:///x"))
    project.revision(0, "op.execute(f'CREATE TABLE first_{engine_name} (id integer)')")
    project.revision(1, "op.execute(f'CREATE TABLE second_{engine_name} (id integer)')")
    project.upgrade()
    assert project.databases.tables() == [
        "alembic_version", "first_engine1", "first_engine2", "second_engine1", "second_engine2",
    ]  # fmt: skip


SETTINGS = """
from alembic import context
from pydantic import PostgresDsn
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import create_engine

class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", env_prefix="APP_", extra="ignore")
    database_url: PostgresDsn

with create_engine(str(Settings().database_url)).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""


@pytest.mark.parametrize("given", ["in the environment", "in .env"])
def test_a_settings_class(project: Project, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("scripts/env.py", SETTINGS)
    url = "postgresql+psycopg://dev:s3cret@localhost:5432/developers_own"
    if given == "in .env":
        project.write(".env", f"APP_DATABASE_URL={url}\n")
    else:
        monkeypatch.setenv("APP_DATABASE_URL", url)
    project.upgrade()
    assert project.databases.tables() == MIGRATED


OWN = """
from alembic import context
{connecting}
with connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
"""

ENGINES = {
    "a URL in the code": "create_engine({url!r})",
    "a URL from the environment": "create_engine(os.environ['DATABASE_URL'])",
    "a creator": "create_engine('postgresql+psycopg://', creator=lambda: psycopg.connect({dsn!r}))",
    "psycopg2's creator": "create_engine('postgresql+psycopg2://',"
    " creator=lambda: psycopg2.connect(**{parameters!r}))",
    "parts": "create_engine(sa.URL.create('postgresql+psycopg', database='developers_own',"
    " query={{'host': {parameters!r}['host']}}))",
}


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_of_its_own(
    project: Project, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", project.databases.url("postgresql+psycopg"))
    made = ENGINES[engine].format(
        url=project.databases.url("postgresql+psycopg"),
        dsn=make_conninfo(**project.databases.parameters()),
        parameters=project.databases.parameters(),
    )
    imports = "import os, psycopg, psycopg2, sqlalchemy as sa\nfrom sqlalchemy import create_engine"
    project.write(
        "scripts/env.py", OWN.format(connecting=f"{imports}\nconnection = {made}.connect()")
    )
    project.upgrade()
    assert project.databases.tables() == MIGRATED


DRIVERS = {
    "psycopg": """
import psycopg
with psycopg.connect({dsn!r}) as own:
    own.execute("CREATE TABLE third (id integer)")
""",
    "psycopg, by parts": """
from psycopg import Connection
with Connection.connect(**{parameters!r}, autocommit=True) as own:
    own.execute("CREATE TABLE third (id integer)")
""",
    "psycopg, async": """
import asyncio, psycopg
async def third():
    async with await psycopg.AsyncConnection.connect({dsn!r}) as own:
        await own.execute("CREATE TABLE third (id integer)")
asyncio.run(third())
""",
    "psycopg2": """
import psycopg2
with psycopg2.connect({dsn!r}) as own:
    own.cursor().execute("CREATE TABLE third (id integer)")
""",
    "psycopg2's class": """
from psycopg2.extensions import connection
own = connection({dsn!r})
own.autocommit = True
own.cursor().execute("CREATE TABLE third (id integer)")
""",
    "asyncpg": """
import asyncio, asyncpg
async def third():
    own = await asyncpg.connect({url!r})
    await own.execute("CREATE TABLE third (id integer)")
asyncio.run(third())
""",
    "asyncpg's pool": """
import asyncio, asyncpg
async def third():
    async with asyncpg.create_pool(**{of_asyncpg!r}) as pool:
        await pool.execute("CREATE TABLE third (id integer)")
asyncio.run(third())
""",
    "pg8000": """
import pg8000.native
own = pg8000.native.Connection("postgres", database="developers_own", unix_sock={socket!r})
own.run("CREATE TABLE third (id integer)")
""",
    "psql": """
import subprocess
subprocess.run(["psql", "-c", "CREATE TABLE third (id integer)"], check=True)
""",
    "psql, the URL": """
import os, subprocess
create = "CREATE TABLE third (id integer)"
subprocess.run(["psql", os.environ["DATABASE_URL"], "-c", create], check=True)
""",
    "a service": """
import psycopg
with psycopg.connect("service=developers") as own:
    own.execute("CREATE TABLE third (id integer)")
""",
}


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_migration_that_connects_by_itself(
    project: Project, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = project.databases.parameters()
    service = "\n".join(f"{k}={v}" for k, v in parameters.items() if k != "options")
    monkeypatch.setenv("PGSERVICEFILE", str(project.write("service", f"[developers]\n{service}\n")))
    monkeypatch.setenv("PGDATABASE", "developers_own")
    monkeypatch.setenv("PGHOST", parameters["host"])
    monkeypatch.setenv("DATABASE_URL", project.databases.url())
    code = DRIVERS[driver].format(
        dsn=make_conninfo(**parameters),
        url=project.databases.url(),
        parameters=parameters,
        of_asyncpg={"host": parameters["host"], "user": "postgres", "database": "developers_own"},
        socket=f"{parameters['host']}/.s.PGSQL.5432",
    )
    project.revision(2, code)
    project.upgrade()
    assert project.databases.tables() == sorted([*MIGRATED, "third"])


def test_what_says_how_to_talk_is_the_callers(project: Project) -> None:
    project.revision(
        2,
        "import psycopg\n"
        f"own = psycopg.connect({project.databases.developers!r},"
        " options='-c search_path=elsewhere', application_name='mine', autocommit=True)\n"
        "assert own.execute('SHOW search_path').fetchone() == ('elsewhere',)\n"
        "assert own.execute('SHOW application_name').fetchone() == ('mine',)\n",
    )
    project.upgrade()


@pytest.mark.parametrize("url", ["sqlite:///developers.db", "mysql+pymysql://localhost/x"])
def test_what_cannot_be_led_is_refused_by_name(project: Project, url: str) -> None:
    project.write(
        "pymysql.py",
        "paramstyle = 'format'\nVERSION = (1, 0, 0, 'final')\nclass Error(Exception): pass\n",
    )
    project.write(
        "scripts/env.py",
        OWN.format(
            connecting="import sys; sys.path.insert(0, '.')\nfrom sqlalchemy import create_engine\n"
            f"connection = create_engine({url!r}).connect()"
        ),
    )
    with pytest.raises(InfrastructureError, match=REFUSED) as caught:
        project.upgrade()
    assert url.split(":")[0].split("+")[0] in str(caught.value)
    assert not (project.folder / "developers.db").exists()


def test_a_database_in_memory_harms_nobody(project: Project) -> None:
    project.revision(
        2,
        "from sqlalchemy import create_engine, text\n"
        "with create_engine('sqlite://').connect() as memory:\n"
        "    assert memory.execute(text('SELECT 1')).scalar() == 1\n",
    )
    project.upgrade()


NOT_THERE = {
    "nothing is run": "",
    "no commit": """
from alembic import context
from sqlalchemy import create_engine
connection = create_engine("postgresql+psycopg://").connect()
context.configure(connection=connection)
context.run_migrations()
connection.rollback()
""",
}


@pytest.mark.parametrize("what", NOT_THERE)
def test_a_template_that_is_not_at_the_revision(project: Project, what: str) -> None:
    project.write("scripts/env.py", NOT_THERE[what])
    with pytest.raises(InfrastructureError, match="is at no revision, not at b2: ") as caught:
        project.upgrade()
    assert "DATABASE_URL" in str(caught.value)
    assert project.databases.tables() == []


@pytest.mark.parametrize("schema", [None, "kept"])
def test_a_version_table_with_a_name_of_its_own(project: Project, schema: str | None) -> None:
    project.write(
        "scripts/env.py",
        "from alembic import context\n"
        "connection = context.config.attributes['connection']\n"
        "connection.exec_driver_sql('CREATE SCHEMA kept')\n"
        f"context.configure(connection=connection, version_table='versions',"
        f" version_table_schema={schema!r})\n"
        "with context.begin_transaction():\n    context.run_migrations()\n",
    )
    project.upgrade()
    named = f"{schema or 'public'}.versions"
    assert query(project.databases.template, f"TABLE {named}") == [("b2",)]
