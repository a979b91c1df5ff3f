"""Operations as data: what a client does, without a word about how it is sent or what came of it.

A workload can be printed, saved, compared, cut down, sent twice and projected onto one tenant. Ids
are chosen by the client, so that no operation needs the answer of an earlier one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Literal, Self, get_args

OPERATOR = ""
"""The role of whoever maintains the database: the superuser session itself."""


@dataclass(frozen=True, slots=True)
class Json:
    """A JSON document as a value of a json or jsonb column, kept as canonical text."""

    text: str

    @classmethod
    def of(cls, document: Any) -> Self:
        """Keep `document` with sorted keys, so that equal documents are equal values."""
        return cls(json.dumps(document, sort_keys=True, separators=(",", ":")))

    @property
    def document(self) -> Any:
        """The document itself."""
        return json.loads(self.text)


Value = None | bool | int | str | Json
Settings = tuple[tuple[str, str], ...]
CommentTarget = Literal["table", "view", "materialized view", "function", "procedure"]
ShadowTarget = Literal["type", "relation"]
HeldOn = (
    Literal["relation", "sequence", "schema", "database", "parameter", "role", "attribute"]
    | Literal["routine"]
)
LeftoverTarget = Literal[
    "setting",
    "server settings",
    "advisory locks",
    "temporary objects",
    "channels",
    "prepared statements",
    "cursors",
]
Row = tuple[Value, ...]
Assignments = tuple[tuple[str, Value], ...]
Said = tuple[tuple[str, str], ...]


@lru_cache(maxsize=100_000)
def ident(kind: str, number: int) -> str:
    """The `number`th id of a kind: a valid version 4 UUID, the same in every run."""
    tag = hashlib.blake2s(kind.encode(), digest_size=4).hexdigest()
    return f"{tag}-0000-4000-8000-{number:012x}"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who sends an operation: a role, and what its session says of whom it acts for.

    `tenant` None means that no tenant was ever named; any text is sent as it is. `said` is what the
    session says besides (`workload.templates`), by name: the user, or a level within the tenant.
    """

    role: str
    tenant: str | None = None
    said: Said = ()

    @property
    def silent(self) -> bool:
        """Whether its session says nothing of whom it acts for."""
        return self.tenant is None and not self.said

    @property
    def lacks_setting(self) -> bool:
        """Whether it needs a session that never said for whom it acts: that cannot be unset."""
        return self.silent and self.role != OPERATOR


@dataclass(frozen=True, slots=True)
class Conflict:
    """ON CONFLICT: do nothing without `updates`, else set those columns to the new row's values."""

    target: tuple[str, ...] = ()
    where: str = ""
    updates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Insert:
    """INSERT of one or more rows; `overriding` what the server would number always."""

    kind: ClassVar[str] = "insert"
    relation: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    conflict: Conflict | None = None
    overriding: bool = False


@dataclass(frozen=True, slots=True)
class Update:
    """UPDATE of the rows whose columns equal `where` (all rows when empty)."""

    kind: ClassVar[str] = "update"
    relation: str
    assign: Assignments
    where: Assignments = ()


@dataclass(frozen=True, slots=True)
class Delete:
    """DELETE of the rows whose columns equal `where` (all rows when empty)."""

    kind: ClassVar[str] = "delete"
    relation: str
    where: Assignments = ()


@dataclass(frozen=True, slots=True)
class Select:
    """SELECT of the rows whose columns equal `where` (all rows when empty).

    `columns` are those that are read, all when empty. With `leak` the condition reads that column
    in a way that fails, so that the error tells what is in a row that the condition got to see.
    One that is `prepared` keeps its plan, for whoever sends it next in the session.
    """

    kind: ClassVar[str] = "select"
    relation: str
    where: Assignments = ()
    columns: tuple[str, ...] = ()
    leak: str = ""
    prepared: bool = False


@dataclass(frozen=True, slots=True)
class Truncate:
    """TRUNCATE of one table."""

    kind: ClassVar[str] = "truncate"
    relation: str
    cascade: bool = False


@dataclass(frozen=True, slots=True)
class Merge:
    """MERGE of one row: update `updates` where `on` matches, else insert the row.

    It may be `overriding` what the server would number always.
    """

    kind: ClassVar[str] = "merge"
    relation: str
    columns: tuple[str, ...]
    row: Row
    on: tuple[str, ...]
    updates: tuple[str, ...] = ()
    overriding: bool = False


