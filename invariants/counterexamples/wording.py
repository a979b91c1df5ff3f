"""Words for people: names in the place of ids, statements cut short, what the server answered."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from invariants.escaping import shown
from invariants.execution.history import History, Step
from invariants.execution.wire import ServerError
from invariants.workload import sql
from invariants.workload.operations import Actor, Copy, Operation, Statement, Workload, inserted

WIDTH = 100
VALUE_MAX = 60
_UUID = re.compile(r"'?\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b'?")

# A name stays whole, whatever is in it.
_QUOTED = re.compile(r"""'((?:[^']|'')*)'|"(?:[^"]|"")*\"""")


def names_of(workload: Workload) -> Mapping[str, str]:
    """Readable names for the ids of a workload: tenants by letter, rows by table and number."""
    names = {t.id: f"tenant {_letter(i)}" for i, t in enumerate(workload.tenants)}
    counts: dict[str, int] = {}
    for operation in workload.all_operations:
        for s in operation.statements:
            for row in inserted(s):
                value = row.get("id")
                if isinstance(value, str) and value not in names:
                    counts[s.relation] = counts.get(s.relation, 0) + 1
                    names[value] = f"{s.relation}#{counts[s.relation]}"
    return names


def _letter(position: int) -> str:
    return chr(ord("A") + position) if position < 26 else f"T{position}"


def named(line: str, names: Mapping[str, str]) -> str:
    """The line with names for ids; an id that has none is cut short."""

    def name(match: re.Match[str]) -> str:
        bare = match[0].strip("'")
        if bare not in names:
            return f"#{bare[:4]}..{bare[-4:]}" if match[0] == bare else match[0]
        return names[bare]

    return _UUID.sub(name, line)


def who(actor: Actor, names: Mapping[str, str], application: Sequence[str]) -> str:
    """An actor; `application` are the roles for which it is worth a word that no tenant is set."""
    words = actor.role or "the operator"
    said = ", ".join(f"{name} {named(value, names)}" for name, value in actor.said)
    if said and not actor.tenant:
        words += f" as {said}"
    elif actor.tenant is not None:
        words += f" for {named(actor.tenant, names)}" if actor.tenant else ", empty tenant setting"
    elif actor.role in application:
        words += ", no tenant setting"
    return f"{words} ({said})" if said and actor.tenant else words


def session(operation: Operation) -> str:
    """What is unusual about the session in which an operation is sent."""
    words = [", next on the same connection"] if operation.inherits else []
    words += [f", with {name} {value}" for name, value in operation.settings]
    return "".join(words)


def sent_before(history: History, step: Step) -> bool:
    """Whether the client had sent the same message before."""
    delivery = step.operation.delivery
    return delivery is not None and any(
        s.operation.delivery == delivery for s in history.steps[: step.index]
    )


def spelled_short(statement: Statement) -> str:
    """The statement with long literals cut; for reading, not for running."""
    text = sql.spelled(statement)
    if isinstance(statement, Copy):
        text += ": " + " ".join(sql.copy_data(statement.rows).split())
    return _QUOTED.sub(
        lambda m: f"'{m[1][:VALUE_MAX]}...'" if len(m[1] or "") > VALUE_MAX else m[0], text
    )


def refused(error: ServerError) -> str:
    """What the server said when it refused."""
    source = error.constraint or (f"{error.function}()" if error.function else "")
    where = f", {source}" if source else ""
    return f"refused: {' '.join(error.message.split())} ({error.sqlstate}{where})"


def counted(count: int) -> str:
    """A number of rows."""
    return f"{count} {'row' if count == 1 else 'rows'}"


def outcome(step: Step) -> str:
    """What the server answered to an operation."""
    if step.error is not None:
        return refused(step.error)
    counts = [counted(a.count) for a in step.answers if a.count is not None]
    return "accepted" + (f": {', '.join(counts)}" if counts else "")


def wrapped(
    first: str, text: str, rest: str, width: int = WIDTH, *, cut: bool = False
) -> Iterator[str]:
    """The text in lines, with these beginnings; with `cut` no line is wider, whatever it takes."""
    yield from textwrap.wrap(
        shown(text),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=cut,
        break_on_hyphens=False,
    ) or [first.rstrip()]
