"""The sections of a contract as data: what each of them promises, and nothing of how it is written.

How they stand in `invariants.toml` is in `file`, what they are together in `contract`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from invariants.workload.templates import TENANT, USER, Templates

Verb = Literal["select", "insert", "update", "delete", "truncate"]
VERBS: tuple[str, ...] = get_args(Verb)
Deed = (
    Verb
    | Literal["references", "trigger", "maintain", "usage", "execute", "create"]
    | Literal["set", "alter system", "member"]
)
Layer = Literal["privilege", "trigger"]
LAYERS: tuple[Layer, ...] = get_args(Layer)
Channel = Literal["primary-key-collision", "sequence"]
CHANNELS: tuple[str, ...] = get_args(Channel)
Summary = Literal["tenant", "sum", "any", "age", "latest"]
SUMMARIES: tuple[Summary, ...] = get_args(Summary)


@dataclass(frozen=True)
class Members:
    """A table that says which users are in which tenants: the columns that name them."""

    table: str
    user: str
    tenant: str


@dataclass(frozen=True)
class Within:
    """A level within the tenant: rows whose `column` names another one than the session's are
    foreign, as another tenant's are. `root` has one row for each; templates call it `name`.
    """

    column: str
    root: str
    name: str


@dataclass(frozen=True)
class Tenancy:
    """Who the tenants are and how a session says which one it acts for.

    `root` is None where no table lists them. `session` are the settings that a session makes, and
    `role` the template of the role that a tenant has to itself, if it has one. Rows of `tables`
    have the tenant in `column`; those of `scoped_by` belong to whom the row belongs that the
    column refers to; those of `shared` to nobody. `tied` columns carry what the session says.
    """

    root: str | None
    column: str
    session: Templates
    tables: tuple[str, ...]
    erased_by: str | None = None
    role: str | None = None
    scoped_by: Mapping[str, str] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    tied: Mapping[tuple[str, str], str] = field(default_factory=dict)
    members: Members | None = None
    within: tuple[Within, ...] = ()

    @cached_property
    def owned(self) -> tuple[str, ...]:
        """The tables whose rows belong to a tenant, by a column or through a parent."""
        return (*self.tables, *self.scoped_by)

    @cached_property
    def rooted(self) -> tuple[str, ...]:
        """Those and the table of the tenants themselves."""
        return (*((self.root,) if self.root else ()), *self.owned)

    @cached_property
    def settings(self) -> tuple[str, ...]:
        """The names of the settings that a session makes."""
        return tuple(name for name, _ in self.session.settings)

    @property
    def names_user(self) -> bool:
        """Whether a session says for which user it acts."""
        return USER in self.session.names

    @property
    def names_tenant(self) -> bool:
        """Whether a session says for which tenant it acts, by a setting."""
        return TENANT in self.session.names

    def tenant_of_role(self, role: str) -> str | None:
        """The tenant that has a role to itself; None for any other role."""
        if self.role is None:
            return None
        before, _, after = self.role.partition(_TENANT_PLACE)
        inner = role[len(before) : len(role) - len(after)]
        fits = role.startswith(before) and role.endswith(after) and len(inner) > 0
        return inner if fits and before + inner + after == role else None

    def role_of(self, tenant: str) -> str | None:
        """The role that a tenant has to itself."""
        return self.role and self.role.replace(_TENANT_PLACE, tenant)


_TENANT_PLACE = f"{{{TENANT}}}"


@dataclass(frozen=True)
class WrittenByTriggers:
    """Columns and tables that triggers write: what is in them is not the client's to decide."""

    columns: frozenset[tuple[str, str]] = frozenset()
    tables: frozenset[str] = frozenset()


@dataclass(frozen=True)
class AppendOnly:
    """A table whose committed rows stay as they are; only `repaired_by` may change one.

    Each of `layers` keeps them alone.
    """

    table: str
    repaired_by: str | None = None
    layers: tuple[Layer, ...] = ("privilege", "trigger")


