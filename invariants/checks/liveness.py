"""liveness: operations come out as the contract says, neither refused nor accepted wrongly."""

from __future__ import annotations

from collections.abc import Iterator

from invariants.checks import guards, held
from invariants.checks.base import (
    Case,
    Condition,
    Evidence,
    Invariant,
    Violation,
    row_matches,
    shown,
)
from invariants.checks.outcome import Disagreement, Prediction, disagreements
from invariants.checks.values import as_text
from invariants.contract.contract import ANYBODY
from invariants.execution.history import Step
from invariants.execution.wire import ServerError
from invariants.workload import sql
from invariants.workload.operations import RUNS_AS_ANOTHER, Select, Truncate, Update

# Why an operation is to be refused, by the rule that the model names.
_DATA_EXCEPTION = "22"
_WHY = {
    "privilege": "the role is not promised it",
    "tenant": "the row is not the actor's tenant's",
    "type": "the value is not of the column's type",
    "not null": "a column that is NOT NULL has no value",
    "domain": "the value is out of the column's domain",
    "pii": "the document has a key that names personal data",
    "key": "the row has no key by which a second delivery is recognised",
    "unique": "another row has the key",
    "reference": "what it refers to is not there for this tenant, or it would not be afterwards",
    "amount": "a posting carries the amount of what it posts",
    "correction of a correction": "a correction names a posting",
    "net below zero": "a posting and its corrections together are not below zero",
    "ownership": "only who owns it may do that",
    "execution": "the function would run as its owner, on rows that are the role's own",
    "sum": "the rows that split an amount do not add up to it",
}


