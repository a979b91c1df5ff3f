"""What a contract says of the chain of migrations itself, and what it says before one has run.

The contract is written for the newest revision. Before a revision that renames something it says
the same of the old name: `before` follows the renames back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from invariants.contract.contract import Contract

BLOCKS_AT_MOST_MS = 500


@dataclass(frozen=True)
class Said:
    """What is said of a table, or of a `table.column`, with the reason where one is given."""

    name: str
    reason: str = ""

    @property
    def table(self) -> str:
        """The table, where the name is that of a column; else the name."""
        return self.name.rpartition(".")[0] or self.name

    def covers(self, table: str, column: str = "") -> bool:
        """Whether it speaks of a column, or of the whole table."""
        return self.name in ((table, f"{table}.{column}") if column else (table,))


@dataclass(frozen=True)
class Declared:
    """What a revision is allowed to do, because the contract says so.

    `renames` leads from what was there before, `table` or `table.column`, to the name afterwards.
    `changes` are the columns whose values, and the tables whose rows, it changes on the way up;
    `loses` what its downgrade takes along; `breaks` what clients of before may do no longer.
    """

    renames: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[Said, ...] = ()
    loses: tuple[Said, ...] = ()
    breaks: tuple[Said, ...] = ()


NOTHING = Declared()


@dataclass(frozen=True)
class Migrating:
    """The chain of migrations: who else runs it, how long it may block, what it is known to do.

    `accepted` are failures that are known, by the beginning of their signature, with the reason.
    """

    owner: str | None = None
    blocks_at_most_ms: int = BLOCKS_AT_MOST_MS
    revisions: Mapping[str, Declared] = field(default_factory=dict)
    accepted: Mapping[str, str] = field(default_factory=dict)

    def of(self, revision: str) -> Declared:
        """What is said of a revision."""
        return self.revisions.get(revision, NOTHING)

    def why_accepted(self, signature: str) -> str | None:
        """The reason for which a failure is accepted; None when it is not."""
        for beginning, reason in self.accepted.items():
            if signature == beginning or signature.startswith(f"{beginning}/"):
                return reason
        return None


@dataclass(frozen=True)
class Names:
    """How what the contract names was called before some renames."""

    tables: Mapping[str, str]
    columns: Mapping[tuple[str, str], str]

    @classmethod
    def before(cls, renames: Mapping[str, str], columns: Collection[tuple[str, str]]) -> Names:
        """From renames of one revision. `columns` are those that the contract names."""
        tables, back = {}, {}
        named = {f"{t}.{c}" for t, c in columns}
        for old, new in renames.items():
            table, _, column = old.rpartition(".")
            # `schema.table` or `table.column`: what the contract calls a column is one.
            if table and (f"{table}.{new}" in named or not any(t == new for t, _ in columns)):
                back[table, new] = column
            else:
                tables[new] = old
        known = {old: new for new, old in tables.items()}
        return cls(tables, {(known.get(t, t), c): old for (t, c), old in back.items()})

    def table(self, name: str) -> str:
        """What a relation was called."""
        return self.tables.get(name, name)

    def column(self, table: str, name: str) -> str:
        """What a column of a table, by the name it has now, was called."""
        return self.columns.get((table, name), name)

    def some(self, table: str, names: Sequence[str]) -> tuple[str, ...]:
        """What several columns were called."""
        return tuple(self.column(table, n) for n in names)

    def both(self, table: str, name: str) -> tuple[str, str]:
        """What a column was called, with its table."""
        return self.table(table), self.column(table, name)

    def dotted(self, name: str) -> str:
        """The same of a relation or a `table.column`."""
        if name in self.tables:
            return self.tables[name]
        table, dot, column = name.rpartition(".")
        return ".".join(self.both(table, column)) if dot else name


def before(contract: Contract, renames: Mapping[str, str]) -> Contract:
    """What the contract says before a revision that renames."""
    if not renames:
        return contract
    names = Names.before(renames, contract.columns_named)
    whose = contract.tenancy.column
    table, column, some = names.table, names.column, names.some
    return replace(
        contract,
        tenancy=replace(
            contract.tenancy,
            root=contract.tenancy.root and table(contract.tenancy.root),
            column=next(
                (c for t in contract.tenancy.tables if (c := column(t, whose)) != whose), whose
            ),
            tables=tuple(map(table, contract.tenancy.tables)),
            scoped_by={table(t): column(t, c) for t, c in contract.tenancy.scoped_by.items()},
            shared=tuple(map(table, contract.tenancy.shared)),
            tied={names.both(*c): said for c, said in contract.tenancy.tied.items()},
        ),
        roles={
            role: {table(relation): verbs for relation, verbs in grants.items()}
            for role, grants in contract.roles.items()
        },
        append_only=tuple(replace(a, table=table(a.table)) for a in contract.append_only),
        sums=tuple(
            replace(
                s,
                table=table(s.table),
                amount=column(s.table, s.amount),
                group_by=some(s.table, s.group_by),
                total_key=column(s.table, s.total_key),
                total_table=table(s.total_table),
                total_column=column(s.total_table, s.total_column),
            )
            for s in contract.sums
        ),
        idempotency=tuple(
            replace(i, table=table(i.table), keys=tuple(some(i.table, k) for k in i.keys))
            for i in contract.idempotency
        ),
        taxonomies=tuple(
            replace(
                t,
                table=table(t.table),
                code=column(t.table, t.code),
                active=t.active and column(t.table, t.active),
                used_by=tuple(names.both(*used) for used in t.used_by),
            )
            for t in contract.taxonomies
        ),
        domains={names.both(*place): domain for place, domain in contract.domains.items()},
        clock_columns=frozenset(names.both(*place) for place in contract.clock_columns),
        ledgers=tuple(
            replace(
                rule,
                table=table(rule.table),
                amount=column(rule.table, rule.amount),
                posts=column(rule.table, rule.posts),
                source_table=table(rule.source_table),
                source_amount=column(rule.source_table, rule.source_amount),
                corrects=rule.corrects and column(rule.table, rule.corrects),
            )
            for rule in contract.ledgers
        ),
        pii=contract.pii
        and replace(contract.pii, columns=tuple(names.both(*c) for c in contract.pii.columns)),
        read_paths=tuple(
            replace(
                path,
                view=table(path.view),
                filled_by=table(path.filled_by),
                table=table(path.table),
                columns=tuple(
                    replace(c, source=column(path.table, c.source)) for c in path.columns
                ),
                latest_by=some(path.table, path.latest_by),
            )
            for path in contract.read_paths
        ),
        rows={
            table(name): tuple(replace(c, name=column(name, c.name)) for c in columns)
            for name, columns in contract.rows.items()
        },
        introduced={names.dotted(n): revision for n, revision in contract.introduced.items()},
        formerly=_formerly(contract, names),
    )


def _formerly(contract: Contract, names: Names) -> Mapping[str, str]:
    """From the names that columns have in the newest contract to those before the renames too."""
    then = {now: names.dotted(name) for now, name in contract.formerly.items()}
    tracked = set(contract.formerly.values())
    for (table, column), old in names.columns.items():
        if f"{table}.{column}" not in tracked:
            then[f"{table}.{column}"] = f"{names.table(table)}.{old}"
    return then
