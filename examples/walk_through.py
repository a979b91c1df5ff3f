"""Follows one workload through the rooms: `python -m examples.walk_through` prints each door.

docs/architecture.md shows what it prints, and a test sees that it still does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from invariants import generation
from invariants.checks import INVARIANTS
from invariants.contract.contract import load
from invariants.counterexamples.files import counterexample
from invariants.schema.chain import Migrations
from invariants.search.judge import Judge, by_signature, failing_with
from invariants.search.reduction import reduce
from invariants.servers.environment import open_environment
from invariants.workload import sql
from invariants.workload.format import workload_to_json
from invariants.workload.operations import Workload
from invariants.workload.templates import Templates

PROJECT = Path(__file__).parent / "notes"
SIGNATURE = "cross-tenant/select/notes/of_org"


def walk(say: Callable[[str, str], None]) -> None:
    """Go from door to door; `say` is told which, and what the value looks like there."""
    contract = load(PROJECT / "invariants.toml")
    say("contract", f"{contract.tenancy.column} of {', '.join(contract.tenancy.tables)}")
    migrations = Migrations(PROJECT / "alembic.ini", "0001")
    with (
        open_environment("embedded", migrations, say=lambda _: None) as environment,
        Judge(environment, contract) as judge,
    ):
        say("servers", f"{environment.server.kind} PostgreSQL, revision {environment.revision}")
        notes = judge.catalog.relations["notes"]
        say("schema", f"{notes.name}: policies {notes.policies}, key {notes.primary_key}")
        invariant = INVARIANTS["cross-tenant"]
        # What the search does, until a workload shows something.
        for workload in generation.sweeps(contract, judge.catalog, invariant):
            case, violations = judge.violations(invariant, workload)
            if violation := by_signature(violations).get(SIGNATURE):
                break
        else:
            raise SystemExit(f"nothing shows {SIGNATURE}")
        say("generation", told(workload, contract.tenancy.session))
        steps = (
            f"{s.index}: {s.error.sqlstate if s.error else 'committed'}, "
            f"{len(s.before.rows('notes'))} -> {len(s.after.rows('notes'))} notes"
            for s in case.history.steps
        )
        say("execution", "\n".join(steps))
        say("checks", f"{violation.signature}\n{violation.summary}\n{violation.proof[0]}")
        fails = failing_with(judge, invariant, case, violation)
        reduced = reduce(workload, lambda w: fails(w) is not None, contract, judge.catalog)
        say("search", told(reduced, contract.tenancy.session))
        case, violations = judge.violations(invariant, reduced)
        made = counterexample(case, by_signature(violations)[SIGNATURE])
        say("counterexamples", made.text)
        say("file", json.dumps(workload_to_json(reduced)["operations"][-1], indent=1))


def told(workload: Workload, templates: Templates) -> str:
    """A workload as SQL."""
    lines = []
    for operation in workload.operations:
        lines += [*sql.acting(operation, templates), *map(sql.spelled, operation.statements)]
    return "\n".join(lines)


if __name__ == "__main__":
    walk(lambda door, value: print(f"== {door}\n{value}\n"))
