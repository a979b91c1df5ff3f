"""What a user's code does to its process is a failed migration, or nothing at all."""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

import pytest

from invariants.errors import InfrastructureError, UsageError
from invariants.schema import runner
from invariants.schema.chain import Migrations, read, upgrade
from tests.conftest import query
from tests.schema.conftest import ENV, Project

FAILS = {
    "import sys; sys.exit(0)": "SystemExit: 0",
    "import sys; sys.exit()": "SystemExit",
    "import sys; sys.exit('bye')": "SystemExit: bye",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "import os; os._exit(0)": "it ended the process with exit status 0",
    "import os; os._exit(1)": "it ended the process with exit status 1",
    "import os; os.kill(os.getpid(), 9)": "it ended the process by signal 9",
    "op.execute('SELECT nothing')": 'column "nothing" does not exist',
    "raise ValueError('two\\nlines')": "ValueError: two",
    "raise ValueError('\\x1b[2J')": "ValueError: \\x1b[2J",
    "raise ValueError('postgresql://me:s3cret@host/db')": "ValueError: postgresql://me:***@host/db",
    "raise ValueError('password=s3cret')": "ValueError: password=***",
}


@pytest.mark.parametrize("code", FAILS)
def test_a_migration_that_ends_is_one_that_failed(project: Project, code: str) -> None:
    project.revision(1, code)
    with pytest.raises(InfrastructureError) as caught:
        project.upgrade()
    assert str(caught.value) == f"migration b2 (b2_x.py) failed: {FAILS[code]}"


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_an_env_that_ends_has_failed(project: Project, code: str) -> None:
    project.write("scripts/env.py", ENV + code)
    with pytest.raises(InfrastructureError) as caught:
        project.upgrade()
    why = "SystemExit: 0" if "sys" in code else "it ended the process with exit status 0"
    after = r"running the migrations failed"
    assert re.fullmatch(rf".*alembic\.ini: {after}: {why}", str(caught.value))