class Liveness(Invariant):
    """The model of the contract predicts every operation; any disagreement is a violation.

    A schema that refuses everything passes every safety check; this one it does not pass.
    """

    name = "liveness"
    promise = (
        "What the contract permits is accepted, with the effect it promises and no other; "
        "what it does not permit is refused."
    )
    examines = "an operation of which the contract says what must come"
    sweeps = (
        "unnamed",
        "inquiries",
        "permitted",
        "sums",
        "ledgers",
        "keys",
        "taxonomies",
        "erasures",
        "refreshes",
        "truncations",
        "shadows",
        "privileges",
        "columns",
    )
    share = 9
    readings_percent = 12
    focus = {"refresh": 13, "probe": 10, "repair": 6}

    def check(self, case: Case) -> Iterator[Violation]:
        """Compare every operation with what the model of the contract predicts."""
        for step in case.history.steps:
            yield from self._held(case, step)
            if step.error is not None and step.error.sqlstate == RUNS_AS_ANOTHER:
                yield self._lent(step)
                continue
            prediction = case.predicted(step)
            if prediction is None:
                continue
            if step.error is not None:
                if prediction.commits and not _computed(prediction, step.error):
                    yield self._refused(case, step)
                elif prediction.rule == "privilege" and self._let_through(case, step, prediction):
                    yield self._granted(step, prediction)
            elif prediction.commits is False:
                yield self._accepted(step, prediction)
            else:
                yield from self._unread(case, step, prediction)
                for amiss in disagreements(prediction, case.catalog, case.contract, step):
                    yield self._otherwise(case, step, amiss)

    def examined(self, case: Case) -> int:
        """Operations with a prediction that can be wrong, or with code that must not be run."""
        predictions = ((step, case.predicted(step)) for step in case.history.steps)
        return sum(
            s.operation.shadows or any(held.answers(s)) or (p is not None and p.commits is not None)
            for s, p in predictions
        )

    def _held(self, case: Case, step: Step) -> Iterator[Violation]:
        """Privileges that a role has and is not promised, or is promised and has not."""
        role = step.operation.actor.role
        for asked, has in held.answers(step):
            if not held.amiss(case.contract, case.catalog, role, asked, has):
                continue
            promised = not has
            kind = "attribute" if asked.target == "attribute" else asked.privilege.lower()
            words = f"{_who(role)} has {held.told(asked)}, which the contract does not promise it"
            if promised:
                words = f"{_who(role)} is promised {held.told(asked)} and has it not"
            yield Violation(
                signature=self.signature(
                    kind, asked.relation, "privilege" if promised else "privilege not enforced"
                ),
                operation=step.index,
                summary=words,
                promise="A role has what the contract promises it, and no other privilege.",
                proof=(
                    Condition(
                        "seen",
                        step.index,
                        f"(SELECT held {'' if has else '= false'} FROM ({sql.spelled(asked)}) q)",
                    ),
                ),
            )

    def _lent(self, step: Step) -> Violation:
        error, actor = step.error, _who(step.operation.actor.role)
        assert error is not None
        guard, owner = guards.looking_up(error), error.message.partition(" ")[0]
        bare = error.relation.rpartition(".")[2]
        return Violation(
            signature=self.signature("shadow", error.relation, guard),
            operation=step.index,
            summary=f"{actor} has code of its own run as {owner}: {guard} takes "
            f"pg_temp.{bare} for {error.relation}",
            promise="Nobody runs code of another role's with rights that this role has not.",
            proof=(Condition("refused", step.index, RUNS_AS_ANOTHER),),
        )

    def _accepted(self, step: Step, prediction: Prediction) -> Violation:
        statement = step.operation.statements[prediction.position]
        actor = _who(step.operation.actor.role)
        return Violation(
            signature=self.signature(
                statement.kind, statement.relation, f"{prediction.rule} not enforced"
            ),
            operation=step.index,
            summary=f"{statement.kind} of {statement.relation} by {actor} is accepted, and the "
            f"contract does not permit it: {_WHY[prediction.rule]}",
            promise="What the contract does not permit is refused.",
            proof=(Condition("accepted", step.index),),
        )

    def _let_through(self, case: Case, step: Step, prediction: Prediction) -> bool:
        """Whether it was something else than the missing privilege that refused.

        Only what is raised while a statement is executed tells: privileges are checked before that,
        but after a statement is planned.
        """
        error = step.error
        assert error is not None
        if len(step.answers) != prediction.position:
            return False
        if error.sqlstate == "42501":
            return "row-level security" in error.message
        if self._by_domain(case, step, prediction.position):
            return False
        if error.sqlstate == "0A000":
            statement = step.operation.statements[prediction.position]
            return isinstance(statement, Truncate) and statement.relation in case.catalog.referrers
        return error.sqlstate == "P0001" or error.sqlstate.startswith("23")

    def _by_domain(self, case: Case, step: Step, position: int) -> bool:
        """Whether a domain may have refused a value, which it does before privileges are asked."""
        statement, error = step.operation.statements[position], step.error
        relation = case.catalog.relations.get(statement.relation)
        named = dict(statement.assign) if isinstance(statement, Update) else {}
        columns = relation.columns if relation is not None else {}
        domain = any(c in columns and columns[c].constrained for c in named)
        return domain and error is not None and not error.relation

    def _granted(self, step: Step, prediction: Prediction) -> Violation:
        """Another guard refused: the role has a privilege that it was never promised."""
        statement = step.operation.statements[prediction.position]
        role, error = step.operation.actor.role, step.error
        assert error is not None
        needed = {"merge": "insert", "copy": "insert"}.get(statement.kind, statement.kind)
        some = "table" if needed in ("delete", "truncate") else "any_column"
        return Violation(
            signature=self.signature(
                statement.kind, statement.relation, f"{prediction.rule} not enforced"
            ),
            operation=step.index,
            summary=f"{_who(role)} has the privilege to {needed} {statement.relation}, which the "
            f"contract does not promise it: what refuses is another guard ({error.sqlstate})",
            promise="What the contract does not permit is refused, and by every layer.",
            proof=(
                Condition("refused", step.index),
                Condition(
                    "state",
                    step.index,
                    f"has_{some}_privilege({sql.quote(role)}, {sql.quote(statement.relation)}, "
                    f"{sql.quote(needed)})",
                ),
            ),
        )

    def _otherwise(self, case: Case, step: Step, amiss: Disagreement) -> Violation:
        columns = case.catalog.tables[amiss.table].primary_key
        values = dict(zip(columns, amiss.key, strict=True))
        wanted = row_matches(amiss.table, {**values, **(amiss.wanted or {})})
        return Violation(
            signature=self.signature(
                step.operation.statements[-1].kind, amiss.table, "another effect"
            ),
            operation=step.index,
            summary=f"{_who(step.operation.actor.role)} is told that it went well, "
            f"but a row of {amiss.table} {amiss.what}",
            promise=self.promise,
            proof=(
                Condition("accepted", step.index),
                Condition("state", step.index, wanted if amiss.wanted is None else f"NOT {wanted}"),
            ),
            evidence=(Evidence("the row", shown(step.after.find(amiss.table, amiss.key))),),
        )

    def _refused(self, case: Case, step: Step) -> Violation:
        error, statement = step.error, step.failed_statement
        assert error is not None
        actor = _who(step.operation.actor.role)
        return Violation(
            signature=self.signature(
                statement.kind, statement.relation, guards.refusing(error, statement, case.catalog)
            ),
            operation=step.index,
            summary=f"{actor} may {statement.kind} {statement.relation} here and is refused: "
            f"{error.message} ({error.sqlstate})",
            promise=self.promise,
            proof=(Condition("refused", step.index),),
        )

    def _unread(self, case: Case, step: Step, prediction: Prediction) -> Iterator[Violation]:
        for position, (table, keys) in prediction.selected.items():
            statement, answer = step.operation.statements[position], step.answers[position]
            assert isinstance(statement, Select)
            columns = case.catalog.tables[table].primary_key
            places = [answer.columns.index(c) for c in columns]
            got = {tuple((row[p] or b"").decode() for p in places) for row in answer.rows}
            kinds = [case.catalog.tables[table].columns[c] for c in columns]
            missing = [
                k
                for k in keys
                if tuple(as_text(c, v) for c, v in zip(kinds, k, strict=True)) not in got
            ]
            if missing:
                key = dict(zip(columns, missing[0], strict=True))
                yield Violation(
                    signature=self.signature(
                        "select", table, guards.isolating(table, case.catalog)
                    ),
                    operation=step.index,
                    summary=f"{step.operation.actor.role} does not see {len(missing)} "
                    f"of its own rows in {sql.name(table)}",
                    promise=self.promise,
                    proof=(Condition("seen", step.index, f"NOT {row_matches(table, key)}"),),
                )


def _computed(prediction: Prediction, error: ServerError) -> bool:
    """Whether a trigger could not make what it fills in of the row, as when a number overflows."""
    filled = prediction.open_columns and error.functions
    return bool(filled) and error.sqlstate.startswith(_DATA_EXCEPTION)


def _who(role: str) -> str:
    return f"anybody ({role}, say)" if role == ANYBODY else role or "the operator"
