r"""SQL files as psql reads them: statements, COPY with its rows, and the commands that a dump has.

`\i` and `\ir` read files beside, `\set` names values for `:name`, `\restrict` and what only changes
the output do nothing. What would leave the database (`\connect`, `\!`, `\copy`) or needs answers of
the server (`\gexec`, `\if`) is refused by name: such a file is run by psql, with `command:`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from invariants.errors import UsageError

# What may hide a semicolon. An E'..' string has backslash escapes, others do not.
_TOKEN = re.compile(
    r"""(?P<line>--[^\n]*)
    | (?P<block>/\*)
    | (?P<escaped>\b[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*")
    | (?P<dollar>(?<![\w$])\$(?P<tag>[^\W\d]\w*)?\$.*?\$(?P=tag)?\$)
    | (?P<cast>::|:=)
    | (?P<variable>:(?:'\w+'|"\w+"|\w+))
    | (?P<word>[^\W\d][\w$]*)
    | (?P<end>;)
    | (?P<backslash>\\)""",
    re.VERBOSE | re.DOTALL,
)
_DOLLAR = re.compile(r"\$(?:[^\W\d]\w*)?\$")
_COMMAND = re.compile(r"\\([a-z_]+|[!?.;])[ \t]*([^\n]*)")
_FROM_STDIN = re.compile(r"\bFROM\s+STDIN\b", re.IGNORECASE)
# Whether the file is looked for beside the one that names it, and nowhere else.
_INCLUDES = {"i": False, "include": False, "ir": True, "include_relative": True}
# They change what psql prints, or guard it against what a dump may hold.
_HARMLESS = frozenset(
    {
        *("restrict", "unrestrict", "echo", "qecho", "warn", "timing", "pset", "x", "t", "a"),
        *("H", "f", "errverbose", "unset", "encoding"),
    }
)


@dataclass(frozen=True)
class Statement:
    """One statement of a file, the line, from 1, on which it begins, and the rows of a COPY."""

    text: str
    line: int
    path: Path
    rows: str | None = None

    @property
    def place(self) -> str:
        """Where it stands, for messages."""
        return f"{self.path}:{self.line}"


def read_statements(path: Path) -> Iterator[Statement]:
    """The statements of a file and of those it includes, in their order.

    Raises `UsageError` with file and line for what cannot be read or is not done here.
    """
    yield from _Reader({}).file(path)


def files_read(path: Path) -> list[Path]:
    """The file and all that it includes: what determines its statements."""
    reader = _Reader({})
    for _ in reader.file(path):
        pass
    return reader.read


def run_file(connection: psycopg.Connection, path: Path) -> None:
    """Run a file, each statement a transaction of its own unless the file says BEGIN.

    Raises `psycopg.Error`, with the place added as a note, or `UsageError`.
    """
    for statement in read_statements(path):
        try:
            run_statement(connection, statement)
        except psycopg.Error as error:
            error.add_note(failure_at(statement, error))
            raise


def run_statement(connection: psycopg.Connection, statement: Statement) -> None:
    """Run one statement as it stands, with the rows that follow a COPY."""
    if statement.rows is None:
        connection.execute(statement.text.encode())
        return
    with connection.cursor() as cursor, cursor.copy(statement.text.encode()) as copy:
        copy.write(statement.rows)


def failure_at(statement: Statement, error: psycopg.Error) -> str:
    """The place at which the server found fault: `FILE:LINE`."""
    line = statement.line
    if error.diag.statement_position:
        before = statement.text[: int(error.diag.statement_position) - 1]
        line += before.count("\n")
    return f"{statement.path}:{line}"


@dataclass
class _Reader:
    """Goes through files one after the other; variables live as long as it does."""

    variables: dict[str, str]
    read: list[Path] = field(default_factory=list)
    _open: list[Path] = field(default_factory=list)

    def file(self, path: Path) -> Iterator[Statement]:
        try:
            script = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise UsageError(f"{path}: cannot be read ({reason}); name an SQL script") from None
        if path.resolve() in self._open:
            raise UsageError(f"{path}: includes itself; take the \\i out")
        self.read.append(path)
        self._open.append(path.resolve())
        try:
            yield from self._script(script.replace("\r\n", "\n"), path)
        finally:
            self._open.pop()

    def _script(self, script: str, path: Path) -> Iterator[Statement]:
        start = position = 0
        words: list[str] = []
        used: list[tuple[int, int, str]] = []
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
            elif kind == "variable":
                value = self._value(token[0])
                if value is not None:
                    used.append((token.start(), token.end(), value))
            elif kind == "word":
                word = token["word"].lower()
                if word == "atomic" and words[-1:] == ["begin"] and words[:1] == ["create"]:
                    depth = 1
                elif depth and word in ("begin", "case"):
                    depth += 1
                elif depth and word == "end":
                    depth -= 1
                words.append(word)
            elif kind == "backslash":
                command = _COMMAND.match(script, token.start())
                line = script.count("\n", 0, token.start()) + 1
                if words or command is None:
                    raise _unavailable(path, line, command[0] if command else "\\")
                yield from self._command(command[1], command[2], path, line)
                start = position = command.end()
                used = []
            elif kind == "end" and not depth:
                statement = _statement(script, start, position, words, used, path)
                if statement and words[0] == "copy" and _FROM_STDIN.search(statement.text):
                    rows, position = _rows(script, position, statement)
                    statement = Statement(statement.text, statement.line, path, rows)
                if statement:
                    yield statement
                start, words, used = position, [], []
        last = _statement(script, start, len(script), words, used, path)
        if last:
            yield last

    def _value(self, token: str) -> str | None:
        """What psql would put in the place of `:name`, of `:'name'`, of `:"name"`."""
        name = token[1:].strip("'\"")
        value = self.variables.get(name)
        if value is None:
            return None
        quote = token[1]
        return quote + value.replace(quote, 2 * quote) + quote if quote in "'\"" else value

    def _command(self, name: str, rest: str, path: Path, line: int) -> Iterator[Statement]:
        try:
            arguments = shlex.split(rest, comments=False)
        except ValueError:
            raise UsageError(f"{path}:{line}: \\{name}: a quote is not closed") from None
        if name in _INCLUDES:
            if len(arguments) != 1:
                raise UsageError(f"{path}:{line}: \\{name} takes one file")
            beside = path.parent / arguments[0]
            there = beside if beside.exists() or _INCLUDES[name] else Path(arguments[0])
            if not there.is_file():
                raise UsageError(f"{path}:{line}: \\{name} {arguments[0]}: no such file beside it")
            yield from self.file(there)
        elif name == "set":
            if arguments:
                self.variables[arguments[0]] = "".join(arguments[1:])
        elif name not in _HARMLESS:
            raise _unavailable(path, line, f"\\{name}")


def _unavailable(path: Path, line: int, command: str) -> UsageError:
    return UsageError(
        f"{path}:{line}: {command.split()[0]} is not done here; leave it out, or let psql run the "
        f"file: --schema 'command:psql -X -v ON_ERROR_STOP=1 -f {path.name}'"
    )


def _statement(
    script: str,
    start: int,
    end: int,
    words: list[str],
    used: list[tuple[int, int, str]],
    path: Path,
) -> Statement | None:
    if not words:
        return None
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
    text = script[start:end]
    for first, last, value in reversed(used):
        text = text[: first - start] + value + text[last - start :]
    return Statement(text, script.count("\n", 0, start) + 1, path)


def _rows(script: str, position: int, statement: Statement) -> tuple[str, int]:
    """The lines after a COPY up to its `\\.`, and where the script goes on."""
    begin = script.find("\n", position) + 1
    end = begin
    while begin and end < len(script):
        newline = script.find("\n", end)
        following = len(script) if newline < 0 else newline + 1
        if script[end:following].rstrip() == "\\.":
            return script[begin:end], following
        end = following
    raise UsageError(f"{statement.place}: the rows of this COPY have no end (a line with \\.)")


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
