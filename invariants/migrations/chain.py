"""chain: one head, every downgrade undoes its upgrade, and no catalog depends on rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from invariants.errors import MigrationFailed
from invariants.migrations.course import Course, Step
from invariants.migrations.finding import Finding
from invariants.migrations.stage import (
    Side,
    Stage,
    catalog_of,
    cause_of,
    failed_for_good,
    lawful_above,
)
from invariants.schema.difference import catalog_difference
from invariants.servers.environment import Scratch

_SHOWN = 12
# More statements than a revision has.
_NEVER = 1_000_000


def heads(course: Course) -> Iterator[Finding]:
    """Revisions that nothing comes after, besides the one that is tried."""
    last = course.steps[-1].revision
    if len(course.heads) < 2:
        return
    for head in course.heads:
        if head != last:
            yield Finding(
                "chain",
                head,
                "another-head",
                f"the chain has several heads: {', '.join(course.heads)}; {last} is tried",
                "bring them into one line, or merge them with `alembic merge heads`",
            )


def idle(steps: Sequence[Step]) -> Iterator[str]:
    """What is said of revisions that have nothing to do, on the way up or back."""
    for step in steps:
        if "upgrade" in step.idle:
            yield f"{step.revision}: the revision is empty"
        elif "downgrade" in step.idle:
            yield f"{step.revision}: does nothing on the way down"


def first_look(stage: Stage, *, down: bool) -> tuple[Side | None, tuple[Finding, ...]]:
    """Take the step without rows: up, down if wanted, and up again.

    Returns what is lawful after it, and notes the catalogs. Raises `MigrationFailed` where the step
    fails without any rows.
    """
    found: tuple[Finding, ...] = ()
    noted = stage.noted
    with stage.below() as scratch:
        noted.before = catalog_of(scratch)
        if stage.course.undoes:
            migrator = stage.shelf.migrator(scratch)
            noted.statements = stage.course.killed(migrator, stage.step, _NEVER)
        else:
            stage.shelf.up(scratch, stage.step)
        noted.fresh = catalog_of(scratch)
        side = lawful_above(stage, scratch)
    if down and stage.course.undoes:
        with stage.below() as scratch:
            stage.shelf.up(scratch, stage.step)
            found = tuple(_down_and_up(stage, scratch, noted.before, noted.fresh))
    return side, found


def models(stage: Stage) -> Iterator[Finding]:
    """Whether the newest schema is what the models say, in Alembic's own words."""
    revision = stage.step.revision
    if revision not in stage.course.heads:
        return
    with stage.shelf.scratch(revision) as scratch:
        different = stage.course.models_differ(stage.shelf.migrator(scratch))
    if different:
        yield Finding(
            "chain",
            revision,
            "models",
            f"the models of env.py are not what the chain makes: autogenerate would {different[0]}",
            "write the revision that is missing (alembic revision --autogenerate), or mend the "
            "models; what they do not say is left out by include_object",
            _some(different),
        )


def with_rows(stage: Stage, now: dict[str, str]) -> Iterator[Finding]:
    """Whether the catalog after an upgrade of rows is the one that there is without."""
    if different := catalog_difference(stage.noted.fresh, now):
        yield Finding(
            "chain",
            stage.step.revision,
            "with-rows",
            f"with rows in it the upgrade makes another catalog than without: {different[0]}",
            "let the revision do the same whatever is in the tables",
            _some(different),
        )


def _down_and_up(
    stage: Stage, scratch: Scratch, before: dict[str, str], fresh: dict[str, str]
) -> Iterator[Finding]:
    revision = stage.step.revision
    try:
        stage.shelf.down(scratch, stage.step)
    except MigrationFailed as failure:
        yield Finding(
            "chain",
            revision,
            f"downgrade/{cause_of(failed_for_good(failure))}".rstrip("/"),
            f"the downgrade fails without any rows: {failure}",
            "mend the downgrade",
        )
        return
    now = catalog_of(scratch)
    if different := catalog_difference(before, now):
        what = (
            "the downgrade does nothing"
            if now == fresh
            else f"the downgrade does not undo the upgrade: {different[0]}"
        )
        yield Finding(
            "chain",
            revision,
            "downgrade",
            what,
            "undo in downgrade() all that upgrade() does",
            _some(different),
        )
    try:
        stage.shelf.up(scratch, stage.step)
    except MigrationFailed as failure:
        yield Finding(
            "chain",
            revision,
            f"again/{cause_of(failed_for_good(failure))}".rstrip("/"),
            f"after a downgrade the upgrade fails: {failure}",
            "undo in downgrade() all that upgrade() does",
        )
        return
    if different := catalog_difference(fresh, catalog_of(scratch)):
        yield Finding(
            "chain",
            revision,
            "again",
            f"after a downgrade the upgrade makes another catalog: {different[0]}",
            "undo in downgrade() all that upgrade() does",
            _some(different),
        )


def _some(lines: Sequence[str]) -> tuple[str, ...]:
    more = (f".. and {len(lines) - _SHOWN} lines more",) if len(lines) > _SHOWN else ()
    return (*lines[:_SHOWN], *more)
