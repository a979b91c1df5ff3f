"""Takes passwords out of a text before it is shown or written anywhere."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"
# Shorter ones are hidden only where they stand as a password: they are part of many words.
_KNOWN_LENGTH_MIN = 4
# Up to the last @ of the word: a password may hold one, and a slash, though it should not.
_IN_URL = re.compile(r"(?<=://)([^\s/:@'\"]*:)([^\s'\"<>]+)(?=@)")
_IN_CONNINFO = re.compile(
    r"""(password['"]?\s*[=:]\s*)('(?:[^'\\]|\\.)+'|"(?:[^"\\]|\\.)+"|(?<=[=])[^\s&'"),;]+)""",
    re.IGNORECASE,
)

_IN_SQL = re.compile(r"(\bpassword\s+)('(?:[^']|'')+')", re.IGNORECASE)


def masked(text: str) -> str:
    """The text without the passwords that were given to this process or stand in it as such."""
    for secret in sorted(_known(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern in (_IN_URL, _IN_CONNINFO, _IN_SQL):
        text = pattern.sub(rf"\1{HIDDEN}", text)
    return text


def _known() -> set[str]:
    """Passwords among the arguments and in the environment."""
    found = set(_among(os.environ.get("PGPASSWORD", "")))
    for text in (*sys.argv, *os.environ.values()):
        for pattern in (_IN_URL, _IN_CONNINFO):
            for match in pattern.finditer(text):
                found.update(_among(match[2].strip("'\"")))
    return found


def _among(secret: str) -> Iterator[str]:
    for spelled in (secret, unquote(secret)):
        if len(spelled) >= _KNOWN_LENGTH_MIN:
            yield spelled
