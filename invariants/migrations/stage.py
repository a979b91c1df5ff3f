"""One step under trial: the databases before it, the contract on both sides, the data between."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from invariants.contract.chain import Declared
from invariants.contract.contract import Contract
from invariants.errors import MigrationFailed, server_lost
from invariants.execution.wire import Reply
from invariants.migrations import loads, rows
from invariants.migrations.course import Course, Step
from invariants.migrations.loads import Ground
from invariants.migrations.rows import Snapshot
from invariants.migrations.shelf import LOADED, Shelf
from invariants.schema.difference import catalog_fingerprint, is_of_tools
from invariants.servers.base import connect
from invariants.servers.environment import Scratch
from invariants.workload.operations import Operation, Workload


@dataclass(frozen=True)
class Side:
    """A revision with lawful data for it, and what came of each operation there."""

    ground: Ground
    workload: Workload
    replies: tuple[Reply, ...] = ()

    def without(self, operations: Collection[Operation]) -> Side:
        """The same with fewer operations."""
        kept = tuple(o for o in self.workload.operations if o not in operations)
        return Side(self.ground, replace(self.workload, operations=kept))


@dataclass
class Noted:
    """What one trial of a step has seen and another can use."""

    statements: int | None = None
    before: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    # The rows before and after the upgrade, and once more: what differs then is chance.
    there: Snapshot | None = None
    upgraded: Snapshot | None = None
    once_more: Snapshot | None = None


@dataclass(frozen=True)
class Stage:
    """All that a trial of one step is given. `before` is None where there are no tenants yet."""

    course: Course
    step: Step
    shelf: Shelf
    contract: Contract
    before: Side | None
    after: Side | None = None
    owned: Shelf | None = None
    noted: Noted = field(default_factory=Noted)

    @property
    def declared(self) -> Declared:
        """What the contract says that the step does."""
        return self.contract.migrations.of(self.step.revision)

    def at(self, step: Step) -> Stage:
        """The same of another step, of which nothing is known yet."""
        return Stage(self.course, step, self.shelf, self.contract, None, owned=self.owned)

    @contextmanager
    def below(self, label: str = "") -> Iterator[Scratch]:
        """A database at the revision before the step."""
        with self.shelf.scratch(self.step.below, label) as scratch:
            yield scratch

    @contextmanager
    def loaded(self, workload: Workload | None = None) -> Iterator[Scratch]:
        """The same with lawful rows in it: all of them, or those of a workload."""
        if workload is None and self.shelf.has(self.step.below, LOADED):
            with self.below(LOADED) as scratch:
                yield scratch
            return
        with self.below() as scratch:
            if workload is not None and self.before is not None:
                loads.fill(self.before.ground, scratch, workload)
            yield scratch


def lawful_above(stage: Stage, scratch: Scratch) -> Side | None:
    """What is lawful after a step, on a database that it was taken on."""
    ground = loads.ground_of(
        stage.contract,
        stage.course.applied(stage.step.revision),
        stage.course.known,
        scratch.conninfo,
    )
    return Side(ground, loads.load(ground, scratch)) if ground.bears_rows else None


def kept_loaded(side: Side | None, revision: str, shelf: Shelf) -> Side | None:
    """Keep a database with lawful rows at a revision; what came of each operation is noted."""
    if side is None:
        return None
    with shelf.scratch(revision) as scratch:
        replies = loads.fill(side.ground, scratch, side.workload)
        shelf.keep(revision, scratch, LOADED)
    return replace(side, replies=replies)


def failed_for_good(failure: MigrationFailed) -> MigrationFailed:
    """The failure, unless it is the server that is gone: then that is raised."""
    if failure.facts.get("sqlstate", "").startswith(("08", "57P")):
        raise server_lost(str(failure)) from failure
    return failure


def cause_of(failure: MigrationFailed) -> str:
    """What tells one failure from another: the constraint, or what else the server said."""
    facts = failure.facts
    told = facts.get("constraint") or ".".join(
        filter(None, (facts.get("table"), facts.get("column")))
    )
    return "/".join(filter(None, (facts.get("sqlstate"), told)))


def catalog_of(scratch: Scratch) -> dict[str, str]:
    """The catalog as text, without the books of the tools that migrate."""
    with connect(scratch.conninfo) as connection:
        found = catalog_fingerprint(connection)
    return {name: text for name, text in found.items() if not is_of_tools(name)}


def snapshot(
    scratch: Scratch, like: Snapshot | None = None, names: rows.Names | None = None
) -> Snapshot:
    """The rows of a database: see `rows.read`."""
    return rows.read(scratch.conninfo, like=like, names=names)
