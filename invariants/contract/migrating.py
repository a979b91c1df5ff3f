"""`[migrations]` as it is written: its keys, their types, and the data that come of them."""

from __future__ import annotations

import re
from typing import Annotated, TypeAlias

from invariants.contract.chain import BLOCKS_AT_MOST_MS, Declared, Migrating, Said
from invariants.contract.shapes import Name, Names, Section, said
from invariants.reading import Misfit, quoted

Saids: TypeAlias = Annotated[
    Names, said('tables, or columns as table.column, each with a reason: "items.note: moved"')
]


class RevisionFile(Section):
    """What one revision is allowed to do."""

    renames: Annotated[
        dict[Name, Name], said("from table or table.column, as it was, to the name afterwards")
    ] = {}
    changes: Annotated[Saids, said("whose values or rows the upgrade changes")] = ()
    loses: Annotated[Saids, said("what the downgrade takes along")] = ()
    breaks: Annotated[Saids, said("what clients of before may do no longer")] = ()


class AcceptedFailure(Section):
    """A failure that is known."""

    signature: Annotated[Name, said("a signature or its beginning", r"^migrations/[a-z]+/.+$")]
    reason: Name


class MigrationsFile(Section):
    """The chain of migrations itself."""

    owner: Annotated[
        Name | None, said("a role that owns the database and runs the chain, besides a superuser")
    ] = None
    blocks_at_most: Annotated[
        Name, said('how long readers or writers may have to wait, as "500 ms" or "2 s"')
    ] = f"{BLOCKS_AT_MOST_MS} ms"
    revisions: Annotated[
        dict[Name, RevisionFile], said("what each revision is allowed to do, by its full id")
    ] = {}
    accepted: tuple[AcceptedFailure, ...] = ()


def migrating_of(entry: MigrationsFile | None) -> Migrating:
    """The data of the section. Raises `Misfit`."""
    if entry is None:
        return Migrating()
    for i, accepted in enumerate(entry.accepted):
        if not re.match(r"migrations/[a-z]+/.", accepted.signature):
            raise Misfit(
                f"migrations.accepted[{i}].signature",
                f"{quoted(accepted.signature)} is no signature",
                "write it as the report does: migrations/KIND/REVISION",
            )
    return Migrating(
        entry.owner,
        _milliseconds("migrations.blocks_at_most", entry.blocks_at_most),
        {
            revision: Declared(
                of.renames, *(tuple(map(_said, told)) for told in (of.changes, of.loses, of.breaks))
            )
            for revision, of in entry.revisions.items()
        },
        {a.signature.rstrip("/"): a.reason for a in entry.accepted},
    )


def _said(told: str) -> Said:
    """`NAME`, `NAME: reason`, or `NAME reason`."""
    name, _, reason = told.strip().partition(" ")
    return Said(name.rstrip(":,"), reason.strip())


def _milliseconds(place: str, told: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]+)?) ?(ms|s|min)", told.strip())
    if match is None:
        raise Misfit(place, f"{quoted(told)} is no duration", 'write "500 ms", "2 s" or "1 min"')
    return round(float(match[1]) * {"ms": 1, "s": 1000, "min": 60_000}[match[2]])
