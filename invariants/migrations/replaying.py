"""Kept failures of a chain: the step of each is taken again, on the rows that it is kept with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from invariants.contract.contract import Contract, load
from invariants.counterexamples import fitting
from invariants.counterexamples.files import Kept
from invariants.errors import UsageError
from invariants.migrations import chain, data
from invariants.migrations.course import BASE, Course, course_of
from invariants.migrations.finding import KINDS, Finding
from invariants.migrations.shelf import Shelf, require_own_server
from invariants.migrations.stage import Side, Stage, kept_loaded, lawful_above
from invariants.migrations.telling import INVARIANT, counterexample_of
from invariants.migrations.trials import AFTER, BEFORE, UPWARDS
from invariants.options import SchemaOptions
from invariants.reading import Misfit, quoted
from invariants.search.run import Replayed, source
from invariants.servers.environment import open_environment

Say = Callable[[str], None]


def is_of_chain(kept: Kept) -> bool:
    """Whether a kept counterexample is of the chain itself."""
    return kept.invariant == INVARIANT


def replay(kept: Sequence[Kept], options: SchemaOptions, say: Say) -> Iterator[Replayed]:
    """Take the step of each once more, on a server of our own.

    One fails when its kind of failure is found, in the way that it was or in another. Raises
    `UsageError` where a file names what the chain or the schema has not.
    """
    if not kept:
        return
    require_own_server(options)
    contract = load(options.contract)
    course = course_of(source(replace(options, revision="head"), contract), "head")
    for one in kept:
        kind, revision = _named(one, course)
        with (
            open_environment(
                options.server,
                course.ground(),
                say=say,
                cache=not options.no_cache,
                disposable=options.disposable_server,
            ) as environment,
            Shelf(environment, course) as shelf,
        ):
            owner = contract.migrations.owner if kind == "owner" else None
            with Shelf(environment, course, owner) as owned:
                found = list(_again(one, kind, revision, contract, shelf, owned if owner else None))
        same = [f for f in found if f.signature == one.signature] or found
        told = counterexample_of(same[0], contract, seed=None).text if same else ""
        yield Replayed(one, bool(same), told)


def _named(one: Kept, course: Course) -> tuple[str, str]:
    parts = one.signature.split("/")
    if len(parts) < 3 or parts[0] != INVARIANT or parts[1] not in KINDS:
        raise UsageError(
            f"{one.path}: signature: {quoted(one.signature)} is none of a chain; name a file as "
            "`invariants migrations` wrote it"
        )
    if parts[2] not in course.revisions:
        raise UsageError(
            f"{one.path}: signature: the chain has no revision {quoted(parts[2])}; replay it on "
            "the chain that it was found in"
        )
    return parts[1], parts[2]


def _again(
    one: Kept, kind: str, revision: str, contract: Contract, shelf: Shelf, owned: Shelf | None
) -> Iterator[Finding]:
    course = shelf.course
    if kind == "chain":
        yield from (f for f in chain.heads(course) if f.signature == one.signature)
    step = course.steps[course.revisions.index(revision)]
    if step.below is not None:
        below = course.steps[step.number - 2]
        shelf.build_at_once(below)
        if owned is not None:
            owned.build_at_once(below)
    stage = Stage(course, step, shelf, contract, None, owned=owned)
    if step.below is not None:
        with shelf.scratch(step.below) as scratch:
            side = lawful_above(stage.at(course.steps[step.number - 2]), scratch)
        if one.revision == step.below:
            side = _with_rows(one, side)
        stage = replace(stage, before=kept_loaded(side, step.below, shelf))
    above, findings = chain.first_look(stage, down=kind == "chain")
    if one.revision == step.revision:
        above = _with_rows(one, above)
    stage = replace(stage, after=above)
    yield from (f for f in findings if f.kind == kind)
    trials = [(data.upwards, UPWARDS), *BEFORE]
    for trial, kinds in trials:
        if kind in kinds:
            yield from (f for f in trial(stage) if f.kind == kind)
    shelf.build(step)
    for trial, kinds in AFTER:
        if kind in kinds:
            yield from (f for f in trial(stage) if f.kind == kind)


def _with_rows(one: Kept, side: Side | None) -> Side | None:
    """The revision with the rows that a failure is kept with, which it must be able to have."""
    if not one.workload.operations and not one.workload.tenants:
        return side
    if side is None:
        raise UsageError(
            f"{one.path}: workload: revision {one.revision or BASE} has no tables of tenants; "
            "replay it on the chain that it was found in"
        )
    try:
        fitting.check(one.workload, side.ground.contract, side.ground.catalog)
    except Misfit as misfit:
        raise misfit.under("workload").of(one.path) from None
    return replace(side, workload=one.workload)
