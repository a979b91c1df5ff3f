"""killed: whoever migrates is gone between two statements, and runs the migration again.

What is left is the revision before, or the one after, or something the next upgrade finishes. Where
all of a step is one transaction nothing is left, and one try says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from invariants.errors import MigrationFailed
from invariants.migrations.finding import Finding
from invariants.migrations.stage import Stage, catalog_of, failed_for_good
from invariants.schema.difference import catalog_difference
from invariants.servers.environment import Scratch

_STATEMENTS_MAX = 40


def midway(stage: Stage) -> Iterator[Finding]:
    """Kill the step after its last statement; where that leaves something, after each of them."""
    if not stage.course.undoes:
        return  # files run by somebody else's tool: where its transactions end is not known
    counted, before, after = stage.noted.statements or 0, stage.noted.before, stage.noted.fresh
    if counted < 1 or _left(stage, counted, before) is None:
        return
    for position in range(1, min(counted, _STATEMENTS_MAX) + 1):
        with stage.below() as scratch:
            if stage.course.killed(stage.shelf.migrator(scratch), stage.step, position) is not None:
                return
            left = catalog_of(scratch)
            why = _again(stage, scratch, after)
        if why is not None:
            yield Finding(
                "killed",
                stage.step.revision,
                "",
                f"killed after statement {position} of {counted}, the upgrade cannot be finished: "
                f"{why}",
                "put what must be outside a transaction into a revision of its own, and make it "
                "repeatable: DROP INDEX IF EXISTS, then CREATE INDEX CONCURRENTLY",
                tuple(f"left: {line}" for line in catalog_difference(before, left)[:6]),
            )
            return


def _left(stage: Stage, position: int, before: dict[str, str]) -> bool | None:
    """Whether something of the step is there after it was killed; None when nothing is."""
    with stage.below() as scratch:
        if stage.course.killed(stage.shelf.migrator(scratch), stage.step, position) is not None:
            return None
        return catalog_of(scratch) != before or None


def _again(stage: Stage, scratch: Scratch, after: dict[str, str]) -> str | None:
    """Why it cannot be finished by another upgrade; None when it can."""
    try:
        stage.shelf.up(scratch, stage.step)
    except MigrationFailed as failure:
        return str(failed_for_good(failure))
    different = catalog_difference(after, catalog_of(scratch))
    return f"it leaves another catalog: {different[0]}" if different else None
