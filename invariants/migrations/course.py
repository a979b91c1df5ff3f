"""The chain as steps, each a revision on top of the one before, and how one is taken.

Steps are taken one at a time, so that what is wrong is told of the revision that does it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from invariants.errors import UsageError
from invariants.schema import chain
from invariants.schema.chain import Chain, Lineage, Migrations, Outline
from invariants.schema.runner import Say
from invariants.schema.sources import Prepared, Source
from invariants.schema.sources.sqlfiles import SqlFiles

BASE = "base"


@dataclass(frozen=True)
class Step:
    """A revision and the one that it stands on; `below` is None for the first.

    `idle` are the ways on which there is nothing written to be done.
    """

    revision: str
    below: str | None
    title: str
    number: int
    idle: tuple[str, ...] = ()

    @property
    def before(self) -> str:
        """What was there before, as Alembic calls it."""
        return self.below or BASE


@dataclass(frozen=True)
class Course:
    """A chain of migrations, oldest first. `heads` are the revisions that nothing comes after."""

    source: Migrations | SqlFiles
    before: tuple[Path, ...]
    steps: tuple[Step, ...]
    heads: tuple[str, ...]
    undoes: bool
    # All there are, those after the last step included.
    known: tuple[str, ...]

    @property
    def revisions(self) -> tuple[str, ...]:
        """All revisions, in order."""
        return tuple(s.revision for s in self.steps)

    def applied(self, revision: str | None) -> tuple[str, ...]:
        """The revisions up to one; none for None."""
        return self.revisions[: self.revisions.index(revision) + 1] if revision else ()

    def up(self, conninfo: str, step: Step, *, before_commit: str | None = None) -> None:
        """Take one step on a database at the revision before. Raises `InfrastructureError`.

        `before_commit` is a statement that the migrating session sends whenever it is to commit.
        """
        if isinstance(self.source, SqlFiles):
            self.source.step(conninfo, step.revision)
        else:
            wanted = self.source.at(step.revision)
            chain.upgrade(conninfo, wanted, before_commit=before_commit)

    def up_to(self, conninfo: str, step: Step) -> None:
        """Take an empty database up to a step, all of them in one go. Raises likewise."""
        if isinstance(self.source, SqlFiles):
            for earlier in self.steps[: step.number]:
                self.source.step(conninfo, earlier.revision)
        else:
            chain.upgrade(conninfo, self.source.at(step.revision))

    def down(self, conninfo: str, step: Step) -> None:
        """Undo one step. Raises `InfrastructureError`."""
        assert isinstance(self.source, Migrations)
        chain.downgrade(conninfo, self.source, step.before)

    def killed(self, conninfo: str, step: Step, after: int) -> int | None:
        """Take a step that is killed after so many statements: see `chain.interrupted`."""
        assert isinstance(self.source, Migrations)
        return chain.interrupted(conninfo, self.source.at(step.revision), after)

    def models_differ(self, conninfo: str) -> tuple[str, ...]:
        """Where a database at the last step is not what the models say, if there are some."""
        if isinstance(self.source, SqlFiles):
            return ()
        return chain.models_differ(conninfo, self.source) or ()

    def ground(self) -> Source:
        """What an empty database is filled with, before the first step."""
        bare = Bare(self.source.timeout_seconds)
        return Prepared(bare, self.before) if self.before else bare


@dataclass(frozen=True)
class Bare:
    """A source that makes nothing: the database before the first revision."""

    timeout_seconds: float

    def at(self, revision: str) -> Bare:
        """The same: there is one."""
        del revision
        return self

    def read(self) -> Chain:
        """A chain of the one revision that is none."""
        return Chain(Lineage((BASE,), (BASE,)), {}, hashlib.sha256(b"bare").hexdigest())

    def fill(self, conninfo: str, say: Say | None = None) -> None:
        """Nothing."""
        del conninfo, say


def course_of(source: Source, to: str) -> Course:
    """The steps up to a revision. Raises `UsageError` where the source is no chain."""
    before = source.before if isinstance(source, Prepared) else ()
    made = source.source if isinstance(source, Prepared) else source
    if isinstance(made, Migrations):
        outline = chain.outline(made)
        wanted = made.at(to if len(outline.heads) == 1 else _head(to, outline)).read()
    elif isinstance(made, SqlFiles):
        outline, wanted = made.outline(), made.at(to).read()
    else:
        raise UsageError(
            "--schema: migrations are tried one by one, and this source has none; name alembic.ini "
            "or a folder of .sql files"
        )
    links = {link.revision: link for link in outline.links}
    steps: list[Step] = []
    below: str | None = None
    for number, revision in enumerate(wanted.lineage.applied, 1):
        link = links[revision]
        if link.after != ((below,) if below else ()):
            merges = [r for r in wanted.lineage.applied if len(links[r].after) > 1]
            raise UsageError(
                f"the chain has branches that come together at {(merges or [revision])[0]}, and "
                "steps are tried one after the other; bring it into one line, or name --to before "
                "that"
            )
        steps.append(Step(revision, below, link.title, number, link.idle))
        below = revision
    return Course(made, before, tuple(steps), outline.heads, outline.undoes, tuple(links))


def _head(to: str, outline: Outline) -> str:
    """Where there are several heads, the longest of their lines is tried."""
    if to not in ("head", "heads"):
        return to
    after = {link.revision: link.after for link in outline.links}

    def length(revision: str) -> int:
        return 1 + max((length(r) for r in after[revision]), default=0)

    return max(outline.heads, key=lambda head: (length(head), head))
