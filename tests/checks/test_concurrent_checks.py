"""Every invariant notices what only sessions side by side can break, and what only looks like it.

The schemas are broken the way people break them: a trigger looks for what a constraint would have
known. One after the other the same transactions do no harm, which each test asserts as well.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from invariants.checks import INVARIANTS
from invariants.search.events import Found
from invariants.search.explorer import Explorer, Search
from invariants.search.judge import Judge
from invariants.workload.operations import (
    ISOLATIONS,
    Delete,
    Insert,
    Isolation,
    Operation,
    Select,
    Statement,
    Update,
    Workload,
)
from tests.engine import (
    KEEP_FIRST,
    A,
    B,
    Finding,
    Lab,
    allocation,
    altered,
    at_once,
    correction,
    dead_event,
    erasure,
    event,
    key,
    maintenance,
    of,
    posting,
    reconciliation,
    repair,
    row,
    transaction,
    workload,
)

EVENTS, ALLOCATIONS, LEDGER = "attribution_events", "attribution_allocations", "revenue_ledger"
DEAD, CODES, RUNS = "dead_events", "channel_taxonomy", "reconciliation_runs"
TOGETHER = "sessions together"

FUNCTION = "CREATE FUNCTION {} RETURNS trigger LANGUAGE plpgsql {} AS $$ BEGIN {} END $$;"


def looks(name: str, on: str, body: str, *, definer: bool = True, deferred: bool = False) -> str:
    """A trigger that looks, as its owner unless told not to, and then decides."""
    made = FUNCTION.format(f"{name}()", "SECURITY DEFINER" if definer else "", body)
    kind = "CONSTRAINT TRIGGER" if deferred else "TRIGGER"
    when = " DEFERRABLE INITIALLY DEFERRED" if deferred else ""
    return f"{made} CREATE {kind} {name} {on}{when} FOR EACH ROW EXECUTE FUNCTION {name}()"


def without(constraint: str, table: str) -> str:
    return f"ALTER TABLE {table} DROP CONSTRAINT {constraint};"


def two(
    shown: Workload,
    *operations: Operation,
    schedule: str = "121212",
    level: Isolation = "read committed",
) -> Workload:
    """The workload, then each operation in a session of its own."""
    return at_once(shown, *((transaction(o, level),) for o in operations), schedule=schedule)


def only_together(lab: Lab, invariant: str, shown: Workload, *changes: str) -> dict[str, Finding]:
    """What is found, without the mark; in turn, in whatever order, nothing is. Nor unchanged."""
    found = lab.findings(invariant, shown, *changes)
    assert all(s.endswith(f"/{TOGETHER}") for s in found), set(found)
    with (
        altered(lab.environment, *changes) as environment,
        Judge(environment, lab.contract) as judge,
    ):
        for order in permutations(shown.sessions):
            for in_turn in (
                replace(shown, sessions=order, schedule=()),
                replace(
                    shown,
                    operations=(*shown.operations, *(t.operation for s in order for t in s)),
                    sessions=(),
                    schedule=(),
                ),
            ):
                assert judge.violations(INVARIANTS[invariant], in_turn)[1] == []
    assert lab.findings(invariant, shown) == {}
    return {s.removesuffix(f"/{TOGETHER}"): f for s, f in found.items()}


class TestOnlyTogether:
    @pytest.mark.parametrize("level", ISOLATIONS)
    def test_a_message_delivered_twice_at_once(self, head_lab: Lab, level: Isolation) -> None:
        flaw = "DROP INDEX idx_attribution_events_tenant_external_event_id;" + looks(
            "looks_for_the_key",
            f"BEFORE INSERT ON {EVENTS}",
            f"IF EXISTS (SELECT FROM {EVENTS} WHERE tenant_id = NEW.tenant_id AND "
            "external_event_id = NEW.external_event_id) THEN RETURN NULL; END IF; RETURN NEW;",
            definer=False,
        )
        sent = [event(n, external_event_id="x") for n in (1, 2)]
        shown = two(
            workload(),
            *(of(A, replace(s, conflict=KEEP_FIRST), delivery=1) for s in sent),
            level=level,
        )
        if level == "serializable":
            # What each has looked for the other has made: the server notices.
            assert head_lab.findings("idempotent-ingest", shown, flaw) == {}
            return
        found = only_together(head_lab, "idempotent-ingest", shown, flaw)
        assert set(found) == {f"insert/{EVENTS}/unique (external_event_id)"}
        (finding,) = found.values()
        assert finding.violation.operation == 1
        assert finding.case.history.steps[1].place is not None

    @pytest.mark.parametrize(
        ("schedule", "cause"),
        [
            ("121212", f"delete/{CODES}/no foreign key"),
            ("121221", f"insert/{ALLOCATIONS}/no foreign key"),
        ],
    )
    def test_a_code_that_goes_while_it_is_taken_into_use(
        self, head_lab: Lab, schedule: str, cause: str
    ) -> None:
        flaw = (
            without("fk_attribution_allocations_channel_code", ALLOCATIONS)
            + looks(
                "code_is_there",
                f"BEFORE INSERT OR UPDATE ON {ALLOCATIONS}",
                f"IF NOT EXISTS (SELECT FROM {CODES} WHERE code = NEW.channel_code) THEN "
                "RAISE foreign_key_violation; END IF; RETURN NEW;",
            )
            + ";"
            + looks(
                "code_is_not_used",
                f"BEFORE DELETE OR UPDATE OF code ON {CODES}",
                f"IF EXISTS (SELECT FROM {ALLOCATIONS} WHERE channel_code = OLD.code) THEN "
                "RAISE foreign_key_violation; END IF; RETURN coalesce(NEW, OLD);",
            )
        )
        shown = two(
            workload(of(A, event(1))),
            of(A, allocation(1, channel_code="email")),
            maintenance(Delete(CODES, (("code", "email"),))),
            schedule=schedule,
        )
        assert set(only_together(head_lab, "taxonomy", shown, flaw)) == {cause}

    POSTED = workload(of(A, event(1)), of(A, allocation(1)), of(A, posting(1)))
    UNLOCKED = (
        f"DROP TRIGGER IF EXISTS trg_check_ledger_net_of_correction ON {LEDGER};"
        f"DROP TRIGGER IF EXISTS trg_check_ledger_net_of_repair ON {LEDGER};"
        + looks(
            "net_is_positive",
            f"AFTER INSERT ON {LEDGER}",
            f"IF (SELECT sum(revenue_cents) FROM {LEDGER} WHERE tenant_id = NEW.tenant_id AND "
            "coalesce(corrects_id, id) = coalesce(NEW.corrects_id, NEW.id)) < 0 THEN "
            "RAISE check_violation; END IF; RETURN NULL;",
            deferred=True,
        )
    )

    @pytest.mark.parametrize("level", ["read committed", "repeatable read"])
    def test_two_corrections_each_within_the_posting(self, head_lab: Lab, level: Isolation) -> None:
        corrections = (correction(2, cents=-60), correction(3, cents=-70))
        shown = two(self.POSTED, *(of(A, c) for c in corrections), level=level)
        if level != "read committed":
            # What the sound schema says to this is for its own tests to tell.
            found = head_lab.findings("ledger", shown, self.UNLOCKED)
            assert set(found) == {f"insert/{LEDGER}/net below zero/{TOGETHER}"}
            return
        found = only_together(head_lab, "ledger", shown, self.UNLOCKED)
        assert set(found) == {f"insert/{LEDGER}/net below zero"}
        assert found.popitem()[1].violation.operation == 4

    def test_an_allocation_posted_twice_at_once(self, head_lab: Lab) -> None:
        flaw = "DROP INDEX idx_revenue_ledger_tenant_allocation_id;" + looks(
            "posts_once",
            f"BEFORE INSERT ON {LEDGER}",
            f"IF NEW.corrects_id IS NULL AND EXISTS (SELECT FROM {LEDGER} WHERE tenant_id = "
            "NEW.tenant_id AND allocation_id = NEW.allocation_id AND corrects_id IS NULL) THEN "
            "RAISE unique_violation; END IF; RETURN NEW;",
        )
        shown = two(
            workload(of(A, event(1)), of(A, allocation(1))), of(A, posting(1)), of(A, posting(2))
        )
        found = only_together(head_lab, "ledger", shown, flaw)
        assert set(found) == {f"insert/{LEDGER}/allocation_id posted once"}

    UNLOCKED_SUMS = (
        f"DROP TRIGGER IF EXISTS trg_check_allocation_sum ON {ALLOCATIONS};"
        f"DROP TRIGGER IF EXISTS trg_check_event_revenue ON {EVENTS};"
        + looks(
            "adds_up",
            f"AFTER INSERT OR UPDATE ON {ALLOCATIONS}",
            f"IF abs((SELECT sum(allocated_revenue_cents) FROM {ALLOCATIONS} WHERE "
            "event_id = NEW.event_id AND model_version = NEW.model_version) - "
            f"(SELECT revenue_cents FROM {EVENTS} WHERE id = NEW.event_id)) > 1 THEN "
            "RAISE check_violation; END IF; RETURN NULL;",
            deferred=True,
        )
        + ";"
        + looks(
            "still_adds_up",
            f"AFTER UPDATE ON {EVENTS}",
            f"IF abs((SELECT sum(allocated_revenue_cents) FROM {ALLOCATIONS} WHERE "
            "event_id = NEW.id) - NEW.revenue_cents) > 1 THEN "
            "RAISE check_violation; END IF; RETURN NULL;",
            deferred=True,
        )
    )

    def test_an_event_split_twice_at_once(self, head_lab: Lab) -> None:
        shown = two(
            workload(of(A, event(1))),
            of(A, allocation(1)),
            of(A, allocation(2, channel_code="email")),
        )
        found = only_together(head_lab, "allocation-sum", shown, self.UNLOCKED_SUMS)
        assert set(found) == {f"insert/{ALLOCATIONS}/adds_up"}

    def test_an_event_repaired_while_it_is_split(self, head_lab: Lab) -> None:
        shown = two(
            workload(of(A, event(1))),
            of(A, allocation(1)),
            repair(Update(EVENTS, (("revenue_cents", 50),), key(EVENTS, 1))),
        )
        found = only_together(head_lab, "allocation-sum", shown, self.UNLOCKED_SUMS)
        (cause,) = found
        assert cause.startswith(f"update/{EVENTS}/still_adds_up")

    @pytest.mark.parametrize("schedule", ["121212", "121221"])
    def test_a_row_that_comes_while_its_tenant_is_erased(
        self, head_lab: Lab, schedule: str
    ) -> None:
        flaw = (
            without("dead_events_tenant_id_fkey", DEAD)
            + looks(
                "tenant_is_there",
                f"BEFORE INSERT ON {DEAD}",
                "IF NOT EXISTS (SELECT FROM tenants WHERE id = NEW.tenant_id) THEN "
                "RAISE foreign_key_violation; END IF; RETURN NEW;",
            )
            + ";"
            + looks(
                "rows_go_as_well",
                "AFTER DELETE ON tenants",
                f"DELETE FROM {DEAD} WHERE tenant_id = OLD.id; RETURN NULL;",
            )
        )
        shown = two(
            workload(of(A, dead_event(1))), of(A, dead_event(2)), erasure(), schedule=schedule
        )
        found = only_together(head_lab, "cross-tenant", shown, flaw)
        assert set(found) == {f"reference/{DEAD}/no foreign key"}
        assert [r["id"] for r in found.popitem()[1].rows] == [dict(key(DEAD, 2))["id"]]

    @pytest.mark.parametrize("how", ["update", "delete"])
    def test_a_repair_that_is_passed_over_while_another_is_under_way(
        self, head_lab: Lab, how: str
    ) -> None:
        flaw = looks(
            "one_repair_at_a_time",
            f"BEFORE UPDATE OR DELETE ON {EVENTS}",
            "IF NOT pg_try_advisory_xact_lock(1) THEN RETURN NULL; END IF; "
            "RETURN coalesce(NEW, OLD);",
        )
        statements: list[Statement] = [
            Update(EVENTS, (("revenue_cents", 7),), key(EVENTS, n))
            if how == "update"
            else Delete(EVENTS, key(EVENTS, n))
            for n in (1, 2)
        ]
        shown = two(workload(of(A, event(1), event(2))), *map(repair, statements))
        found = only_together(head_lab, "append-only", shown, flaw)
        (cause,) = found
        assert cause.startswith(f"{how}/{EVENTS}/one_repair_at_a_time,")

    def test_a_row_that_whoever_comes_second_clears_away(self, head_lab: Lab) -> None:
        """It looks, waits for its turn, and clears away what it takes for a failed attempt."""
        same = f"FROM {EVENTS} WHERE external_event_id = NEW.external_event_id"
        flaw = (
            looks(
                "one_delivery_at_a_time",
                f"BEFORE INSERT ON {EVENTS}",
                f"IF EXISTS (SELECT {same}) THEN RETURN NULL; END IF; "
                f"PERFORM pg_advisory_xact_lock(1); DELETE {same}; RETURN NEW;",
            )
            + "; ALTER FUNCTION one_delivery_at_a_time() OWNER TO migration_owner"
        )
        sent = [replace(event(n, external_event_id="x"), conflict=KEEP_FIRST) for n in (1, 2)]
        shown = two(workload(), *(of(A, s) for s in sent), schedule="1211222")
        found = only_together(head_lab, "append-only", shown, flaw)
        assert {s.split("/")[:2] == ["delete", EVENTS] for s in found} == {True}
        assert len(found) == 1


class TestEndless:
    ALWAYS = looks("never", f"BEFORE INSERT ON {DEAD}", "RAISE serialization_failure;")
    shown = two(workload(), of(A, dead_event(1)), of(A, reconciliation(1)), schedule="12")

    @pytest.mark.parametrize("invariant", [i.name for i in INVARIANTS.values() if i.concurrent])
    def test_whoever_is_told_to_send_it_again_for_ever(self, lab: Lab, invariant: str) -> None:
        found = lab.findings(invariant, self.shown, self.ALWAYS)
        assert set(found) == {f"endless/{DEAD}/never/{TOGETHER}"}
        (finding,) = found.values()
        step = finding.case.history.steps[finding.violation.operation]
        assert step.place is not None
        assert step.place.again

    def test_once_is_an_answer_like_others(self, lab: Lab) -> None:
        """The first time it is told to, the second time it comes through."""
        once = "CREATE SEQUENCE times; GRANT USAGE ON times TO app_rw;" + looks(
            "once",
            f"BEFORE INSERT ON {DEAD}",
            "IF nextval('times') = 1 THEN RAISE serialization_failure; END IF; RETURN NEW;",
        )
        assert lab.findings("append-only", self.shown, once) == {}

    def test_another_error_is_no_request_to_send_it_again(self, lab: Lab) -> None:
        flaw = looks("refuses", f"BEFORE INSERT ON {DEAD}", "RAISE check_violation;")
        assert lab.findings("append-only", self.shown, flaw) == {}


def all_held(judge: Judge, invariant: str, shown: Workload) -> list[str]:
    """What came of the transactions of the sessions; the check finds nothing in them."""
    case, violations = judge.violations(INVARIANTS[invariant], shown)
    assert [str(v.signature) for v in violations] == []
    return [
        s.error.sqlstate if s.error else "ok" if s.committed else "rolled back"
        for s in case.history.steps
        if s.place is not None
    ]


class TestNoViolation:
    @pytest.mark.parametrize(
        ("level", "came"),
        [
            ("read committed", ["ok", "ok"]),
            ("repeatable read", ["ok", "40001", "ok"]),
            ("serializable", ["ok", "40001", "ok"]),
        ],
    )
    def test_a_redelivery_that_has_to_be_sent_again(
        self, head_judge: Judge, level: Isolation, came: list[str]
    ) -> None:
        sent = [replace(event(n, external_event_id="x"), conflict=KEEP_FIRST) for n in (1, 2)]
        shown = two(workload(), *(of(A, s, delivery=1) for s in sent), level=level)
        assert all_held(head_judge, "idempotent-ingest", shown) == came

    def test_a_redelivery_in_a_deadlock(self, head_judge: Judge) -> None:
        def sent(number: int, name: str) -> Insert:
            return replace(event(number, external_event_id=name), conflict=KEEP_FIRST)

        shown = two(
            workload(),
            of(A, sent(1, "x"), sent(2, "y"), delivery=1),
            of(A, sent(3, "y"), sent(4, "x"), delivery=1),
            schedule="12121111",
        )
        assert all_held(head_judge, "idempotent-ingest", shown) == ["40P01", "ok", "ok"]

    def test_a_redelivery_whose_row_goes_before_it_commits(self, head_judge: Judge) -> None:
        """It looked and the row was there; whoever removed it since did so rightly."""
        again = replace(allocation(1), conflict=KEEP_FIRST)
        shown = two(
            workload(of(A, event(1)), of(A, again, delivery=1)),
            of(A, again, delivery=1),
            of(A, Delete(ALLOCATIONS, key(ALLOCATIONS, 1))),
            schedule="122211",
        )
        assert all_held(head_judge, "idempotent-ingest", shown) == ["ok", "ok"]

    def test_a_delivery_whose_row_another_delivery_has_made(self, head_judge: Judge) -> None:
        """The first delivery is taken back, the second waits for that and makes the row."""
        sent = [replace(event(n, external_event_id="x"), conflict=KEEP_FIRST) for n in (1, 2)]
        one, other = (of(A, s, delivery=1) for s in sent)
        shown = at_once(
            workload(),
            (transaction(one, commits=False),),
            (transaction(other),),
            (transaction(one),),
            schedule="1211222333",
        )
        assert all_held(head_judge, "idempotent-ingest", shown) == ["rolled back", "ok", "ok"]

    @pytest.mark.parametrize("second", ["update", "delete"])
    @pytest.mark.parametrize("first", ["update", "delete"])
    @pytest.mark.parametrize("level", ISOLATIONS)
    def test_repairs_of_a_row_that_is_repaired_meanwhile(
        self, head_judge: Judge, level: Isolation, first: str, second: str
    ) -> None:
        def how(kind: str, cents: int) -> Operation:
            if kind == "delete":
                return repair(Delete(EVENTS, key(EVENTS, 1)))
            return repair(Update(EVENTS, (("revenue_cents", cents),), key(EVENTS, 1)))

        shown = two(workload(of(A, event(1))), how(first, 1), how(second, 2), level=level)
        came = all_held(head_judge, "append-only", shown)
        assert came == (["ok", "ok"] if level == "read committed" else ["ok", "40001", "ok"])

    def test_a_repair_of_a_row_that_is_erased_meanwhile(self, head_judge: Judge) -> None:
        change = repair(Update(EVENTS, (("revenue_cents", 1),), key(EVENTS, 1)))
        shown = two(workload(of(A, event(1))), erasure(), change)
        assert all_held(head_judge, "append-only", shown) == ["ok", "ok"]

    @pytest.mark.parametrize("level", ISOLATIONS)
    @pytest.mark.parametrize("how", ["update", "delete"])
    def test_a_repair_of_a_row_that_comes_meanwhile(
        self, head_judge: Judge, how: str, level: Isolation
    ) -> None:
        change: Statement = (
            Delete(EVENTS, key(EVENTS, 1))
            if how == "delete"
            else Update(EVENTS, (("revenue_cents", 1),), key(EVENTS, 1))
        )
        shown = two(workload(), repair(change), of(A, event(1)), schedule="1222111", level=level)
        assert all_held(head_judge, "append-only", shown) == ["ok", "ok"]

    ROLLED_BACK: dict[str, tuple[Statement, ...]] = {
        "append-only": (Update(EVENTS, (("revenue_cents", 7),), key(EVENTS, 1)),),
        "ledger": (posting(2), row(LEDGER, 3, A, allocation_id=None, revenue_cents=-1)),
        "allocation-sum": (allocation(2, channel_code="email"),),
        "taxonomy": (Update(CODES, (("code", "gone"),), (("code", "direct"),)),),
        "idempotent-ingest": (event(2, external_event_id="order-1"),),
        "cross-tenant": (dead_event(1, B),),
    }

    @pytest.mark.parametrize("invariant", ROLLED_BACK)
    def test_what_is_rolled_back_has_not_happened(self, lab: Lab, invariant: str) -> None:
        """Nothing stops it but its own ROLLBACK; committed it is a violation."""
        unguarded = ";".join(
            (
                f"GRANT ALL ON {EVENTS}, {LEDGER}, {CODES}, {ALLOCATIONS}, {DEAD} TO app_rw",
                f"DROP TRIGGER trg_events_prevent_mutation ON {EVENTS}",
                f"DROP TRIGGER trg_check_allocation_sum ON {ALLOCATIONS}",
                f"DROP INDEX idx_{LEDGER}_tenant_allocation_id",
                f"DROP INDEX idx_{ALLOCATIONS}_tenant_event_model_channel",
                f"DROP INDEX idx_{EVENTS}_tenant_external_event_id",
                f"ALTER TABLE {ALLOCATIONS} DROP CONSTRAINT"
                " fk_attribution_allocations_channel_code",
                f"ALTER TABLE {LEDGER} DROP CONSTRAINT revenue_ledger_revenue_cents_check,"
                " ALTER allocation_id DROP NOT NULL",
                f"ALTER TABLE {DEAD} DISABLE ROW LEVEL SECURITY",
            )
        )
        before = workload(of(A, event(1)), of(A, allocation(1)), of(A, posting(1)))
        wrong = of(A, *self.ROLLED_BACK[invariant])
        other = (transaction(of(A, reconciliation(1))),)
        with (
            altered(lab.environment, unguarded) as environment,
            Judge(environment, lab.contract) as judge,
        ):
            rolled_back = at_once(
                before, (transaction(wrong, commits=False),), other, schedule="12"
            )
            assert sorted(all_held(judge, invariant, rolled_back)) == ["ok", "rolled back"]
            committed = at_once(before, (transaction(wrong),), other, schedule="12")
            found = judge.violations(INVARIANTS[invariant], committed)[1]
            # It takes no sessions, and is not said to.
            assert found
            assert {v.signature.together for v in found} == {False}


class TestWhetherItTakesSessions:
    READABLE = f"ALTER TABLE {DEAD} DISABLE ROW LEVEL SECURITY"

    def test_what_takes_none_has_the_plain_signature(self, lab: Lab) -> None:
        shown = two(
            workload(of(B, dead_event(1, B))),
            of(A, Select(DEAD)),
            of(A, dead_event(2)),
            schedule="12",
        )
        found = lab.findings("cross-tenant", shown, self.READABLE)
        assert set(found) == {f"select/{DEAD}/row security disabled"}

    def search(self, lab: Lab, invariant: str, *changes: str, sessions: int) -> dict[str, Workload]:
        """The first that the search finds by its duets, by signature."""
        found: list[Found] = []
        with altered(lab.environment, *changes) as environment:
            explorer = Explorer(
                environment,
                lab.contract,
                lambda e: found.append(e) if isinstance(e, Found) else None,
            )
            try:
                finished = explorer.explore(
                    INVARIANTS[invariant],
                    Search(seed=1, examples=1, first=True, sessions=sessions, stages=("duets",)),
                )
            finally:
                explorer.close()
        assert finished.flaky == ()
        assert list(finished.found) == found
        return {
            f.counterexample.signature.removeprefix(f"{invariant}/"): f.counterexample.workload
            for f in found
        }

    def test_the_search_tells_it_without_sessions(self, head_lab: Lab) -> None:
        flaw = (
            f"DROP TRIGGER IF EXISTS trg_check_allocation_sum ON {ALLOCATIONS};"
            f"DROP TRIGGER IF EXISTS trg_check_event_revenue ON {EVENTS}"
        )
        found = self.search(head_lab, "allocation-sum", flaw, sessions=2)
        (shown,) = found.values()
        assert set(found) == {f"insert/{ALLOCATIONS}/no trigger"}
        assert (shown.sessions, shown.schedule) == ((), ())

    def test_the_search_tells_it_with_two_sessions(self, head_lab: Lab) -> None:
        flaw = TestOnlyTogether.UNLOCKED_SUMS
        found = self.search(head_lab, "allocation-sum", flaw, sessions=2)
        (shown,) = found.values()
        assert set(found) == {f"insert/{ALLOCATIONS}/adds_up/{TOGETHER}"}
        assert [len(s) for s in shown.sessions] == [1, 1]
        for (only,) in shown.sessions:
            assert only.isolation == "read committed"
            assert only.commits
            (statement,) = only.operation.statements
            assert isinstance(statement, Insert)
            assert (statement.relation, len(statement.rows)) == (ALLOCATIONS, 1)

    def test_without_sessions_none_are_tried(self, head_lab: Lab) -> None:
        flaw = TestOnlyTogether.UNLOCKED_SUMS
        assert self.search(head_lab, "allocation-sum", flaw, sessions=0) == {}
