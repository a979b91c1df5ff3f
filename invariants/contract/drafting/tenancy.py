"""Finds out who the tenants are: what policies and foreign keys agree on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from invariants.schema.catalog import Catalog, ForeignKey
from invariants.schema.definitions import Definitions, PolicyText
from invariants.schema.effects import EACH, Effects, Match, Parts
from invariants.schema.reach import Reach

_DEEP = 4
# Where policies compare a column of people, these tell it from one of tenants.
_OF_USERS = ("user", "owner", "author", "profile", "created_by")
_OF_TENANTS = ("tenant", "org", "account", "team", "workspace", "company", "customer")


@dataclass(frozen=True)
class Said:
    """What a column is compared with in the end: a setting, a claim in it, or who acts."""

    setting: str = ""
    claim: Parts = ()
    identity: str = ""


@dataclass(frozen=True)
class Members:
    """A table that says which users are in which tenants."""

    table: str
    user: str
    tenant: str


@dataclass(frozen=True)
class Tenancy:
    """What was found of tenants, with the evidence of each part."""

    root: str | None
    column: str
    session: Mapping[str, str]
    tables: tuple[str, ...]
    scoped_by: Mapping[str, str]
    shared: tuple[str, ...]
    members: Members | None = None
    tied: Mapping[str, str] = field(default_factory=dict)
    evidence: Mapping[str, str] = field(default_factory=dict)
    questions: tuple[str, ...] = ()


def find(reach: Reach, codes: frozenset[str], seen: frozenset[str]) -> Tenancy | None:
    """The tenants of a database; None when no policy and no foreign key says anything.

    `codes` are the tables of codes, `seen` those that a role may reach.
    """
    return _Search(reach, codes, seen).run()


@dataclass
class _Search:
    reach: Reach
    codes: frozenset[str]
    seen: frozenset[str]

    @property
    def catalog(self) -> Catalog:
        return self.reach.catalog

    @property
    def definitions(self) -> Definitions:
        return self.reach.definitions

    def run(self) -> Tenancy | None:
        votes = self._votes()
        if not votes:
            return None
        (column, root), count = max(
            votes.items(), key=lambda vote: (vote[1], vote[0][1] or "", vote[0][0])
        )
        tables = tuple(
            t
            for t, relation in self.catalog.tables.items()
            if t != root and column in relation.columns and self._refers(t, column, root)
        )
        said, members = self._session(column, root, tables)
        session, asked = self._templates(said, members, column)
        scoped = self._scoped({*tables, root or ""}, root)
        placed = {*tables, *scoped, root or "", *self.codes}
        referred = {
            k.target
            for t in (*tables, *scoped)
            for k in self.catalog.tables[t].foreign_keys
            if k.target not in placed
        }
        shared = tuple(
            t for t in self.catalog.tables if t not in placed and (t in referred or t in self.seen)
        )
        refers = f"; it refers to {root}" if root else ""
        return Tenancy(
            root,
            column,
            session,
            tables,
            scoped,
            shared,
            members,
            self._tied(said, column, (*tables, *scoped), members),
            {
                "column": f"{count} policies and foreign keys speak for it{refers}",
                "session": "; ".join(dict.fromkeys(s for s in self._told(said))),
                "scoped_by": "no tenant column, but a reference to a row that has one",
                "shared": "neither a tenant column nor a reference to what has one",
            },
            tuple(asked),
        )

    def _votes(self) -> Counter[tuple[str, str | None]]:
        """How many policies and foreign keys speak for each pair of column and root table."""
        votes: Counter[tuple[str, str | None]] = Counter()
        for policy in self.definitions.policies:
            for match in self._matches(policy):
                column = match.column[-1]
                relation = self.catalog.tables.get(policy.table)
                if relation is None or column not in relation.columns:
                    continue
                key = _alone(relation.foreign_key_of(column), column)
                root = key.target if key else None
                if (
                    root is None
                    and (column,) == relation.primary_key
                    and self.catalog.referrers.get(policy.table)
                ):
                    continue  # the root itself: its own column votes for nothing
                if self._is_user(column, root):
                    continue
                votes[column, root] += 2
        for relation in self.catalog.tables.values():
            for foreign in relation.foreign_keys:
                pair = (foreign.columns[0], foreign.target)
                if len(foreign.columns) == 1 and pair in votes:
                    votes[pair] += 1
        if not votes:
            # No policy says it: the table that most others refer to by one name.
            for relation in self.catalog.tables.values():
                for foreign in relation.foreign_keys:
                    if len(foreign.columns) == 1 and foreign.target not in self.codes:
                        votes[foreign.columns[0], foreign.target] += 1
            likely = {p: n for p, n in votes.items() if n >= 2 and not self._is_user(*p)}
            votes = Counter(likely)
        # A column without a foreign key in one table has one in another.
        for (column, root), count in list(votes.items()):
            if root is None:
                rooted = [r for c, r in votes if c == column and r is not None]
                if rooted:
                    votes[column, rooted[0]] += count
                    del votes[column, None]
        return votes

    def _matches(self, policy: PolicyText) -> Iterator[Match]:
        for match in policy.effects.matches:
            if match.reads or any(True for _ in self._resolved(match)):
                yield match

    def _resolved(self, match: Match, deep: int = 0) -> Iterator[Said]:
        """What a match comes to when its calls are followed."""
        if match.setting:
            yield Said(match.setting, match.claim)
        if match.identity:
            yield Said(identity=match.identity)
        if match.call and deep < _DEEP:
            for routine in self.definitions.routines:
                if routine.name == match.call[-1] and (
                    len(match.call) == 1 or routine.schema == match.call[-2]
                ):
                    for said in self._asked(routine.effects, deep + 1):
                        yield replace(said, claim=(*said.claim, *match.claim))

    def _asked(self, effects: Effects, deep: int) -> Iterator[Said]:
        for setting in effects.settings:
            longest = [c for c in setting.claims if not _shorter(c, setting.claims)]
            for claim in sorted(longest) or [()]:
                yield Said(setting.name, claim)
        for identity in effects.identities:
            yield Said(identity=identity)
        if deep < _DEEP:
            for call in effects.calls:
                for way in effects.ways(call):
                    yield from self._resolved(Match((), call=call, claim=way), deep)

    def _session(
        self, column: str, root: str | None, tables: tuple[str, ...]
    ) -> tuple[dict[Said, str], Members | None]:
        """What each thing that the session says stands for, and the membership if there is one."""
        said: dict[Said, str] = {}
        members = self._members(column, root)
        for policy in self.definitions.policies:
            for match in policy.effects.matches:
                name = match.column[-1]
                of_root = policy.table == root and (name,) == self.catalog.tables[root].primary_key
                is_tenant = of_root or (policy.table in tables and name == column)
                for one in self._resolved(match):
                    if members is None and is_tenant:
                        said[one] = "{tenant}"
                    elif not is_tenant or members is not None:
                        said.setdefault(one, "{user}")
        if members is not None:
            # Who the user is is asked where the members are looked up.
            for effects in self._about(members.table):
                for match in effects.matches:
                    if match.column[-1] == members.user:
                        for one in self._resolved(match):
                            said[one] = "{user}"
            said = {k: v for k, v in said.items() if v == "{user}"}
        return said, members

    def _tied(
        self,
        said: Mapping[Said, str],
        column: str,
        tables: tuple[str, ...],
        members: Members | None,
    ) -> dict[str, str]:
        """Columns that policies want to be what the session says, the tenant's apart."""
        found = {}
        for policy in self.definitions.policies:
            if policy.table not in tables or (members and policy.table == members.table):
                continue
            for match in policy.effects.matches:
                name = match.column[-1]
                known = name in self.catalog.tables[policy.table].columns and name != column
                stands = {said.get(one) for one in self._resolved(match)} - {None, "{tenant}"}
                if known and stands and not match.reads:
                    found[f"{policy.table}.{name}"] = "{user}"
        return found

    def _about(self, table: str) -> Iterator[Effects]:
        """Everything that reads a table."""
        for effects in (
            *(p.effects for p in self.definitions.policies),
            *(r.effects for r in self.definitions.routines),
        ):
            if any(name[-1] == table.rpartition(".")[2] for name in effects.reads):
                yield effects
        yield from (p.effects for p in self.definitions.policies if p.table == table)

    def _members(self, column: str, root: str | None) -> Members | None:
        """A table with a tenant and a user, read to decide about the rows of others."""
        for table, relation in self.catalog.tables.items():
            if column not in relation.columns and not any(
                k.target == root for k in relation.foreign_keys
            ):
                continue
            tenant = next(
                (k.columns[0] for k in relation.foreign_keys if k.target == root and root), column
            )
            for effects in self._about(table):
                for match in effects.matches:
                    user = match.column[-1]
                    if (
                        user in relation.columns
                        and user != tenant
                        and any(True for _ in self._resolved(match))
                        and self._decides(table)
                    ):
                        return Members(table, user, tenant)
        return None

    def _decides(self, table: str) -> bool:
        """Whether policies of other tables read it."""
        return any(
            table in self.reach.of_effects(p.effects).reads
            for p in self.definitions.policies
            if p.table != table
        )

    def _templates(
        self, said: Mapping[Said, str], members: Members | None, column: str
    ) -> tuple[dict[str, str], list[str]]:
        """What a session sets: a template for each setting, JSON where claims are taken from it."""
        session: dict[str, str] = {}
        documents: dict[str, dict[str, object]] = {}
        asked: list[str] = []
        for one, stands_for in sorted(said.items(), key=lambda e: (e[0].setting, e[0].claim)):
            if one.identity == "session_user":
                asked.append("a policy asks session_user: does each tenant log in by itself?")
            elif one.identity and stands_for == "{tenant}":
                session["role"] = "{tenant}"
            elif one.claim == (EACH,):
                session[one.setting] = json.dumps([stands_for])
            elif one.claim:
                inner = documents.setdefault(one.setting, {})
                *way, last = (part for part in one.claim if part != EACH)
                for part in way:
                    below = inner.setdefault(part, {})
                    assert isinstance(below, dict)
                    inner = below
                inner[last] = [stands_for] if one.claim[-1] == EACH else stands_for
            elif one.setting:
                session.setdefault(one.setting, stands_for)
        session |= {name: json.dumps(document) for name, document in documents.items()}
        if not session:
            asked.append(
                f"how does a session say which tenant it acts for? No policy compares {column} with"
                " a setting: fill in tenancy.setting"
            )
        if members is None and "{user}" in "".join(session.values()):
            asked.append("a session also names a user: which users belong to which tenant?")
        return session, asked

    def _told(self, said: Mapping[Said, str]) -> Iterator[str]:
        for one, stands_for in said.items():
            where = one.setting or one.identity
            claim = f", key {'.'.join(one.claim)}".replace(f".{EACH}", ", a list")
            claim = claim if one.claim else ""
            yield f"policies compare the {stands_for[1:-1]} with {where}{claim}"

    def _scoped(self, placed: set[str], root: str | None) -> dict[str, str]:
        """Tables that belong to whom the row they refer to belongs to, by which column."""
        found: dict[str, str] = {}
        while True:
            new = {}
            for table, relation in self.catalog.tables.items():
                if table in placed or table in found or table in self.codes:
                    continue
                keys = [
                    k
                    for k in relation.foreign_keys
                    if (k.target in placed or k.target in found)
                    and len(k.columns) == 1
                    and k.target != table
                ]
                if not keys:
                    continue
                spoken = {
                    c[-1]
                    for p in self.definitions.policies
                    if p.table == table
                    for c in p.effects.columns
                }
                keys.sort(
                    key=lambda k: (
                        k.columns[0] not in spoken,
                        not relation.columns[k.columns[0]].not_null,
                        k.on_delete != "CASCADE",
                        k.target == root,
                    )
                )
                if relation.columns[keys[0].columns[0]].not_null or keys[0].columns[0] in spoken:
                    new[table] = keys[0].columns[0]
            if not new:
                return found
            found |= new

    def _refers(self, table: str, column: str, root: str | None) -> bool:
        key = _alone(self.catalog.tables[table].foreign_key_of(column), column)
        return root is None or key is None or key.target == root

    def _is_user(self, column: str, root: str | None) -> bool:
        words = f"{column} {root or ''}".lower()
        named = any(w in words for w in ("user", "owner", "author", "profile", "created_by"))
        return named and not any(
            w in words for w in ("tenant", "org", "account", "team", "workspace")
        )


def _alone(key: ForeignKey | None, column: str) -> ForeignKey | None:
    return key if key is not None and key.columns == (column,) else None


def _shorter(claim: Parts, claims: frozenset[Parts]) -> bool:
    return any(len(claim) < len(other) and other[: len(claim)] == claim for other in claims)
