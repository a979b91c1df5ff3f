"""A counterexample with several sessions as a script for psql in as many windows.

The same file is run in each. Somebody at the keyboard keeps the order: before a window sends what
must come after another's turn it asks for Enter. So a statement may wait for another window, here
or on a schema where none did, and there is always a window to go on in.
"""

from __future__ import annotations

from collections.abc import Iterator

from invariants.checks.base import Case, Condition, Violation
from invariants.counterexamples.script import Script, comment, reconnecting
from invariants.counterexamples.turns import Sending, sendings
from invariants.counterexamples.wording import outcome
from invariants.execution.history import Place
from invariants.execution.wire import DEADLOCKS_AT_ONCE
from invariants.workload import sql

# What one window found out, for the one that says in the end what it comes to.
_FACTS = "invariants_windows.facts"


def windows(case: Case, violation: Violation, title: str) -> str:
    """The whole script. `case` is the execution in which the violation was seen."""
    return "\n".join(_Windows(case, violation, title).lines()) + "\n"


class _Windows:
    def __init__(self, case: Case, violation: Violation, title: str) -> None:
        self.script = Script(case, violation, title)
        self.violation, self.templates = violation, case.contract.tenancy.session
        self.count = len(case.history.workload.sessions)
        self.sendings = list(sendings(case.history))
        self.steps = {s.place: s for s in case.history.steps if s.place is not None}
        # Windows whose session has said for which tenant it acts.
        self.setting_made: set[int] = set()
        # Which windows the next one has to look at, and for what.
        self.before = {1: "has made the database ready"}

    def lines(self) -> Iterator[str]:
        """All lines, in order."""
        yield from self.script.heading()
        yield "-- Run it as a superuser on a database that has the schema under test and no data,"
        yield "-- in a window for each session, which has its number:"
        for window in self._windows():
            yield f"--   psql -X -q -v window={window} -d DATABASE -f THIS_FILE"
        yield "-- Each says when to press Enter. Where one waits unexpectedly go on in another."
        yield "-- Exit status of window 1, 3: the violation is there. 0: the schema holds."
        yield "-- Exit status of any, 2: it was not run to its end."
        yield from self.script.settings()
        yield from self._choice()
        yield ""
        yield "\\if :is_1"
        yield from self.script.beginning()
        yield ""
        yield "-- what the windows find out"
        yield "CREATE SCHEMA invariants_windows;"
        yield f"CREATE TABLE {_FACTS} (condition integer PRIMARY KEY, holds boolean NOT NULL);"
        yield from self.script.world(self.script.workload)
        yield "\\echo 'window 1 has made the database ready'"
        yield "\\endif"
        if self.script.setting_made:
            self.setting_made.add(1)
        yield ""
        yield f"{DEADLOCKS_AT_ONCE};"
        yield "\\set ON_ERROR_STOP off"
        for sending in self.sendings:
            yield from self._turn(sending)
        yield ""
        yield "\\set ON_ERROR_STOP on"
        yield "\\if :is_1"
        yield from self._verdict()
        yield "\\else"
        yield "\\echo 'window' :window 'has come to its end: the verdict is window 1''s'"
        yield "\\endif"

    def _windows(self) -> range:
        return range(1, self.count + 1)

    def _choice(self) -> Iterator[str]:
        """Which window this is."""
        yield "-- ends psql, with status 2"
        end = "RESET SESSION AUTHORIZATION; SELECT pg_terminate_backend(pg_backend_pid());"
        yield f"\\set stop '{end}'"
        yield "\\set known false"
        yield "\\if :{?window}"
        known = ", ".join(f"'{w}'" for w in self._windows())
        columns = [f":'window' IN ({known}) AS known"]
        columns += [f":'window' = '{w}' AS is_{w}" for w in self._windows()]
        yield f"SELECT {', '.join(columns)} \\gset"
        yield "\\endif"
        yield "\\if :known"
        yield "\\else"
        choices = " or ".join(f"-v window={w}" for w in self._windows())
        yield from _stop(f"say which window this is: {choices}")
        yield "\\endif"

    def _turn(self, sending: Sending) -> Iterator[str]:
        window, label = sending.place.session + 1, f"turn {sending.number}"
        yield ""
        yield comment(self._title(sending))
        yield f"\\if :is_{window}"
        if sending.late:
            if sending.parts:
                # Only for a schema on which it was not refused.
                yield "\\if :open"
                yield from self._prompt(window, f"after {label}")
                yield from self._parts(sending)
                yield "\\endif"
            # Both that went on may send the next turn: not before the other has heard its answer.
            self.before[window] = "has gone on (or waits)"
        else:
            yield from self._prompt(window, label + self._wait(sending))
            if sending.called_off:
                yield from self._called_off()
            else:
                if 0 in sending.parts:
                    yield from self._opening(sending.place)
                yield from self._parts(sending)
            self.before = {window: f"has done turn {sending.number} (or waits in it)"}
        if sending.last:
            yield from self._end(sending.place)
        done = f"gone on after {label}" if sending.late else f"{label} is done"
        yield f"\\echo '{done}'"
        yield "\\endif"

    def _title(self, sending: Sending) -> str:
        window, place = sending.place.session + 1, sending.place
        if sending.late:
            return f"window {window} goes on after turn {sending.number}"
        title = f"turn {sending.number}, window {window}"
        if sending.parts and sending.parts[0] == 0:
            actor = place.transaction.operation.actor
            title += f": {actor.role or 'the operator'}"
            if place in self.steps:
                answered = " ".join(outcome(self.steps[place]).split())
                title += f"; the transaction was answered: {answered}"
        return title

    def _wait(self, sending: Sending) -> str:
        if not sending.waits_for:
            return ""
        others = " and ".join(str(s + 1) for s in sending.waits_for)
        return f", in which window {sending.place.session + 1} then waits for window {others}"

    def _prompt(self, window: int, label: str) -> Iterator[str]:
        """Have it wait for what other windows do; what its own did last it has done by now."""
        others = [f"window {w} {done}" for w, done in self.before.items() if w != window]
        if others:
            yield from _enter(f"{label}: press Enter here when {' and '.join(others)} ")

    def _opening(self, place: Place) -> Iterator[str]:
        transaction, window = place.transaction, place.session + 1
        actor = transaction.operation.actor
        if actor.lacks_setting:
            if window in self.setting_made:
                yield from reconnecting()
                yield f"{DEADLOCKS_AT_ONCE};"
                self.setting_made.remove(window)
        elif not actor.silent:
            self.setting_made.add(window)
        yield "\\set ok true"
        yield "\\set open true"
        if place.again:
            yield "-- sent again, alone, if it was refused"
            yield f"\\if :ok{place.number}"
            yield "\\set open false"
            yield "\\endif"
        for i, condition in self._conditions(place):
            if condition.kind == "seen":
                yield f"\\set c{i} false"

    def _parts(self, sending: Sending) -> Iterator[str]:
        transaction = sending.place.transaction
        statements = transaction.operation.statements
        for part in sending.parts:
            yield "\\if :open"
            if part == 0:
                yield from (f"{line};" for line in sql.opening(transaction, self.templates))
            if part < len(statements):
                yield from self.script.statement(statements[part])
            else:
                yield f"{sql.ending(transaction, part)};"
            ends = part == transaction.turns - 1
            yield "\\if :ERROR"
            yield "\\set ok false"
            yield "\\set open false"
            if not ends:
                yield "ROLLBACK;"
            yield "\\endif"
            if ends:
                yield "\\set open false"
            if part == sending.parts[0] and not sending.late:
                yield "\\else"
                yield "\\echo 'nothing to send: the transaction is over'"
            yield "\\endif"
            if part == len(statements) - 1:
                for i, condition in self._conditions(sending.place):
                    if condition.kind == "seen":
                        yield "\\if :open"
                        yield f"SELECT coalesce({condition.query}, false) AS c{i} \\gset"
                        yield "\\endif"

    def _called_off(self) -> Iterator[str]:
        yield "-- here it would have waited as well, or for ever, and was told to stop"
        yield "\\set ok false"
        yield "\\if :open"
        yield "\\set open false"
        yield "ROLLBACK;"
        yield "\\endif"

    def _end(self, place: Place) -> Iterator[str]:
        """Note what is true now that the transaction is over."""
        yield f"\\set ok{place.number} :ok"
        for i, condition in self._conditions(place):
            match condition.kind:
                case "accepted":
                    holds = ":'ok'::boolean"
                case "refused":
                    holds = "NOT :'ok'::boolean"
                case "seen":
                    holds = f":'c{i}'::boolean"
                case _:
                    holds = f"coalesce({condition.query}, false)"
            yield f"INSERT INTO {_FACTS} SELECT {i}, {holds};"

    def _conditions(self, place: Place) -> Iterator[tuple[int, Condition]]:
        step = self.steps[place]
        for i, condition in enumerate(self.violation.proof):
            if condition.operation == step.index:
                yield i, condition

    def _verdict(self) -> Iterator[str]:
        others = [f"window {w} has come to its end" for w in self._windows() if w != 1]
        if others:
            yield "\\set ON_ERROR_STOP off"
            yield from _enter(f"the verdict: press Enter here when {' and '.join(others)} ")
            yield "\\set ON_ERROR_STOP on"
        first = len(self.script.workload.operations)
        found = [i for i, c in enumerate(self.violation.proof) if c.operation >= first]
        yield f"SELECT count(*) = {len(found)} AS complete FROM {_FACTS} \\gset"
        yield "\\if :complete"
        yield "\\else"
        yield from _stop("no verdict: not all windows have come to their end")
        yield "\\endif"
        for i in found:
            yield f"SELECT holds AS c{i} FROM {_FACTS} WHERE condition = {i} \\gset"
        yield from self.script.verdict(
            lambda i, c: f":'c{i}'::boolean" if i in found else self.script.term(i, c)
        )


def _enter(prompt: str) -> Iterator[str]:
    """Wait for Enter on standard input."""
    yield "\\unset key"
    yield f"\\prompt '{prompt}' key"
    yield "\\if :{?key}"
    yield "\\else"
    yield from _stop("nobody is there to press Enter")
    yield "\\endif"


def _stop(why: str) -> Iterator[str]:
    """End psql with status 2, which only a lost session gives: \\quit would give 0."""
    yield f"\\warn '{why}'"
    yield ":stop"
