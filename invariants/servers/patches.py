"""Runs SQL files on the template, as `psql -f` would: statement by statement, as the superuser."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg

from invariants.errors import InfrastructureError, UsageError
from invariants.servers.base import connect, database_message

# What may hide a semicolon. An E'..' string has backslash escapes, others do not.
_TOKEN = re.compile(
    r"""(?P<line>--[^\n]*)
    | (?P<block>/\*)
    | (?P<escaped>\b[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<dollar>(?<![\w$])\$(?P<tag>[^\W\d]\w*)?\$.*?\$(?P=tag)?\$)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<end>;)
    | (?P<backslash>\\)""",
    re.VERBOSE | re.DOTALL,
)
LIMIT_SECONDS = 600.0
_DOLLAR = re.compile(r"\$(?:[^\W\d]\w*)?\$")


@dataclass(frozen=True)
class Statement:
    """One statement of a file and the line, from 1, on which it begins."""

    text: str
    line: int


def apply_patch(conninfo: str, path: Path, *, limit_seconds: float = LIMIT_SECONDS) -> None:
    """Run the file on the database. Raises UsageError with file, line and the server's message.

    Raises InfrastructureError when it takes longer than the limit.
    """
    try:
        script = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UsageError(f"{path}: cannot read this patch ({reason})") from error
    with connect(conninfo) as connection, _limited(connection, conninfo, limit_seconds) as over:
        for statement in statements(script, str(path)):
            try:
                connection.execute(statement.text.encode())
            except psycopg.Error as error:
                if over.is_set():
                    raise InfrastructureError(
                        f"{path}:{statement.line}: the patch ran for more than "
                        f"{limit_seconds:g} s and was stopped; mend it, or let it take longer "
                        "with --migration-timeout"
                    ) from error
                if connection.broken and error.sqlstate in (None, "57P01", "57P02", "57P03"):
                    raise InfrastructureError(
                        f"the server went away during {path}: {database_message(error)}"
                    ) from error
                raise UsageError(_failure(path, statement, error)) from error


@contextmanager
def _limited(
    connection: psycopg.Connection, conninfo: str, seconds: float
) -> Iterator[threading.Event]:
    """End the session when the time is over, which is told by the event.

    Cancelling its statement would not do: a script can catch that, and lift statement_timeout.
    """
    over = threading.Event()
    pid = connection.info.backend_pid

    def end() -> None:
        over.set()
        with suppress(InfrastructureError, psycopg.Error), connect(conninfo) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [pid])

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield over
    finally:
        timer.cancel()


def statements(script: str, name: str = "script") -> Iterator[Statement]:
    """Split a script into its statements, the way psql does."""
    start = position = 0
    words: list[str] = []
    depth = 0  # of BEGIN ATOMIC and CASE blocks, inside which a semicolon does not end
    while position < len(script):
        token = _TOKEN.match(script, position)
        if token is None:
            position += 1
            continue
        kind = token.lastgroup if token.lastgroup != "tag" else "dollar"
        position = token.end()
        if kind == "block":
            position = _comment_end(script, position)
        elif kind == "dollar":
            position = _dollar_end(script, token.start())
        elif kind == "word":
            word = token["word"].lower()
            if word == "atomic" and words[-1:] == ["begin"] and words[:1] == ["create"]:
                depth = 1
            elif depth and word in ("begin", "case"):
                depth += 1
            elif depth and word == "end":
                depth -= 1
            words.append(word)
        elif kind == "backslash" and not words:
            line = script.count("\n", 0, token.start()) + 1
            raise UsageError(f"{name}:{line}: commands of psql are not available; use SQL only")
        elif kind == "end" and not depth:
            yield from _statement(script, start, position, words)
            start, words = position, []
    yield from _statement(script, start, len(script), words)


def _statement(script: str, start: int, end: int, words: list[str]) -> Iterator[Statement]:
    if not words:
        return
    # Comments before the statement are not where it begins.
    while start < end:
        token = _TOKEN.match(script, start)
        if token is not None and token.lastgroup == "line":
            start = token.end()
        elif token is not None and token.lastgroup == "block":
            start = _comment_end(script, token.end())
        elif script[start].isspace():
            start += 1
        else:
            break
    yield Statement(script[start:end], script.count("\n", 0, start) + 1)


def _comment_end(script: str, position: int) -> int:
    """Return where the block comment open at `position` ends; they nest."""
    depth = 1
    for mark in re.finditer(r"/\*|\*/", script[position:]):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return position + mark.end()
    return len(script)


def _dollar_end(script: str, position: int) -> int:
    opening = _DOLLAR.match(script, position)
    assert opening is not None
    end = script.find(opening[0], opening.end())
    return len(script) if end < 0 else end + len(opening[0])


def _failure(path: Path, statement: Statement, error: psycopg.Error) -> str:
    line = statement.line
    if error.diag.statement_position:
        before = statement.text[: int(error.diag.statement_position) - 1]
        line += before.count("\n")
    return f"{path}:{line}: {database_message(error)}"
