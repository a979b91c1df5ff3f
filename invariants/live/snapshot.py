"""snapshot: the catalog of a revision as a text that people review and programs compare.

The same text whichever server, major version and role made it; a block for each object, in the
order of the names.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from invariants.contract.contract import load
from invariants.errors import UsageError
from invariants.escaping import lines
from invariants.options import SchemaOptions
from invariants.schema.portable import migrator, portable_catalog
from invariants.search.run import opened
from invariants.servers.base import connect

NAME = "schema.snapshot.txt"
_HEADER = """\
# What the migrations make: every object of the catalog. Written by `invariants snapshot`; review
# what differs, and never edit it. Who runs the migrations is (migrator), an object's owner (owner).
"""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot and the revision that it is of."""

    revision: str
    text: str

    def difference(self, path: Path) -> tuple[str, ...]:
        """What is to change in a file for it to be this; nothing where it is."""
        kept = read(path)
        if kept == self.text:
            return ()
        return tuple(
            line.rstrip("\n")
            for line in difflib.unified_diff(
                kept.splitlines(), self.text.splitlines(), str(path), "as it is now", lineterm=""
            )
        ) or (f"{path}: ends of lines differ",)


def read(path: Path) -> str:
    """A snapshot that is kept. Raises `UsageError`."""
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; write it with `invariants snapshot`") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise UsageError(f"{path}: cannot be read ({why}); name another with --output") from None


def take(options: SchemaOptions, say: Callable[[str], None]) -> Snapshot:
    """The snapshot of a revision, on a scratch database."""
    contract = load(options.contract) if options.contract.exists() else None
    with opened(options, contract, say) as environment:
        scratch = environment.scratch()
        with connect(scratch.conninfo) as connection:
            maker = migrator(connection)
            found = portable_catalog(
                connection, [maker] if maker else [], tuple(contract.roles) if contract else ()
            )
        revision = environment.revision
    blocks = [_HEADER]
    for name, text in found.items():
        body = "".join(f"    {line}".rstrip() + "\n" for line in lines(text).split("\n"))
        blocks.append(f"{lines(name)}\n{body if text else ''}")
    return Snapshot(revision, "\n".join(blocks))