@dataclass(frozen=True)
class Sum:
    """Rows of `table` grouped by tenant and `group_by` add up to a column of another table.

    `tolerance` is in the unit of the amount.
    """

    table: str
    amount: str
    group_by: tuple[str, ...]
    total_table: str
    total_column: str
    total_key: str
    tolerance: int | Decimal


@dataclass(frozen=True)
class Idempotency:
    """The keys by which a second delivery is recognised, in order of precedence."""

    table: str
    keys: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Taxonomy:
    """A table of codes, the columns that use them, and a file whose codes must all exist."""

    table: str
    code: str
    active: str | None
    used_by: tuple[tuple[str, str], ...]
    mapping: Path | None


@dataclass(frozen=True)
class Domain:
    """Values a column takes: a numeric range, one of a list, or any text that is not blank."""

    min: float | None = None
    max: float | None = None
    one_of: tuple[str, ...] | None = None
    not_blank: bool = False


@dataclass(frozen=True)
class Ledger:
    """A table whose rows post amounts of another table, once each, and whose rows may be corrected.

    A posting names the row it posts in `posts` and carries that row's amount. A correction also
    names the posting it corrects, in `corrects`; a posting and its corrections together are never
    below zero. `corrects` is None where there are no corrections. With `partial` several postings
    may name one source, and add up to at most its amount.
    """

    table: str
    amount: str
    posts: str
    source_table: str
    source_amount: str
    corrects: str | None = None
    partial: bool = False

    def is_correction(self, row: Mapping[str, Any]) -> bool:
        """Whether a row of the table corrects another."""
        return self.corrects is not None and row.get(self.corrects) is not None


@dataclass(frozen=True)
class Pii:
    """JSON columns in which no key may name personal data, and the words that do.

    A key names it when its last words are one of `last_words`, or all of its words are one of
    `whole`. Words are runs of ASCII letters and digits, also divided before a capital that follows
    a lower-case letter or digit; case and numbers at the end do not matter.
    """

    columns: tuple[tuple[str, str], ...]
    last_words: tuple[str, ...]
    whole: tuple[str, ...]

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        last, whole = (
            "|".join("_?".join(map(re.escape, words.split())) for words in listed) or "(?!)"
            for listed in (self.last_words, self.whole)
        )
        return re.compile(rf"(?:(?:.*_)?(?:{last})|(?:{whole}))[0-9_]*\Z")

    def names(self, key: str) -> bool:
        """Whether a key names personal data."""
        divided = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", key)
        words = re.sub(r"[^A-Za-z0-9]+", "_", divided).strip("_").lower()
        return bool(self._pattern.match(words))


@dataclass(frozen=True)
class ReadColumn:
    """A column of a read path: its SQL type, and what it says of the tenant's rows.

    tenant: whose rows they are. sum: of `source`, divided by `divided_by`. any: whether `source` is
    true in some row. age: seconds since the latest `source`, from 0 to what the type holds.
    latest: `source` of the latest row.
    """

    name: str
    type: str
    summary: Summary
    source: str = ""
    divided_by: int = 1


@dataclass(frozen=True)
class ReadPath:
    """A view through which a tenant reads one row about its rows of `table`.

    It shows what they were when `filled_by`, a materialized view, was last refreshed. The latest
    row is the last by `latest_by`.
    """

    view: str
    filled_by: str
    table: str
    columns: tuple[ReadColumn, ...]
    latest_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class RowColumn:
    """What a column holds: values of a type, of a length in characters where it has one.

    `scale` is the number of digits after the point, of a number or of a second; -1 where the type
    says nothing. `gone_with` is CASCADE when a row goes with what this column refers to, NO ACTION
    when it keeps it from going, and empty where nothing is said.
    """

    name: str
    type: str
    length: int = -1
    scale: int = -1
    key: bool = False
    nullable: bool = False
    gone_with: str = ""
