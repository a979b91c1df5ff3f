"""A finding in words, and as a script that puts the rows there which show it."""

from __future__ import annotations

from collections.abc import Iterator

from invariants.contract.contract import Contract
from invariants.counterexamples.files import Counterexample
from invariants.escaping import shown
from invariants.migrations.course import BASE
from invariants.migrations.finding import PROMISES, Finding
from invariants.workload import sql
from invariants.workload.operations import Operation, Statement, Workload

INVARIANT = "migrations"
_SHOWN_MAX = 8


def counterexample_of(finding: Finding, contract: Contract, *, seed: int | None) -> Counterexample:
    """The finding as it is kept: JSON, a script for psql, and the story."""
    workload = finding.workload or Workload((), ())
    return Counterexample(
        invariant=INVARIANT,
        signature=finding.signature,
        summary=shown(finding.summary),
        workload=workload,
        text="\n".join(_story(finding, workload, contract)),
        script="\n".join(_script(finding, workload, contract)) + "\n",
        seed=seed,
        revision=finding.loaded_at or BASE,
    )


def _story(finding: Finding, workload: Workload, contract: Contract) -> Iterator[str]:
    yield shown(finding.summary)
    yield from (f"  {shown(line)}" for line in finding.details)
    if finding.workload is not None:
        count = len(workload.operations)
        rows = "no row is needed" if not count else "1 row" if count == 1 else f"{count} operations"
        yield f"  what it takes, at revision {finding.loaded_at or BASE} ({rows}):"
        root = contract.tenancy.root
        opening = [t.made(root) for t in workload.tenants]
        statements: list[Statement] = [s for s in opening if s is not None]
        statements += [s for o in workload.operations for s in o.statements]
        for statement in statements[:_SHOWN_MAX]:
            yield f"    {shown(sql.spelled(statement))};"
        if len(statements) > _SHOWN_MAX:
            yield f"    .. and {len(statements) - _SHOWN_MAX} more, in the script"
    yield f"  promised: {PROMISES[finding.kind]}"
    yield f"  remedy: {shown(finding.remedy)}"


def _script(finding: Finding, workload: Workload, contract: Contract) -> Iterator[str]:
    """What psql runs before the migration; the migration itself is for its own tool to run."""
    loaded_at = finding.loaded_at or BASE
    yield f"-- {shown(finding.summary)}"
    yield f"-- {shown(finding.signature)}"
    yield "--"
    yield f"-- Run it as a superuser on a database at revision {loaded_at} that has no data:"
    yield "--   psql -X -q -d DATABASE -f THIS_FILE"
    way = "downgrade" if finding.kind == "downgrade" else "upgrade"
    target = "one step" if way == "downgrade" else finding.revision
    yield f"-- and then let the migrations {way} it, {target}. Here are the rows alone."
    if finding.fails:
        yield "-- With the command for that it says the verdict, too: status 3 violated, 0 holds:"
        command = _command(finding, way)
        yield f"--   psql -X -q -d DATABASE -v migrate={command} -f THIS_FILE"
    yield "\\set ON_ERROR_STOP on"
    yield "SET TimeZone = 'UTC';"
    for tenant in workload.tenants:
        if (insert := tenant.made(contract.tenancy.root)) is not None:
            yield f"{sql.spelled(insert)};"
    for operation in workload.operations:
        yield from _sent(operation, contract)
    if finding.fails:
        yield from _verdict(finding)


def _command(finding: Finding, way: str) -> str:
    """How Alembic takes the step; whoever has another tool writes its own command."""
    up = f"alembic upgrade {finding.revision}"
    if way == "upgrade":
        return f"'{up}'"
    down = "alembic downgrade -1"
    return f"'{down}'" if finding.loaded_at == finding.revision else f"'{up} && {down}'"


def _verdict(finding: Finding) -> Iterator[str]:
    """The step taken by a command that is given, whose exit status decides."""
    yield ""
    yield "\\if :{?migrate}"
    yield "\\set failed `(:migrate) >&2 && echo false || echo true`"
    yield "\\if :failed"
    violated = sql.quote(
        f"violated: {shown(finding.signature)} (the command failed; what it said is above)"
    )
    yield sql.block(f"BEGIN RAISE EXCEPTION USING MESSAGE = {violated}; END") + ";"
    yield "\\endif"
    yield "\\echo 'holds'"
    yield "\\endif"


def _sent(operation: Operation, contract: Contract) -> Iterator[str]:
    yield ""
    yield "BEGIN;"
    yield from (f"{line};" for line in sql.acting(operation, contract.tenancy.session))
    yield from (f"{sql.spelled(s)};" for s in operation.statements)
    yield "COMMIT;"
