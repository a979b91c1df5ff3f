"""What definitions lead to: which relations, settings and routines a deed really reaches.

From one definition it goes on to what that calls, to the views it reads, to policies, defaults and
CHECKs of the tables it touches, and to triggers, rules and foreign keys that its writes set off.
Where a name can mean several things all of them count: the reach is never too small, except of
what is opaque, which is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from invariants.schema.catalog import Catalog
from invariants.schema.definitions import Definitions, RoutineText
from invariants.schema.effects import Effects, Parts, Setting

_VERBS_OF_MERGE = ("insert", "update", "delete")


@dataclass(frozen=True)
class Reached:
    """Relations read and written (with the verb), routines called by signature, settings asked for.

    `opaque` when something on the way may do what is not seen here.
    """

    reads: frozenset[str] = frozenset()
    writes: frozenset[tuple[str, str]] = frozenset()
    routines: frozenset[str] = frozenset()
    settings: frozenset[Setting] = frozenset()
    sets: frozenset[str] = frozenset()
    identities: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    utilities: frozenset[str] = frozenset()
    literals: frozenset[str] = frozenset()
    opaque: bool = False

    @property
    def written(self) -> frozenset[str]:
        """The relations written, whatever the verb."""
        return frozenset(relation for relation, _ in self.writes)


@dataclass
class _Pending:
    """Deeds not looked at yet, and what those before them came to."""

    effects: list[Effects] = field(default_factory=list)
    reads: set[str] = field(default_factory=set)
    writes: set[tuple[str, str]] = field(default_factory=set)
    routines: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Reach:
    """Answers for one catalog and its definitions."""

    catalog: Catalog
    definitions: Definitions

    def of_write(self, relation: str, verb: str) -> Reached:
        """What a write by any client leads to, itself included."""
        return self._closed(writes=[(relation, verb)])

    def of_read(self, relation: str) -> Reached:
        """What a read by any client leads to, itself included."""
        return self._closed(reads=[relation])

    def of_call(self, signature: str) -> Reached:
        """What a call of a routine leads to."""
        return self._closed(routines=[signature])

    def of_effects(self, effects: Effects) -> Reached:
        """What the effects of any definition lead to."""
        return self._closed(effects=[effects])

    @cached_property
    def everything(self) -> Reached:
        """What all definitions together reach: every setting that any of them asks for."""
        d = self.definitions
        return self._closed(
            effects=[
                *(p.effects for p in d.policies),
                *(e.effects for e in d.expressions),
                *(v.effects for v in d.views),
                *(r.effects for r in d.rules),
            ],
            routines=[r.signature for r in d.routines],
        )

    def _closed(
        self,
        effects: Iterable[Effects] = (),
        reads: Iterable[str] = (),
        writes: Iterable[tuple[str, str]] = (),
        routines: Iterable[str] = (),
    ) -> Reached:
        todo = _Pending([*effects])
        seen: set[Effects] = set()
        for relation in reads:
            self._read(todo, relation)
        for relation, verb in writes:
            self._write(todo, relation, verb)
        for signature in routines:
            self._call(todo, signature)
        while todo.effects:
            one = todo.effects.pop()
            if one in seen:
                continue
            seen.add(one)
            for name in one.reads:
                for relation in self._relations(name):
                    self._read(todo, relation)
            for name, verb in one.writes:
                for relation in self._relations(name):
                    for each in _VERBS_OF_MERGE if verb == "merge" else (verb,):
                        self._write(todo, relation, each)
            for name in one.calls:
                for routine in self._routines(name):
                    self._call(todo, routine.signature)
        joined = Effects.of(seen)
        return Reached(
            frozenset(todo.reads),
            frozenset(todo.writes),
            frozenset(todo.routines),
            joined.settings,
            joined.sets,
            joined.identities,
            joined.channels,
            joined.utilities,
            joined.literals,
            joined.opaque,
        )

    def _read(self, todo: _Pending, relation: str) -> None:
        if relation in todo.reads:
            return
        todo.reads.add(relation)
        todo.effects += [v.effects for v in self.definitions.views if v.name == relation]
        todo.effects += [
            p.effects
            for p in self.definitions.policies
            if p.table == relation and "select" in p.verbs
        ]

    def _write(self, todo: _Pending, relation: str, verb: str) -> None:
        if (relation, verb) in todo.writes:
            return
        todo.writes.add((relation, verb))
        d = self.definitions
        todo.effects += [p.effects for p in d.policies if p.table == relation]
        todo.effects += [
            e.effects
            for e in d.expressions
            if e.table == relation and (verb == "insert" or e.kind != "default")
        ]
        todo.effects += [r.effects for r in d.rules if r.table == relation and r.event == verb]
        for trigger in d.triggers:
            if trigger.table == relation and verb in trigger.events and trigger.enabled:
                self._call(todo, trigger.routine)
        # Through a view that can be written, the tables below it.
        for view in d.views:
            if view.name == relation:
                for name in view.effects.reads:
                    for below in self._relations(name):
                        self._write(todo, below, verb)
        if verb in ("delete", "update", "truncate"):
            for key in self.catalog.referrers.get(relation, ()):
                action = key.on_delete if verb == "delete" else key.on_update
                if verb == "truncate":
                    self._write(todo, key.table, "truncate")
                elif action == "CASCADE":
                    self._write(todo, key.table, verb)
                elif action.startswith("SET"):
                    self._write(todo, key.table, "update")

    def _call(self, todo: _Pending, signature: str) -> None:
        if signature in todo.routines:
            return
        routine = self.definitions.routine.get(signature)
        if routine is None:
            return
        todo.routines.add(signature)
        todo.effects.append(routine.effects)

    def _relations(self, name: Parts) -> Iterator[str]:
        """The relations that a name can mean."""
        if len(name) > 1:
            wanted = name[1] if name[0] == "public" else ".".join(name)
            if wanted in self.catalog.relations:
                yield wanted
            return
        for relation in self.catalog.relations:
            if relation == name[0] or relation.endswith("." + name[0]):
                yield relation

    def _routines(self, name: Parts) -> Iterator[RoutineText]:
        """The routines that a name can mean, whatever their arguments."""
        for routine in self.definitions.routines:
            if routine.name == name[-1] and (len(name) == 1 or routine.schema == name[-2]):
                yield routine