@pytest.mark.parametrize("code", ["import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_a_file_that_ends_while_it_is_loaded(project: Project, code: str) -> None:
    path = project.revision(1, "pass")
    path.write_text(f"{path.read_text()}\n{code}\n")
    with pytest.raises(InfrastructureError, match=r"cannot load the migrations: b2_x\.py: "):
        read(project.migrations())


def test_a_file_that_connects_while_it_is_loaded(project: Project) -> None:
    path = project.revision(1, "pass")
    path.write_text(
        path.read_text() + f"import psycopg\npsycopg.connect({project.databases.developers!r})\n"
    )
    with pytest.raises(InfrastructureError, match=r"b2_x\.py: .* while it is loaded"):
        read(project.migrations())


def left(word: str) -> list[str]:
    """Processes with the word in their command line."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word in (line := path.read_text()):
                found.append(line)
    return found


HANGS = [
    "import time; time.sleep(99.125)",
    "import subprocess; subprocess.run(['sleep', '99.125'])",
    "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(99.125)",
    "op.execute('SELECT pg_sleep(99.125)')",
    "import threading\nthreading.Event().wait()",
    "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
]


@pytest.mark.parametrize("code", HANGS)
def test_a_migration_that_hangs_is_stopped(project: Project, code: str) -> None:
    project.revision(1, code)
    started = time.monotonic()
    with pytest.raises(InfrastructureError) as caught:
        project.upgrade(timeout_seconds=2.0)
    assert time.monotonic() - started < 30
    assert str(caught.value) == (
        "migration b2 (b2_x.py) ran for more than 2 s and was stopped; "
        "mend it, or let it take longer with --migration-timeout"
    )
    assert left("99.125") == []


HARMLESS = [
    "import os; os.environ.clear(); os.chdir('/')",
    "import os; os.environ['DATABASE_URL'] = 'postgresql:///developers_own'",
    "import sys; assert sys.stdin.read() == ''; print('x' * 100000); print('y', file=sys.stderr)",
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.alarm(1)",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(99.25,)).start()",
    "import subprocess; subprocess.Popen(['sleep', '99.25'])",
    "import logging.config\nlogging.config.dictConfig({'version': 1})",
    "import os\nif os.fork() == 0: os._exit(0)",
    "import sys; sys.stdout.close(); sys.stderr = None",
]


@pytest.mark.parametrize("code", HARMLESS)
def test_what_it_does_to_its_process_stays_there(
    project: Project, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    project.revision(1, code)
    before = dict(os.environ), Path.cwd()
    project.upgrade()
    assert (dict(os.environ), Path.cwd()) == before
    assert capfd.readouterr() == ("", "")
    assert left("99.25") == []
    assert query(project.databases.template, "TABLE alembic_version") == [("b2",)]
    # The next one begins anew.
    assert read(project.migrations()).lineage.applied == ("a1", "b2")


def test_what_it_printed_is_told_when_it_fails(project: Project) -> None:
    project.revision(1, "print('password=s3cret', 'about to fail')\nraise ValueError")
    said: list[str] = []
    with pytest.raises(InfrastructureError, match="ValueError"):
        upgrade(project.databases.template, project.migrations(), said.append)
    assert said == ["migrations: password=*** about to fail"]


def test_a_long_one_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TOLD_AFTER_SECONDS", 0.2)
    project.revision(1, "import time; time.sleep(1)")
    assert project.upgrade()[-1] == "migration b2 (b2_x.py) is running .."


# The configuration

BROKEN = {
    "empty": (b"", "script_location is not set"),
    "no section": (b"[other]\nx = 1\n", "script_location is not set"),
    "no header": (b"script_location = x\n", "not a configuration that Alembic can read: "),
    "broken": (b"[alembic\nscript_location = x\n", "not a configuration that Alembic can read: "),
    "twice": (b"[alembic]\n[alembic]\n", "not a configuration that Alembic can read: "),
    "binary": (b"\xff\xfe\x00\x00[alembic]", "not a configuration that Alembic can read: "),
    "unknown name": (b"[alembic]\nscript_location = %(nope)s/x\n", "not a configuration that"),
    "bad percent": (b"[alembic]\nscript_location = 5%d\n", "not a configuration that Alembic"),
    "no such folder": (b"[alembic]\nscript_location = %(here)s/absent\n", "absent"),
    "bad number": (
        b"[alembic]\nscript_location = %(here)s/scripts\ntruncate_slug_length = x\n",
        "not a configuration that Alembic can read: ",
    ),
    "bad separator": (
        b"[alembic]\nscript_location = %(here)s/scripts\npath_separator = x\n"
        b"prepend_sys_path = .\n",
        "not a configuration that Alembic can read: ",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_configuration(project: Project, what: str) -> None:
    content, told = BROKEN[what]
    path = project.folder / "alembic.ini"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read(project.migrations())
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_for_a_configuration(project: Project) -> None:
    with pytest.raises(UsageError, match="a folder, not an Alembic configuration"):
        read(Migrations(project.folder))


@pytest.mark.parametrize("name", ["pct%d", "%", "%(here)s", "100%%", "%s $x 'y' \"z\""])
def test_any_name_of_a_folder(project: Project, name: str) -> None:
    project.folder.rename(other := project.folder.parent / name)
    moved = Project(other, project.databases)
    os.chdir(other)
    moved.upgrade()
    assert query(project.databases.template, "TABLE alembic_version") == [("b2",)]


@pytest.mark.parametrize(
    "revision", ["", " ", "\n", "zz", "base", "a1:b2", "+1", "head-1x", "@", "a1@", "\0", "%"]
)
def test_an_unknown_revision(project: Project, revision: str) -> None:
    with pytest.raises(UsageError, match=r"^--revision .*: unknown; known are head, a1, b2$"):
        read(Migrations(project.folder / "alembic.ini", revision))
