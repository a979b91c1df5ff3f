"""What nobody foresaw: one line for people, and the traceback in a file that the line names.

Such an error says nothing about an invariant, so it is never status 1.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invariants.errors import InfrastructureError, InvariantsError
from invariants.escaping import shown
from invariants.masking import masked

FOLDER = Path(".invariants")
_WORDS_MAX = 200


@contextmanager
def foreseen() -> Iterator[None]:
    """Raise `InfrastructureError`, the traceback kept, for what the block raises unforeseen."""
    try:
        yield
    except InvariantsError:
        raise
    except (Exception, SystemExit) as error:
        raise InfrastructureError(told(error)) from error


def told(error: BaseException) -> str:
    """Keep the traceback; return the line that says what happened and where it is kept."""
    words = shown(masked(str(error)).strip().partition("\n")[0])
    if len(words) > _WORDS_MAX:
        words = f"{words[:_WORDS_MAX]}..."
    what = f"{type(error).__name__}: {words}" if words else type(error).__name__
    kept = _kept(_traceback(error))
    where = f"the traceback is in {kept}" if kept else "its traceback could not be kept anywhere"
    return f"unforeseen error, which says nothing about the schema: {what}; {where}"


def _traceback(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(error)
    except (RecursionError, MemoryError):
        # Of what was being handled meanwhile there can be thousands.
        lines = traceback.format_exception(error, chain=False)
    return masked("".join(lines))


def _kept(text: str) -> Path | None:
    """Where the text was written: beside what else a run keeps, else among temporary files."""
    for folder in _folders():
        try:
            folder.mkdir(exist_ok=True)
            descriptor, name = tempfile.mkstemp(".txt", "traceback-", folder)
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
        except OSError:
            continue
        return Path(name) if folder.is_absolute() else folder / Path(name).name
    return None


def _folders() -> Iterator[Path]:
    yield FOLDER
    try:
        yield Path(tempfile.gettempdir())
    except OSError:
        return