@dataclass(frozen=True, slots=True)
class Copy:
    """COPY .. FROM STDIN of one or more rows."""

    kind: ClassVar[str] = "copy"
    relation: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Refresh:
    """REFRESH MATERIALIZED VIEW."""

    kind: ClassVar[str] = "refresh"
    relation: str
    concurrently: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """SELECT from a function, or CALL of a procedure, with a value for each argument.

    A routine goes by its name and the types it takes, `name(types)`; a function without arguments
    by its name alone as well.
    """

    kind: ClassVar[str] = "call"
    relation: str
    arguments: Row = ()
    procedure: bool = False


@dataclass(frozen=True, slots=True)
class Comment:
    """COMMENT on a relation or function, which only who owns it may do: an attempt to take it.

    `target` is SQL's word for what it is; a function goes by its name and argument types.
    """

    kind: ClassVar[str] = "comment"
    relation: str
    target: CommentTarget


@dataclass(frozen=True, slots=True)
class Attach:
    """CREATE TRIGGER with the function `relation` on a table of one's own: an attempt to run it.

    A function that runs as its owner would then do so for whoever owns that table.
    """

    kind: ClassVar[str] = "attach"
    relation: str


@dataclass(frozen=True, slots=True)
class Shadow:
    """A temporary type or view of the name of `relation`, which goes with its schema.

    Who looks for the name without the schema, and among temporary objects first, runs code of the
    actor's. That code refuses with `RUNS_AS_ANOTHER` where it does not run as the actor. `target`
    says what `relation` is: `type` or `relation`.
    """

    kind: ClassVar[str] = "shadow"
    relation: str
    target: ShadowTarget


@dataclass(frozen=True, slots=True)
class Set:
    """SET LOCAL of a setting, to its default where `value` is None; `relation` is its name."""

    kind: ClassVar[str] = "set"
    relation: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Become:
    """SET LOCAL ROLE to the role `relation`: what follows is done as that one."""

    kind: ClassVar[str] = "become"
    relation: str


@dataclass(frozen=True, slots=True)
class Inquire:
    """A question of the actor's: whether it holds a privilege on `relation`, not as its owner.

    `target` says what `relation` is; `attribute` is one of the actor's role. Grant options are
    privileges of their own.
    """

    kind: ClassVar[str] = "inquire"
    relation: str
    privilege: str
    target: HeldOn


@dataclass(frozen=True, slots=True)
class Leftover:
    """A look at what the session still has of what was done in it before.

    `target` says what is looked for; `relation` is the name of a setting, else `target` once more.
    """

    kind: ClassVar[str] = "leftover"
    relation: str
    target: LeftoverTarget


RUNS_AS_ANOTHER = "RUNAS"
"""The SQLSTATE of a `Shadow` that is run by somebody else than who made it."""

_KINDS = (
    Insert,
    Update,
    Delete,
    Select,
    Truncate,
    Merge,
    Copy,
    Refresh,
    Call,
    Comment,
    Attach,
    Shadow,
    Set,
    Become,
    Inquire,
    Leftover,
)
Statement = (
    Insert
    | Update
    | Delete
    | Select
    | Truncate
    | Merge
    | Copy
    | Refresh
    | Call
    | Comment
    | Attach
    | Shadow
    | Set
    | Become
    | Inquire
    | Leftover
)
STATEMENTS: Mapping[str, type[Statement]] = {c.kind: c for c in _KINDS}
READS = (Select, Set, Become, Inquire, Leftover)

# What a session may have set besides, and what to: what decides how values are read and written.
SESSION_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "TimeZone": ("America/Los_Angeles", "Asia/Kathmandu", "Pacific/Kiritimati"),
    "DateStyle": ("SQL, DMY", "German", "Postgres, MDY"),
    "IntervalStyle": ("sql_standard", "iso_8601"),
    "extra_float_digits": ("-15", "3"),
    "bytea_output": ("escape",),
}


