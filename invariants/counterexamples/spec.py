"""A counterexample with several sessions in the notation of PostgreSQL's isolation tester.

It prints what each step answers, which wait, and, where the violation can be seen in the tables,
whether it is there. See src/test/isolation/README in PostgreSQL's sources.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from invariants.checks.base import Case, Violation
from invariants.contract import premises
from invariants.counterexamples.script import refusal_of_tenants, restoring, tenants, without_copy
from invariants.counterexamples.turns import sendings
from invariants.escaping import shown
from invariants.execution.history import Place, Step
from invariants.execution.wire import DEADLOCKS_AT_ONCE
from invariants.workload import sql
from invariants.workload.operations import Operation, Statement

_SESSION_SETUP = f"SET TimeZone = 'UTC'; {DEADLOCKS_AT_ONCE};"
_QUOTED = re.compile(r"""E?'(?:[^']|'')*'|"(?:[^"]|"")*\"""")


def spec(case: Case, violation: Violation, title: str) -> str:
    """The whole file. `case` is the execution in which the violation was seen."""
    return "\n".join(_Spec(case, violation, title).lines()) + "\n"


class _Spec:
    def __init__(self, case: Case, violation: Violation, title: str) -> None:
        self.case, self.violation, self.title = case, violation, title
        self.workload = case.history.workload
        self.templates = case.contract.tenancy.session
        # By session, its steps by name; then the order in which they are run.
        self.sessions: dict[str, dict[str, list[str]]] = {}
        self.order: list[str] = []

    def lines(self) -> Iterator[str]:
        """All lines, in order."""
        setups = [s for s in (list(b) for b in self._setups()) if s]
        for sending in sendings(self.case.history):
            place = sending.place
            if sending.called_off and not sending.late:
                self._step(place, f"s{place.session + 1}_off", ["ROLLBACK;"])
            for part in sending.parts:
                name = f"s{place.session + 1}_{self._number(place, part)}"
                self._step(place, name, list(self._part(place, part)))
            if sending.last:
                self._ask(self._index(place))
        yield f"# {shown(self.title)}"
        yield f"# {shown(str(self.violation.signature))}"
        yield "#"
        yield "# For isolationtester, on a database that has the schema under test and no data:"
        yield "#   isolationtester 'dbname=DATABASE user=SUPERUSER' < THIS_FILE"
        if self.workload.premise:
            yield f"# What it changes for good: {premises.DESCRIPTIONS[self.workload.premise]}."
        for setup in setups:
            yield ""
            yield from _block("setup", setup)
        yield ""
        yield from _block("teardown", list(restoring(self.case)))
        for session, steps in self.sessions.items():
            yield ""
            yield f'session "{session}"'
            yield from _block("setup", [_SESSION_SETUP])
            for name, lines in steps.items():
                yield from _block(f'step "{name}"', lines)
        yield ""
        yield "permutation"
        yield from (f'  "{name}"' for name in self.order)

    def _setups(self) -> Iterator[Sequence[str]]:
        """What is there before the sessions begin, each block a transaction.

        From the first operation on that a setup may not contain they are steps of their own.
        """
        yield ["SET TimeZone = 'UTC';"]
        yield list(refusal_of_tenants(self.case))
        changes = premises.statements(self.workload.premise, self.case.contract, self.case.catalog)
        yield [f"{c};" for c in changes]
        yield list(tenants(self.case, self.workload))
        yield from self._asked(-1)
        setting_made, plain = False, True
        for step in self.case.history.steps:
            if step.place is not None:
                continue
            operation = step.operation
            unset = operation.actor.lacks_setting
            plain = plain and step.error is None and not (unset and setting_made)
            setting_made = setting_made or not operation.actor.silent
            if plain:
                yield list(self._operation(operation))
                yield from self._asked(step.index)
            else:
                self._given(step, unset)

    def _given(self, step: Step, unset: bool) -> None:
        session = "given_unset" if unset else "given"
        name = f"given_{step.index + 1}"
        self._add(session, name, list(self._operation(step.operation)))
        self._ask(step.index)

    def _operation(self, operation: Operation) -> Iterator[str]:
        # Sent as one query, and so one transaction, undone as a whole where one is refused.
        yield from (f"{line};" for line in sql.acting(operation, self.templates))
        yield from map(_spelled, operation.statements)

    def _part(self, place: Place, part: int) -> Iterator[str]:
        transaction = place.transaction
        if part == 0:
            yield from (f"{line};" for line in sql.opening(transaction, self.templates))
        statements = transaction.operation.statements
        if part < len(statements):
            yield _spelled(statements[part])
        else:
            yield f"{sql.ending(transaction, part)};"

    def _number(self, place: Place, part: int) -> int:
        session = self.workload.sessions[place.session]
        return 1 + part + sum(t.turns for t in session[: place.number])

    def _index(self, place: Place) -> int:
        return next(s.index for s in self.case.history.steps if s.place == place)

    def _step(self, place: Place, name: str, lines: list[str]) -> None:
        unset = place.transaction.operation.actor.lacks_setting
        self._add(f"s{place.session + 1}{'_unset' if unset else ''}", name, lines)

    def _add(self, session: str, name: str, lines: list[str]) -> None:
        self.sessions.setdefault(session, {})[name] = lines
        self.order.append(name)

    def _ask(self, index: int) -> None:
        for question in self._asked(index):
            number = sum(n.startswith("verdict_") for n in self.order) + 1
            self._add("verdict", f"verdict_{number}", list(question))

    def _asked(self, index: int) -> Iterator[Sequence[str]]:
        proof = self.violation.proof
        for i, condition in enumerate(proof, 1):
            if condition.kind == "state" and condition.operation == index:
                name = "violated" if len(proof) == 1 else f"condition_{i}"
                yield [f"SELECT coalesce({condition.query}, false) AS {name};"]


def _spelled(statement: Statement) -> str:
    return f"{sql.spelled(without_copy(statement))};"


def _block(head: str, lines: Sequence[str]) -> Iterator[str]:
    """SQL in braces, where the first that closes ends it, quoted or not."""
    # As a whole: a name may go on in the next line.
    escaped = _QUOTED.sub(_without_braces, "\n".join(lines)).split("\n")
    if len(escaped) == 1 and len(head) + len(escaped[0]) < 94:
        yield f"{head} {{ {escaped[0]} }}"
        return
    yield f"{head} {{"
    yield from (f"  {line}" for line in escaped)
    yield "}"


def _without_braces(quoted: re.Match[str]) -> str:
    text = quoted[0]
    if "}" not in text:
        return text
    if text.startswith('"'):
        return "U&" + text.replace("\\", "\\\\").replace("}", "\\007d")
    if text.startswith("'"):
        text = "E" + text.replace("\\", "\\\\")
    return text.replace("}", "\\x7d")
