"""The chain of migrations as a part of the gate, where pyproject.toml asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from invariants.errors import UsageError
from invariants.gate.release import Check, Gate, invariant_check
from invariants.migrations.run import MigrationsOptions, Result, migrations
from invariants.options import RunOptions
from invariants.reading import read_toml
from invariants.search.events import Listener

GROUP = "migrations"


def asked_for(pyproject: Path) -> bool:
    """Whether the chain is to be tried for a release. Raises `UsageError`."""
    document: Any = read_toml(pyproject, "mend it") if pyproject.exists() else {}
    for key in ("tool", "invariants"):
        document = document.get(key, {}) if isinstance(document, dict) else {}
    wanted = document.get("migrations", False) if isinstance(document, dict) else False
    if type(wanted) is not bool:
        raise UsageError(
            f"{pyproject}: tool.invariants.migrations: {wanted!r} is not true or false"
        )
    return wanted


def with_chain(
    gate: Gate, options: RunOptions, listener: Listener, say: Callable[[str], None]
) -> Gate:
    """The gate's result with what comes of the chain."""
    begun = time.monotonic()
    say("migrations: every step, up and down")
    checks = chain_checks(options, listener, say)
    seconds = gate.seconds + time.monotonic() - begun
    return replace(gate, checks=(*gate.checks, *checks), seconds=seconds)


def chain_checks(
    options: RunOptions, listener: Listener, say: Callable[[str], None]
) -> tuple[Check, ...]:
    """Try the whole chain: a check for each kind of failure."""
    result = tried(options, (), options.seed, say, listener)
    return tuple(
        replace(
            check,
            group=GROUP,
            line=check.line if i.found or i.error or i.note else f"held, {i.examples} tried",
        )
        for i in result.report.invariants
        for check in [invariant_check(i, result.report.known)]
    )


def tried(
    options: RunOptions,
    kinds: Sequence[str],
    seed: int | None,
    say: Callable[[str], None],
    listener: Listener = lambda _: None,
) -> Result:
    """What comes of the whole chain, up to the revision of a run, tried for some kinds or all."""
    given = {f.name: getattr(options, f.name) for f in fields(RunOptions)}
    changed = {"invariants": tuple(kinds), "seed": seed}
    return migrations(
        MigrationsOptions(**{**given, **changed}, last=options.revision), listener, say
    )