def inserted(statement: Statement) -> tuple[dict[str, Value], ...]:
    """The rows that an INSERT, COPY or MERGE brings, by column; none for other statements."""
    match statement:
        case Insert(_, columns, rows) | Copy(_, columns, rows):
            return tuple(dict(zip(columns, row, strict=True)) for row in rows)
        case Merge(_, columns, row):
            return (dict(zip(columns, row, strict=True)),)
    return ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One client transaction: an actor and the statements it sends.

    Operations with the same `delivery` number carry the same message: the client sends it again.
    `settings` are those of `SESSION_SETTINGS` that its session has, where they are no usual ones.
    One that `inherits` is sent on the connection that its role has used before, as a pool hands it
    on; only who says nothing of whom it acts for would else have another one.
    """

    actor: Actor
    statements: tuple[Statement, ...]
    delivery: int | None = None
    settings: Settings = ()
    inherits: bool = False

    @property
    def lacks_setting(self) -> bool:
        """Whether it needs a session that never said for whom it acts."""
        return self.actor.lacks_setting and not self.inherits

    @property
    def reads_only(self) -> bool:
        """Whether no statement can change a row."""
        return all(isinstance(s, READS) for s in self.statements)

    @property
    def leaks(self) -> bool:
        """Whether a statement tries to learn what it must not see from an error.

        Its session turns index scans off, as anybody may: with them the row would be looked for
        by its tenant before the condition is evaluated.
        """
        return any(isinstance(s, Select) and s.leak for s in self.statements)

    @property
    def keeps_plans(self) -> bool:
        """Whether a statement is to be executed with the plan of whoever sent it before."""
        return any(isinstance(s, Select) and s.prepared for s in self.statements)

    @property
    def lingers(self) -> bool:
        """Whether it is about what sessions keep, so that those of before must have nothing."""
        return self.inherits or any(isinstance(s, Leftover) for s in self.statements)

    @property
    def shadows(self) -> bool:
        """Whether it makes temporary objects in the place of others.

        It has a session of its own, which ends with it: functions keep, for as long as a session
        lasts, the types that they found when they were first called in it.
        """
        return any(isinstance(s, Shadow) for s in self.statements)


Isolation = Literal["read committed", "repeatable read", "serializable"]
ISOLATIONS: tuple[Isolation, ...] = get_args(Isolation)


@dataclass(frozen=True, slots=True)
class Transaction:
    """An operation in a session of its own: BEGIN, its statements, COMMIT or ROLLBACK.

    It is sent in turns: one for each statement (the first with BEGIN), and two at its end. With the
    first of these its deferred constraints are checked, so that nothing waits in the second, which
    ends it; what another session does in between is what it may do while a COMMIT is under way.
    """

    operation: Operation
    isolation: Isolation = "read committed"
    commits: bool = True

    @property
    def turns(self) -> int:
        """How often the session must be given its turn until the transaction is over."""
        return len(self.operation.statements) + (2 if self.checked else 1)

    @property
    def checked(self) -> bool:
        """Whether deferred constraints are checked in a turn of their own."""
        return self.commits and not self.operation.reads_only


Session = tuple[Transaction, ...]


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant that exists before the first operation: the row of the tenancy's root table.

    One without columns needs no row, or the schema brings it.
    """

    id: str
    columns: tuple[str, ...] = ()
    row: Row = ()

    def made(self, root: str | None) -> Insert | None:
        """What makes the tenant in the table that lists them; None where nothing has to."""
        return Insert(root, self.columns, (self.row,)) if root and self.columns else None


@dataclass(frozen=True, slots=True)
class Workload:
    """Tenants, the operations sent one after the other, then sessions that go on side by side.

    `premise` names the altered schema it runs on (`checks.premises`), empty for the schema
    as migrated. `schedule` says which session has the next turn, by its position. A turn of one
    that waits or is done is passed over; when the schedule is used up, each session in order goes
    on as far as it gets.
    """

    tenants: tuple[Tenant, ...]
    operations: tuple[Operation, ...]
    premise: str = ""
    sessions: tuple[Session, ...] = ()
    schedule: tuple[int, ...] = ()

    @property
    def all_operations(self) -> tuple[Operation, ...]:
        """The operations, then those of the sessions, one session after the other."""
        return (*self.operations, *(t.operation for s in self.sessions for t in s))

    def without_others(self, tenant: str) -> Workload:
        """The same world without the operations of other tenants.

        What has no tenant (maintenance, sessions without a valid setting) stays.
        """
        others = {t.id for t in self.tenants} - {tenant}
        kept = tuple(o for o in self.operations if o.actor.tenant not in others)
        return replace(self, operations=kept)
