"""What functions may leave in the session that called them, as their sources say.

A transaction ends, its session goes on and is handed to somebody else: a setting made for the
session, an advisory lock of the session, temporary objects, LISTEN, PREPARE, a cursor WITH HOLD.
What is found here says where to look and which function to name; whether something is left is seen
by looking into the session.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from invariants.workload.operations import LeftoverTarget

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
# Where a statement begins, that of EXECUTE included.
_BEGINS = r"(?:;|'|\bBEGIN\b|\bTHEN\b|\bELSE\b|\bLOOP\b|\A)\s*"
_PATTERNS: Sequence[tuple[LeftoverTarget, str]] = (
    ("advisory locks", r"\bpg_(?:try_)?advisory_lock(?:_shared)?\b"),
    ("temporary objects", r"\bCREATE\s+(?:OR\s+REPLACE\s+)?(?:LOCAL\s+)?TEMP(?:ORARY)?\b"),
    ("temporary objects", r"\bINTO\s+TEMP(?:ORARY)?\b"),
    ("channels", _BEGINS + r"LISTEN\b"),
    ("prepared statements", _BEGINS + r"PREPARE\b"),
    ("cursors", r"\bWITH\s+HOLD\b"),
)
_FOUND = tuple((target, re.compile(pattern, re.IGNORECASE)) for target, pattern in _PATTERNS)
_SET = re.compile(
    _BEGINS + r"SET\s+(?:SESSION\s+)?(?!LOCAL\b|CONSTRAINTS\b|TRANSACTION\b)"
    r"([\w.\"]+)\s*(?:=|TO\b)",
    re.IGNORECASE,
)
_SET_CONFIG = re.compile(r"\bset_config\s*\(", re.IGNORECASE)
_NAME = re.compile(r"\s*'([^']+)'")
_LOCAL = re.compile(r"(?:is_local\s*(?:=>|:=)\s*)?(?:'?t(?:rue)?'?|1::bool\w*)\s*\Z", re.IGNORECASE)


def found(functions: Sequence[tuple[str, str]]) -> Iterator[tuple[LeftoverTarget, str, str]]:
    """What is left, its name where it has one, and by which function, given as name and source."""
    seen = set()
    for function, source in functions:
        text = _COMMENT.sub(" ", source)
        for target, name in _left(text):
            if (target, name, function) not in seen:
                seen.add((target, name, function))
                yield target, name, function


def _left(text: str) -> Iterator[tuple[LeftoverTarget, str]]:
    for target, pattern in _FOUND:
        if pattern.search(text):
            yield target, target
    for match in _SET.finditer(text):
        yield _setting(match[1].strip('"'))
    for match in _SET_CONFIG.finditer(text):
        arguments = _arguments(text, match.end())
        if len(arguments) == 3 and not _LOCAL.match(arguments[2].strip()):
            name = _NAME.match(arguments[0])
            yield _setting(name[1]) if name else ("server settings", "server settings")


def _setting(name: str) -> tuple[LeftoverTarget, str]:
    """One of the server's own, or one with a dot, of the schema's."""
    return ("setting", name) if "." in name else ("server settings", "server settings")


def _arguments(text: str, start: int) -> list[str]:
    """The arguments of a call that begin there, cut at the commas outside of brackets."""
    parts, depth, quoted = [""], 0, False
    for letter in text[start:]:
        if letter == "'":
            quoted = not quoted
        elif not quoted:
            if letter in "([":
                depth += 1
            elif letter in ")]":
                if not depth:
                    return parts
                depth -= 1
            elif letter == "," and not depth:
                parts.append("")
                continue
        parts[-1] += letter
    return []
