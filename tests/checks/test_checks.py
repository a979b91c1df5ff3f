"""Every invariant notices a schema that breaks it, for the right reason, and is silent otherwise.

Each test runs one handwritten workload on two schemas that differ in the one thing that matters.
`tells_apart` asserts the silence on the sound schema, and that psql says the same about both.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from invariants.checks.append_only import AppendOnly
from invariants.contract.contract import Contract
from invariants.contract.premises import GRANTED, UNTRIGGERED
from invariants.workload.operations import (
    Call,
    Conflict,
    Copy,
    Delete,
    Insert,
    Json,
    Merge,
    Operation,
    Refresh,
    Select,
    Statement,
    Truncate,
    Update,
    Value,
    Workload,
)
from tests.engine import (
    KEEP_FIRST,
    UNKNOWN,
    A,
    B,
    Lab,
    allocation,
    allocation_id,
    dead_event,
    event,
    event_id,
    key,
    maintenance,
    of,
    posting,
    row,
    workload,
)

COMPOSITE_KEYS = """
    ALTER TABLE attribution_events ADD UNIQUE (tenant_id, id);
    ALTER TABLE attribution_allocations ADD UNIQUE (tenant_id, id),
        DROP CONSTRAINT attribution_allocations_event_id_fkey,
        ADD FOREIGN KEY (tenant_id, event_id) REFERENCES attribution_events (tenant_id, id)
            ON DELETE CASCADE;
    ALTER TABLE revenue_ledger
        DROP CONSTRAINT revenue_ledger_allocation_id_fkey,
        ADD FOREIGN KEY (tenant_id, allocation_id)
            REFERENCES attribution_allocations (tenant_id, id) ON DELETE CASCADE;
"""
UNGUARDED_EVENTS = """
    GRANT UPDATE, DELETE ON attribution_events TO app_rw;
    DROP TRIGGER trg_events_prevent_mutation ON attribution_events;
"""
UNCHECKED_SUMS = "DROP TRIGGER trg_check_allocation_sum ON attribution_allocations"
# Judges both groups a row counts into, when the transaction ends.
DEFERRED_SUMS = """
    DROP TRIGGER trg_check_allocation_sum ON attribution_allocations;
    CREATE FUNCTION balanced(event uuid, model text) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        missing bigint;
    BEGIN
        SELECT e.revenue_cents - sum(a.allocated_revenue_cents) INTO missing
        FROM attribution_allocations a JOIN attribution_events e ON e.id = a.event_id
        WHERE a.event_id = event AND a.model_version = model GROUP BY e.revenue_cents;
        IF abs(missing) > 1 THEN
            RAISE EXCEPTION 'unbalanced by %', missing;
        END IF;
    END $$;
    CREATE FUNCTION balanced_after() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP <> 'INSERT' THEN
            PERFORM balanced(OLD.event_id, OLD.model_version);
        END IF;
        IF TG_OP <> 'DELETE' THEN
            PERFORM balanced(NEW.event_id, NEW.model_version);
        END IF;
        RETURN NULL;
    END $$;
    CREATE CONSTRAINT TRIGGER trg_balanced AFTER INSERT OR UPDATE OR DELETE
        ON attribution_allocations DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION balanced_after();
"""


def policy(table: str, using: str = "true", check: str = "true") -> str:
    return f"ALTER POLICY tenant_isolation_policy ON {table} USING ({using}) WITH CHECK ({check})"


OWN = "tenant_id = current_setting('app.current_tenant_id')::uuid"


class TestCrossTenant:
    name = "cross-tenant"

    @pytest.mark.parametrize(
        ("flaw", "guard"),
        [
            ("ALTER TABLE dead_events DISABLE ROW LEVEL SECURITY", "row security disabled"),
            (policy("dead_events", "true", OWN), "tenant_isolation_policy"),
            (
                "CREATE POLICY everybody ON dead_events FOR SELECT USING (true)",
                "everybody,tenant_isolation_policy",
            ),
            ("DROP POLICY tenant_isolation_policy ON dead_events;"
             "ALTER TABLE dead_events NO FORCE ROW LEVEL SECURITY, OWNER TO app_rw", "no policy"),
            ("ALTER ROLE app_rw BYPASSRLS", "tenant_isolation_policy"),
            ("GRANT pg_read_all_data TO app_rw; ALTER ROLE app_rw SUPERUSER",
             "tenant_isolation_policy"),
        ],
    )  # fmt: skip
    def test_reading_another_tenants_rows(self, lab: Lab, flaw: str, guard: str) -> None:
        shown = workload(of(B, dead_event(1, B)), of(A, Select("dead_events")))
        found = lab.tells_apart(self.name, shown, broken=flaw)
        assert set(found) == {f"select/dead_events/{guard}"}
        (finding,) = found.values()
        assert finding.violation.operation == 1
        assert finding.rows[0]["tenant_id"] == B

    def test_what_a_role_was_given_is_gone_in_the_next_environment(self, lab: Lab) -> None:
        shown = workload(of(B, dead_event(1, B)), of(A, Select("dead_events")))
        assert lab.findings(self.name, shown, "ALTER ROLE app_rw BYPASSRLS") != {}
        assert lab.findings(self.name, shown) == {}

    def test_reading_the_list_of_tenants(self, lab: Lab) -> None:
        shown = workload(of(A, Select("tenants")))
        found = lab.tells_apart(self.name, shown, broken="GRANT SELECT ON tenants TO app_rw")
        assert set(found) == {"select/tenants/row security disabled"}

    def test_a_function_with_its_owners_rights(self, lab: Lab) -> None:
        create = (
            "CREATE FUNCTION letters() RETURNS SETOF dead_events LANGUAGE sql {}"
            " AS 'SELECT * FROM dead_events'"
        )
        found = lab.tells_apart(
            self.name,
            workload(of(B, dead_event(1, B)), of(A, Call("letters"))),
            broken=create.format("SECURITY DEFINER"),
            mended=create.format("SECURITY INVOKER"),
        )
        assert set(found) == {"call/letters/function"}

    def test_a_function_that_only_counts(self, lab: Lab) -> None:
        create = (
            "CREATE FUNCTION letters() RETURNS bigint LANGUAGE sql {}"
            " AS 'SELECT count(*) FROM dead_events'"
        )
        found = lab.tells_apart(
            self.name,
            workload(of(B, dead_event(1, B)), of(A, dead_event(2)), of(A, Call("letters"))),
            broken=create.format("SECURITY DEFINER"),
            mended=create.format("SECURITY INVOKER"),
        )
        assert set(found) == {"call/letters/function"}

    def test_a_view_with_its_owners_rights(self, lab: Lab) -> None:
        create = (
            "CREATE VIEW letters {} AS SELECT * FROM dead_events; GRANT SELECT ON letters TO app_rw"
        )
        found = lab.tells_apart(
            self.name,
            workload(of(B, dead_event(1, B)), of(A, Select("letters"))),
            broken=create.format(""),
            mended=create.format("WITH (security_invoker)"),
        )
        assert set(found) == {"select/letters/view without tenant filter"}

    def test_a_view_that_only_counts(self, lab: Lab) -> None:
        create = (
            "CREATE VIEW letters {} AS SELECT count(*) FROM dead_events;"
            "GRANT SELECT ON letters TO app_rw"
        )
        found = lab.tells_apart(
            self.name,
            workload(of(B, dead_event(1, B)), of(A, dead_event(2)), of(A, Select("letters"))),
            broken=create.format(""),
            mended=create.format("WITH (security_invoker)"),
        )
        assert set(found) == {"select/letters/view without tenant filter"}

    def test_a_materialized_view(self, lab: Lab) -> None:
        run = row("reconciliation_runs", 1, B, last_run_at="2024-03-01 00:00:00+00")
        view = "mv_reconciliation_status"
        found = lab.tells_apart(
            self.name,
            workload(of(B, run), maintenance(Refresh(view)), of(A, Select(view))),
            mended=f"REVOKE SELECT ON {view} FROM app_rw",
        )
        assert set(found) == {f"select/{view}/matview without tenant filter"}

    def test_creating_a_row_for_another_tenant(self, lab: Lab) -> None:
        shown = workload(of(A, dead_event(1, B)))
        found = lab.tells_apart(self.name, shown, broken=policy("dead_events", OWN))
        assert set(found) == {"insert/dead_events/tenant_isolation_policy"}
        assert found.popitem()[1].rows[0]["tenant_id"] == B

    def test_giving_a_row_to_another_tenant(self, lab: Lab) -> None:
        give = Update("dead_events", (("tenant_id", B),), key("dead_events", 1))
        found = lab.tells_apart(
            self.name,
            workload(of(A, dead_event(1)), of(A, give)),
            broken="ALTER TABLE dead_events DISABLE ROW LEVEL SECURITY",
        )
        assert set(found) == {"update/dead_events/row security disabled"}
        assert [r["tenant_id"] for r in found.popitem()[1].rows] == [A, B]

    def test_copying_rows_in_for_another_tenant(self, lab: Lab) -> None:
        made = dead_event(1, B)
        odd = '-it\'s "$1" `a` \\ %s \t\nÜ'
        values = tuple(odd if v == "shopify" else v for v in made.rows[0])
        found = lab.tells_apart(
            self.name,
            workload(of(A, Copy(made.relation, made.columns, (values,)))),
            broken="ALTER TABLE dead_events DISABLE ROW LEVEL SECURITY",
        )
        assert set(found) == {"insert/dead_events/row security disabled"}
        assert found.popitem()[1].rows[0]["source"] == odd

    def test_removing_another_tenants_row(self, lab: Lab) -> None:
        shown = workload(of(B, dead_event(1, B)), of(A, Delete("dead_events")))
        found = lab.tells_apart(self.name, shown, broken=policy("dead_events", "true", OWN))
        assert set(found) == {"delete/dead_events/tenant_isolation_policy"}

    def test_removing_another_tenants_row_by_way_of_a_cascade(self, lab: Lab) -> None:
        unguarded = "DROP TRIGGER trg_ledger_prevent_mutation ON revenue_ledger;" + UNCHECKED_SUMS
        found = lab.tells_apart(
            self.name,
            workload(
                of(A, event(1)),
                of(A, allocation(1)),
                of(B, posting(1, B)),
                of(A, Delete("attribution_allocations")),
            ),
            broken=unguarded,
            mended=f"{unguarded};{COMPOSITE_KEYS}",
        )
        fkey = "revenue_ledger/revenue_ledger_allocation_id_fkey"
        assert set(found) == {f"reference/{fkey}", f"delete/{fkey}"}
        assert found[f"delete/{fkey}"].rows[0]["tenant_id"] == B

    def test_a_reference_to_another_tenants_event(self, lab: Lab) -> None:
        shown = workload(of(B, event(1, B)), of(A, allocation(1)))
        found = lab.tells_apart(self.name, shown, mended=COMPOSITE_KEYS)
        assert set(found) == {
            "reference/attribution_allocations/attribution_allocations_event_id_fkey"
        }
        assert [r["tenant_id"] for r in found.popitem()[1].rows] == [A, B]

    def test_a_reference_that_becomes_another_tenants(self, lab: Lab) -> None:
        move = Update(
            "attribution_allocations",
            (("event_id", event_id(2)),),
            key("attribution_allocations", 1),
        )
        found = lab.tells_apart(
            self.name,
            workload(of(A, event(1)), of(B, event(2, B)), of(A, allocation(1)), of(A, move)),
            mended=COMPOSITE_KEYS,
        )
        assert set(found) == {
            "reference/attribution_allocations/attribution_allocations_event_id_fkey"
        }

    def test_a_posting_of_another_tenants_allocation(self, lab: Lab) -> None:
        shown = workload(of(B, event(1, B)), of(B, allocation(1, B)), of(A, posting(1)))
        found = lab.tells_apart(self.name, shown, mended=COMPOSITE_KEYS)
        assert set(found) == {"reference/revenue_ledger/revenue_ledger_allocation_id_fkey"}

    @pytest.mark.parametrize("setting", [None, "", "not-a-uuid", UNKNOWN])
    def test_without_a_tenant_nothing_is_seen(self, lab: Lab, setting: str | None) -> None:
        shown = workload(of(B, dead_event(1, B)), of(setting, Select("dead_events")))
        found = lab.tells_apart(self.name, shown, broken=policy("dead_events"))
        assert set(found) == {"select/dead_events/tenant_isolation_policy"}

    @pytest.mark.parametrize("setting", [None, "", "not-a-uuid", UNKNOWN])
    def test_without_a_tenant_nothing_is_written(self, lab: Lab, setting: str | None) -> None:
        found = lab.tells_apart(
            self.name,
            workload(of(setting, dead_event(1)), of(setting, Delete("dead_events"))),
            broken=policy("dead_events"),
        )
        guard = "dead_events/tenant_isolation_policy"
        assert set(found) == {f"insert/{guard}", f"delete/{guard}"}

    def test_a_policy_that_opens_without_a_setting(self, lab: Lab) -> None:
        setting = "nullif(current_setting('app.current_tenant_id', true), '')"
        found = lab.tells_apart(
            self.name,
            workload(of(B, dead_event(1, B)), of(A, Select("dead_events")),
                     of(None, Select("dead_events"))),
            broken=policy("dead_events", f"{setting} IS NULL OR tenant_id = {setting}::uuid", OWN),
            mended=policy("dead_events", f"tenant_id = {setting}::uuid", OWN),
        )  # fmt: skip
        assert [f.violation.operation for f in found.values()] == [2]

    def test_a_key_that_is_unique_over_all_tenants(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            workload(of(B, event(1, B, external_event_id="x")),
                     of(A, event(2, A, external_event_id="x"))),
            broken="CREATE UNIQUE INDEX one_order ON attribution_events (external_event_id)",
        )  # fmt: skip
        assert set(found) == {"insert/attribution_events/one_order"}
        (answer, alone) = found.popitem()[1].rows
        assert str(answer["answer"]).startswith("refused 23505 duplicate key value")
        assert alone == {"rows": 1}

    def test_a_row_that_is_left_out_because_another_tenant_has_it(self, lab: Lab) -> None:
        second = replace(event(2, A, external_event_id="x"), conflict=KEEP_FIRST)
        found = lab.tells_apart(
            self.name,
            workload(of(B, event(1, B, external_event_id="x")), of(A, second)),
            broken="CREATE UNIQUE INDEX one_order ON attribution_events (external_event_id)",
        )
        assert set(found) == {"insert/attribution_events/one_order"}
        assert found.popitem()[1].rows == [{"rows": 0}, {"rows": 1}]

    @pytest.mark.parametrize(
        "column", ["bigserial", "bigint GENERATED ALWAYS AS IDENTITY"], ids=["serial", "identity"]
    )
    def test_a_counter_that_tenants_share(self, lab: Lab, column: str) -> None:
        shown = workload(
            of(B, dead_event(1, B)), of(A, dead_event(2)), of(A, Select("dead_events"))
        )
        found = lab.tells_apart(
            self.name,
            shown,
            broken=f"ALTER TABLE dead_events ADD COLUMN number {column};"
            "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO app_rw",
        )
        assert set(found) == {"select/dead_events/numbered by a sequence"}

    def test_times_and_random_ids_are_no_interference(self, lab: Lab) -> None:
        made = dead_event(2)
        at = made.columns.index("id")
        anonymous = Insert(
            made.relation,
            made.columns[:at] + made.columns[at + 1 :],
            (made.rows[0][:at] + made.rows[0][at + 1 :],),
        )
        shown = workload(of(B, dead_event(1, B)), of(A, anonymous), of(A, Select("dead_events")))
        assert lab.findings(self.name, shown) == {}

    def test_maintenance_that_others_rows_prevent_is_no_interference(self, lab: Lab) -> None:
        """The code that B uses cannot be removed; without B it is, and A can no longer use it."""
        remove = maintenance(Delete("channel_taxonomy", (("code", "direct"),)))
        shown = workload(
            of(B, event(1, B)),
            of(B, allocation(1, B)),
            remove,
            of(A, event(2)),
            of(A, allocation(2, of_event=2)),
        )
        assert lab.findings(self.name, shown) == {}

    def test_a_colliding_primary_key_is_accepted_by_the_contract_alone(
        self, lab: Lab, contract: Contract
    ) -> None:
        shown = workload(of(B, dead_event(1, B)), of(A, dead_event(1)))
        assert lab.findings(self.name, shown) == {}
        strict = replace(contract, accepted={})
        found = lab.findings(self.name, shown, contract=strict)
        assert set(found) == {"insert/dead_events/dead_events_pkey"}

    def test_maintenance_is_in_both_worlds(self, lab: Lab) -> None:
        retire = Update("channel_taxonomy", (("is_active", False),), (("code", "email"),))
        shown = workload(
            of(B, dead_event(1, B)), maintenance(retire), of(A, Select("channel_taxonomy"))
        )
        grant = "GRANT SELECT ON channel_taxonomy TO app_rw"
        assert lab.findings(self.name, shown, grant) == {}

    def test_two_busy_tenants_are_no_violation(self, lab: Lab) -> None:
        def busy(tenant: str, first: int) -> list[Operation]:
            return [
                of(tenant, event(first, tenant, external_event_id="x")),
                of(tenant, allocation(first, tenant, of_event=first)),
                of(tenant, posting(first, tenant, of_allocation=first)),
                of(tenant, Update("attribution_allocations", (("allocation_ratio", "0.5"),))),
                of(tenant, dead_event(first, tenant)),
                of(tenant, Delete("dead_events")),
                *(of(tenant, Select(t)) for t in ("attribution_events", "revenue_ledger")),
            ]

        both = [o for pair in zip(busy(A, 1), busy(B, 2), strict=True) for o in pair]
        assert lab.findings(self.name, workload(*both)) == {}


CHANGES: dict[str, Statement] = {
    "update": Update(
        "attribution_events", (("revenue_cents", 1),), key("attribution_events", 1)
    ),
    "delete": Delete("attribution_events"),
    "on conflict": replace(
        event(1, cents=1), conflict=Conflict(("id",), updates=("revenue_cents",))
    ),
    "merge": Merge(
        "attribution_events",
        event(1, cents=1).columns,
        event(1, cents=1).rows[0],
        ("id",),
        ("revenue_cents",),
    ),
}  # fmt: skip


class TestAppendOnly:
    name = "append-only"

    @pytest.mark.parametrize("how", CHANGES)
    def test_a_change_that_neither_privilege_nor_trigger_stops(self, lab: Lab, how: str) -> None:
        shown = workload(of(A, event(1)), of(A, CHANGES[how]))
        found = lab.tells_apart(self.name, shown, broken=UNGUARDED_EVENTS)
        effect = "delete" if how == "delete" else "update"
        assert set(found) == {f"{effect}/attribution_events/privilege"}
        rows = found.popitem()[1].rows
        assert [r["revenue_cents"] for r in rows] == ([100] if how == "delete" else [100, 1])

    @pytest.mark.parametrize("how", CHANGES)
    def test_the_trigger_stands_alone(self, lab: Lab, how: str) -> None:
        assert GRANTED in AppendOnly.premises
        shown = workload(of(A, event(1)), of(A, CHANGES[how]), premise=GRANTED)
        found = lab.tells_apart(
            self.name,
            shown,
            broken="DROP TRIGGER trg_events_prevent_mutation ON attribution_events",
        )
        effect = "delete" if how == "delete" else "update"
        assert set(found) == {f"{effect}/attribution_events/no trigger"}

    @pytest.mark.parametrize("how", CHANGES)
    def test_the_privilege_stands_alone(self, lab: Lab, how: str) -> None:
        assert UNTRIGGERED in AppendOnly.premises
        shown = workload(of(A, event(1)), of(A, CHANGES[how]), premise=UNTRIGGERED)
        found = lab.tells_apart(
            self.name, shown, broken="GRANT UPDATE, DELETE ON attribution_events TO app_rw"
        )
        effect = "delete" if how == "delete" else "update"
        assert set(found) == {f"{effect}/attribution_events/privilege"}

    def test_truncate_by_privilege(self, lab: Lab) -> None:
        shown = workload(
            of(A, event(1)),
            of(A, allocation(1)),
            of(A, posting(1)),
            of(A, Truncate("revenue_ledger")),
        )
        found = lab.tells_apart(
            self.name, shown, broken="GRANT TRUNCATE ON revenue_ledger TO app_rw"
        )
        assert set(found) == {"truncate/revenue_ledger/privilege"}

    def test_truncate_past_the_triggers(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            workload(
                of(A, event(1)),
                of(A, Truncate("attribution_events", cascade=True)),
                premise=GRANTED,
            ),
            mended="CREATE TRIGGER kept BEFORE TRUNCATE ON attribution_events"
            " EXECUTE FUNCTION fn_events_prevent_mutation()",
        )
        assert set(found) == {"truncate/attribution_events/no trigger"}

    def test_a_cascade(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            workload(
                of(A, event(1, cents=1)),
                of(A, allocation(1, cents=1)),
                of(A, posting(1, cents=1)),
                of(A, Delete("attribution_allocations")),
                premise=UNTRIGGERED,
            ),
            mended="ALTER TABLE revenue_ledger DROP CONSTRAINT revenue_ledger_allocation_id_fkey,"
            "ADD FOREIGN KEY (allocation_id) REFERENCES attribution_allocations ON DELETE RESTRICT",
        )
        assert set(found) == {"delete/revenue_ledger/revenue_ledger_allocation_id_fkey"}

    REPAIRING = """
        CREATE OR REPLACE FUNCTION fn_events_prevent_mutation() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN
            IF current_user = 'migration_owner' THEN
                RETURN coalesce(NEW, OLD);
            END IF;
            RAISE EXCEPTION 'attribution_events is append-only';
        END $$
    """

    @pytest.mark.parametrize("how", ["update", "delete"])
    def test_a_repair_that_is_swallowed(self, lab: Lab, how: str) -> None:
        repair = of(A, CHANGES[how], role="migration_owner")
        shown = workload(of(A, event(1)), repair, premise=GRANTED)
        found = lab.tells_apart(self.name, shown, mended=self.REPAIRING)
        assert set(found) == {f"{how}/attribution_events/trg_events_prevent_mutation"}

    def test_a_repair_that_changes_nothing_is_no_violation(self, lab: Lab) -> None:
        """What a row has already may be spelled another way."""
        same = Update("attribution_events", (("occurred_at", "2024-03-01 00:00:00+00"),))
        also = Update("attribution_events", (("revenue_cents", 100),))
        repairs = (of(A, s, role="migration_owner") for s in (same, also))
        shown = workload(of(A, event(1)), *repairs, premise=GRANTED)
        assert lab.findings(self.name, shown, self.REPAIRING) == {}

    def test_a_repair_and_an_erasure_are_no_violation(self, lab: Lab) -> None:
        grants = "GRANT SELECT, DELETE ON tenants TO migration_owner;" + self.REPAIRING
        shown = workload(
            of(A, event(1)),
            of(A, CHANGES["update"], role="migration_owner"),
            of(A, CHANGES["delete"], role="migration_owner"),
            of(A, event(1)),
            of(None, Delete("tenants", (("id", A),)), role="migration_owner"),
            premise=GRANTED,
        )
        assert lab.findings(self.name, shown, grants) == {}


class TestAllocationSum:
    name = "allocation-sum"
    table = "attribution_allocations"

    def test_without_the_trigger(self, lab: Lab) -> None:
        shown = workload(of(A, event(1)), of(A, allocation(1, cents=40)))
        found = lab.tells_apart(self.name, shown, broken=UNCHECKED_SUMS)
        assert set(found) == {f"insert/{self.table}/no trigger"}
        group, total = found.popitem()[1].rows
        assert (group["allocated_revenue_cents"], total["revenue_cents"]) == (40, 100)

    @pytest.mark.parametrize(
        ("cents", "held"), [(98, False), (99, True), (101, True), (102, False)]
    )
    def test_the_tolerance_is_one_cent(self, lab: Lab, cents: int, held: bool) -> None:
        shown = workload(of(A, event(1)), of(A, allocation(1, cents=cents)))
        assert (lab.findings(self.name, shown, UNCHECKED_SUMS) == {}) is held

    def test_a_trigger_that_tolerates_a_cent_too_much(self, lab: Lab) -> None:
        shown = workload(of(A, event(1)), of(A, allocation(1, cents=98)))
        flaw = """
            DO $$ BEGIN
                EXECUTE replace(pg_get_functiondef('check_allocation_sum'::regproc), '> 1', '> 2');
            END $$
        """
        found = lab.tells_apart(self.name, shown, broken=flaw)
        assert set(found) == {f"insert/{self.table}/trg_check_allocation_sum"}

    def test_a_row_that_leaves_its_group_unbalanced(self, lab: Lab) -> None:
        move = Update(self.table, (("event_id", event_id(2)),), key(self.table, 2))
        found = lab.tells_apart(
            self.name,
            workload(
                of(A, event(1), event(2, cents=40)),
                of(A, _split(60, 40)),
                of(A, move),
            ),
            mended=DEFERRED_SUMS,
        )
        assert set(found) == {f"update/{self.table}/trg_check_allocation_sum: group left behind"}
        assert [r["event_id"] for r in found.popitem()[1].rows[:1]] == [event_id(1)]

    def test_an_amount_that_changes(self, lab: Lab) -> None:
        change = Update(self.table, (("allocated_revenue_cents", 7),))
        shown = workload(of(A, event(1)), of(A, allocation(1)), of(A, change))
        found = lab.tells_apart(self.name, shown, broken=UNCHECKED_SUMS)
        assert set(found) == {f"update/{self.table}/no trigger"}

    def test_a_part_that_is_removed(self, lab: Lab) -> None:
        remove = Delete(self.table, key(self.table, 2))
        shown = workload(of(A, event(1)), of(A, _split(60, 40)), of(A, remove))
        found = lab.tells_apart(self.name, shown, broken=UNCHECKED_SUMS)
        assert set(found) == {f"delete/{self.table}/no trigger"}

    def test_a_total_that_changes(self, lab: Lab) -> None:
        change = Update("attribution_events", (("revenue_cents", 7),))
        shown = workload(of(A, event(1)), of(A, allocation(1)), of(A, change))
        found = lab.tells_apart(self.name, shown, broken=UNGUARDED_EVENTS)
        assert set(found) == {"update/attribution_events/no trigger"}

    def test_a_part_of_another_tenants_event(self, lab: Lab) -> None:
        shown = workload(of(B, event(1, B)), of(A, allocation(1, cents=7)))
        found = lab.tells_apart(self.name, shown, mended=COMPOSITE_KEYS)
        assert set(found) == {f"reference/{self.table}/attribution_allocations_event_id_fkey"}

    def test_only_committed_states_count(self, lab: Lab) -> None:
        parts = allocation(1, cents=40), allocation(2, cents=60, channel_code="email")
        shown = workload(of(A, event(1)), of(A, *parts))
        assert lab.findings(self.name, shown, UNCHECKED_SUMS) == {}

    def test_models_are_summed_apart_and_no_rows_owe_nothing(self, lab: Lab) -> None:
        shown = workload(
            of(A, event(1)),
            of(A, allocation(1), allocation(2, model_version="m2")),
            of(A, Delete(self.table)),
        )
        assert lab.findings(self.name, shown, UNCHECKED_SUMS) == {}


def _split(first: int, second: int) -> Insert:
    """Two parts of event 1 in one statement."""
    one, two = allocation(1, cents=first), allocation(2, cents=second, channel_code="email")
    return replace(one, rows=one.rows + two.rows)


def _delivered(number: int, tenant: str = A, cents: int = 100, **values: Value) -> Operation:
    """The message with the key x, in its own row `number`."""
    keys: dict[str, Value] = {"external_event_id": "x", **values}
    sent = replace(event(number, tenant, cents, **keys), conflict=KEEP_FIRST)
    return of(tenant, sent, delivery=1)


class TestIdempotentIngest:
    name = "idempotent-ingest"

    def test_without_the_unique_index(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            workload(_delivered(1), _delivered(2)),
            broken="DROP INDEX idx_attribution_events_tenant_external_event_id",
        )
        assert set(found) == {"insert/attribution_events/unique (external_event_id)"}
        assert {r["id"] for r in found.popitem()[1].rows} == {event_id(1), event_id(2)}

    def test_the_second_key_where_the_first_is_not_set(self, lab: Lab) -> None:
        def deliver(number: int) -> Operation:
            return _delivered(number, external_event_id=None, correlation_id=event_id(9))

        found = lab.tells_apart(
            self.name,
            workload(deliver(1), deliver(2)),
            broken="DROP INDEX idx_attribution_events_tenant_correlation_id",
        )
        assert set(found) == {"insert/attribution_events/unique (correlation_id)"}

    def test_a_message_without_a_key(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            workload(_delivered(1, external_event_id=None), _delivered(2, external_event_id=None)),
            mended="ALTER TABLE attribution_events ADD CHECK"
            " (external_event_id IS NOT NULL OR correlation_id IS NOT NULL)",
        )
        assert set(found) == {"insert/attribution_events/no key"}

    def test_a_later_delivery_counts_too(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            workload(_delivered(1), of(A, allocation(1)), of(A, posting(1)), _delivered(2)),
            broken="DROP INDEX idx_attribution_events_tenant_external_event_id",
        )
        assert [f.violation.operation for f in found.values()] == [3]

    def test_a_second_write_that_wins(self, lab: Lab) -> None:
        flaw = """
            DROP TRIGGER trg_events_prevent_mutation ON attribution_events;
            CREATE FUNCTION overwrite() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
            BEGIN
                UPDATE attribution_events SET revenue_cents = NEW.revenue_cents
                WHERE tenant_id = NEW.tenant_id AND external_event_id = NEW.external_event_id;
                RETURN CASE WHEN FOUND THEN NULL ELSE NEW END;
            END $$;
            CREATE TRIGGER overwriting BEFORE INSERT ON attribution_events
                FOR EACH ROW EXECUTE FUNCTION overwrite();
        """
        shown = workload(_delivered(1), _delivered(2, cents=7))
        found = lab.tells_apart(self.name, shown, broken=flaw)
        assert set(found) == {"update/attribution_events/first write wins"}

    def test_an_error_for_the_second(self, lab: Lab) -> None:
        flaw = """
            CREATE FUNCTION once() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF EXISTS (SELECT FROM attribution_events
                           WHERE external_event_id = NEW.external_event_id) THEN
                    RAISE unique_violation;
                END IF;
                RETURN NEW;
            END $$;
            CREATE TRIGGER only_once BEFORE INSERT ON attribution_events
                FOR EACH ROW EXECUTE FUNCTION once();
        """
        found = lab.tells_apart(self.name, workload(_delivered(1), _delivered(2)), broken=flaw)
        assert set(found) == {"insert/attribution_events/once"}

    def test_the_same_key_in_another_tenant_is_another_event(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            workload(_delivered(1, B), _delivered(2, A)),
            broken="CREATE UNIQUE INDEX one_order ON attribution_events (external_event_id)",
        )
        assert set(found) == {"insert/attribution_events/one_order"}

    def test_what_was_removed_meanwhile_may_come_again(self, lab: Lab) -> None:
        def deliver(number: int) -> Operation:
            return of(A, replace(allocation(number), conflict=KEEP_FIRST), delivery=1)

        shown = workload(
            of(A, event(1)),
            deliver(1),
            deliver(2),
            of(A, Delete("attribution_allocations")),
            deliver(3),
        )
        assert lab.findings(self.name, shown, UNCHECKED_SUMS) == {}

    def test_a_first_delivery_that_was_refused_may_be_refused_again(self, lab: Lab) -> None:
        shown = workload(_delivered(1, cents=-1), _delivered(2, cents=-1))
        assert lab.findings(self.name, shown) == {}


def _foreign_key(action: str) -> str:
    return f"""
        ALTER TABLE attribution_allocations
            ALTER COLUMN channel_code DROP NOT NULL,
            DROP CONSTRAINT fk_attribution_allocations_channel_code,
            ADD CONSTRAINT fk_channel FOREIGN KEY (channel_code)
                REFERENCES channel_taxonomy (code) {action}
    """


class TestTaxonomy:
    name = "taxonomy"
    unlinked = (
        "ALTER TABLE attribution_allocations"
        " DROP CONSTRAINT fk_attribution_allocations_channel_code"
    )
    rename = maintenance(Update("channel_taxonomy", (("code", "b"),), (("code", "direct"),)))
    remove = maintenance(Delete("channel_taxonomy", (("code", "direct"),)))

    def test_a_code_that_does_not_exist(self, lab: Lab) -> None:
        shown = workload(of(A, event(1)), of(A, allocation(1, channel_code="nowhere")))
        found = lab.tells_apart(self.name, shown, broken=self.unlinked)
        assert set(found) == {"insert/attribution_allocations/no foreign key"}
        assert found.popitem()[1].rows[0]["channel_code"] == "nowhere"

    @pytest.mark.parametrize("how", ["rename", "remove"])
    def test_a_code_in_use_that_goes_away(self, lab: Lab, how: str) -> None:
        change: Operation = getattr(self, how)
        found = lab.tells_apart(
            self.name,
            workload(of(A, event(1)), of(A, allocation(1)), change),
            broken=self.unlinked,
        )
        kind = change.statements[0].kind
        assert set(found) == {f"{kind}/channel_taxonomy/no foreign key"}

    @pytest.mark.parametrize(
        ("action", "how"),
        [
            ("ON UPDATE CASCADE", "rename"),
            ("ON DELETE CASCADE", "remove"),
            ("ON DELETE SET NULL", "remove"),
            ("ON UPDATE SET NULL", "rename"),
        ],
    )
    def test_a_foreign_key_that_passes_the_change_on(self, lab: Lab, action: str, how: str) -> None:
        change: Operation = getattr(self, how)
        found = lab.tells_apart(
            self.name,
            # The sum of nothing is nothing, so that the sums stay right.
            workload(of(A, event(1, cents=0)), of(A, allocation(1, cents=0)), change),
            broken=_foreign_key(action),
            mended=_foreign_key(""),
        )
        assert set(found) == {f"{change.statements[0].kind}/attribution_allocations/fk_channel"}

    def test_a_retirement_that_takes_rows_along(self, lab: Lab) -> None:
        flaw = """
            CREATE FUNCTION tidy() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                DELETE FROM attribution_allocations WHERE channel_code = NEW.code;
                RETURN NULL;
            END $$;
            CREATE TRIGGER tidying AFTER UPDATE OF is_active ON channel_taxonomy
                FOR EACH ROW EXECUTE FUNCTION tidy();
        """
        retire = Update("channel_taxonomy", (("is_active", False),), (("code", "direct"),))
        shown = workload(
            of(A, event(1, cents=0)), of(A, allocation(1, cents=0)), maintenance(retire)
        )
        found = lab.tells_apart(self.name, shown, broken=flaw)
        assert [s.split("/")[:2] for s in found] == [["update", "attribution_allocations"]]
        assert found.popitem()[1].rows[0]["id"] == allocation_id(1)

    @pytest.mark.parametrize(
        ("privilege", "statement"),
        [
            ("INSERT", Insert("channel_taxonomy", ("code", "family", "is_paid", "display_name"),
                              (("new", "f", False, "New"),))),
            ("SELECT, UPDATE", Update("channel_taxonomy", (("is_active", False),),
                                      (("code", "email"),))),
            ("SELECT, DELETE", Delete("channel_taxonomy", (("code", "email"),))),
        ],
    )  # fmt: skip
    def test_an_application_role_that_writes_it(
        self, lab: Lab, privilege: str, statement: Statement
    ) -> None:
        found = lab.tells_apart(
            self.name,
            workload(of(A, statement)),
            broken=f"GRANT {privilege} ON channel_taxonomy TO app_rw",
        )
        assert set(found) == {f"{statement.kind}/channel_taxonomy/privilege"}

    def test_a_mapping_to_a_code_that_does_not_exist(
        self, lab: Lab, contract: Contract, tmp_path: Path
    ) -> None:
        mapping = tmp_path / "mapping.yaml"
        mapping.write_text("sources:\n  shopify:\n    web: direct\n    tv: television\n")
        rule = replace(contract.taxonomies[0], mapping=mapping)
        wrong = replace(contract, taxonomies=(rule,))
        shown = workload(of(A, event(1)))
        mended = (
            "INSERT INTO channel_taxonomy (code, family, is_paid, display_name)"
            " VALUES ('television', 'tv', true, 'TV')"
        )
        found = lab.tells_apart(self.name, shown, mended=mended, contract=wrong)
        assert set(found) == {"mapping/channel_taxonomy"}
        assert "television" in found.popitem()[1].violation.summary

    def test_a_code_of_the_mapping_that_was_lost(self, lab: Lab) -> None:
        flaw = "DELETE FROM channel_taxonomy WHERE code = 'email'"
        found = lab.tells_apart(self.name, workload(of(A, event(1))), broken=flaw)
        assert set(found) == {"mapping/channel_taxonomy"}

    def test_ordinary_maintenance_is_no_violation(self, lab: Lab) -> None:
        shown = workload(
            of(A, event(1)),
            of(A, allocation(1)),
            maintenance(Update("channel_taxonomy", (("is_active", False),))),
            maintenance(Update("channel_taxonomy", (("code", "post"),), (("code", "email"),))),
            self.rename,
            self.remove,
        )
        assert lab.findings(self.name, shown) == {}


def _refusing(table: str, event_: str, body: str) -> str:
    return f"""
        CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
        CREATE TRIGGER meddling BEFORE {event_} ON {table}
            FOR EACH ROW EXECUTE FUNCTION meddle();
    """


class TestLiveness:
    name = "liveness"
    change = Update("dead_events", (("source", "stripe"),), key("dead_events", 1))

    def test_a_check_that_is_too_strict(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            workload(of(A, event(1, cents=2**31 - 1))),
            broken="ALTER TABLE attribution_events"
            " ADD CONSTRAINT modest CHECK (revenue_cents < 1000000)",
        )
        assert set(found) == {"insert/attribution_events/modest"}

    def test_a_column_that_is_too_short(self, lab: Lab) -> None:
        run = row("reconciliation_runs", 1, A, last_run_at="2024-03-01", state="completed")
        found = lab.tells_apart(
            self.name,
            workload(of(A, run)),
            broken="ALTER TABLE reconciliation_runs ADD CONSTRAINT short CHECK (length(state) < 9)",
        )
        assert set(found) == {"insert/reconciliation_runs/short"}

    @pytest.mark.parametrize("verb", ["insert", "update", "delete"])
    def test_a_trigger_that_refuses(self, lab: Lab, verb: str) -> None:
        flaw = _refusing("dead_events", verb, "RAISE EXCEPTION 'not today';")
        found = lab.tells_apart(self.name, self._writes(verb), broken=flaw)
        assert set(found) == {f"{verb}/dead_events/meddle"}
        assert "not today" in found.popitem()[1].violation.summary

    @pytest.mark.parametrize("verb", ["insert", "update", "delete"])
    def test_a_trigger_that_swallows(self, lab: Lab, verb: str) -> None:
        flaw = _refusing("dead_events", verb, "RETURN NULL;")
        found = lab.tells_apart(self.name, self._writes(verb), broken=flaw)
        assert set(found) == {f"{verb}/dead_events/another effect"}

    def test_a_trigger_that_writes_something_else(self, lab: Lab) -> None:
        flaw = _refusing("dead_events", "insert", "NEW.source := 'unknown'; RETURN NEW;")
        found = lab.tells_apart(self.name, self._writes("insert"), broken=flaw)
        assert set(found) == {"insert/dead_events/another effect"}
        assert found.popitem()[1].rows[0]["source"] == "unknown"

    def _writes(self, verb: str) -> Workload:
        further: dict[str, tuple[Statement, ...]] = {
            "insert": (),
            "update": (self.change,),
            "delete": (Delete("dead_events"),),
        }
        return workload(of(A, dead_event(1)), *(of(A, s) for s in further[verb]))

    def test_a_policy_that_hides_ones_own_rows(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            workload(of(A, dead_event(1)), of(A, Select("dead_events"), role="app_ro")),
            broken="CREATE POLICY hidden ON dead_events AS RESTRICTIVE FOR SELECT USING (false)",
        )
        assert set(found) == {"select/dead_events/hidden,tenant_isolation_policy"}

    def test_a_policy_that_hides_rows_from_a_change(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            self._writes("update"),
            broken="CREATE POLICY hidden ON dead_events AS RESTRICTIVE FOR UPDATE USING (false)",
        )
        assert set(found) == {"update/dead_events/another effect"}

    @pytest.mark.parametrize("verb", ["insert", "update", "delete"])
    def test_a_privilege_that_was_lost(self, lab: Lab, verb: str) -> None:
        flaw = f"REVOKE {verb} ON dead_events FROM app_rw"
        found = lab.tells_apart(self.name, self._writes(verb), broken=flaw)
        assert set(found) == {f"{verb}/dead_events/privilege"}

    def test_a_read_that_was_lost(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            workload(of(A, Select("dead_events"), role="app_ro")),
            broken="REVOKE SELECT ON dead_events FROM app_ro",
        )
        assert set(found) == {"select/dead_events/privilege"}

    def test_a_split_over_several_statements(self, lab: Lab) -> None:
        parts = allocation(1, cents=40), allocation(2, cents=60, channel_code="email")
        found = lab.tells_apart(
            self.name, workload(of(A, event(1)), of(A, *parts)), mended=DEFERRED_SUMS
        )
        assert set(found) == {"insert/attribution_allocations/check_allocation_sum"}

    def test_the_removal_of_all_parts(self, lab: Lab) -> None:
        remove = Delete("attribution_allocations")
        found = lab.tells_apart(
            self.name,
            workload(of(A, event(1)), of(A, allocation(1)), of(A, remove)),
            mended=DEFERRED_SUMS,
        )
        assert set(found) == {"delete/attribution_allocations/check_allocation_sum"}

    @pytest.mark.parametrize("setting", [None, ""])
    def test_no_tenant_is_no_rows_and_no_error(self, lab: Lab, setting: str | None) -> None:
        lenient = "tenant_id = nullif(current_setting('app.current_tenant_id', true), '')::uuid"
        found = lab.tells_apart(
            self.name,
            workload(of(B, dead_event(1, B)), of(setting, Select("dead_events"))),
            mended=policy("dead_events", lenient, lenient),
        )
        assert set(found) == {"select/dead_events/tenant_isolation_policy"}

    def test_a_malformed_tenant_may_be_an_error(self, lab: Lab) -> None:
        shown = workload(of("not-a-uuid", Select("dead_events")))
        assert lab.findings(self.name, shown) == {}

    def test_a_refresh_that_fails_on_data(self, lab: Lab) -> None:
        run = {"last_run_at": "2024-03-01 00:00:00+00"}
        view = "mv_reconciliation_status"
        found = lab.tells_apart(
            self.name,
            workload(
                of(A, row("reconciliation_runs", 1, A, **run)),
                of(A, row("reconciliation_runs", 2, A, **run)),
                maintenance(Refresh(view)),
            ),
            mended="DROP INDEX idx_mv_reconciliation_status_tenant_id",
        )
        assert set(found) == {f"refresh/{view}/idx_mv_reconciliation_status_tenant_id"}

    def test_the_taxonomy_is_readable(self, lab: Lab) -> None:
        found = lab.tells_apart(
            self.name,
            workload(of(A, Select("channel_taxonomy"))),
            mended="GRANT SELECT ON channel_taxonomy TO app_rw",
        )
        assert set(found) == {"select/channel_taxonomy/privilege"}

    ERASING = """
        GRANT SELECT, DELETE ON tenants TO migration_owner;
        ALTER TABLE attribution_events DISABLE TRIGGER USER;
        ALTER TABLE attribution_allocations DISABLE TRIGGER USER;
    """

    def test_a_tenant_can_be_erased(self, lab: Lab) -> None:
        erase = of(None, Delete("tenants", (("id", A),)), role="migration_owner")
        found = lab.tells_apart(self.name, workload(of(A, event(1)), erase), mended=self.ERASING)
        assert set(found) == {"delete/tenants/privilege"}

    def test_an_erasure_that_leaves_something(self, lab: Lab) -> None:
        erase = of(None, Delete("tenants", (("id", A),)), role="migration_owner")
        kept = """
            ALTER TABLE dead_events DROP CONSTRAINT dead_events_tenant_id_fkey;
            CREATE TABLE unrelated (a integer);
        """
        found = lab.tells_apart(
            self.name,
            workload(of(A, dead_event(1)), erase),
            broken=self.ERASING + kept,
            mended=self.ERASING,
        )
        assert set(found) == {"delete/dead_events/another effect"}

    def test_what_the_contract_leaves_open_may_be_refused(self, lab: Lab) -> None:
        shown = workload(
            of(A, event(1, cents=-1)),
            of(A, event(1)),
            of(A, allocation(1, cents=40)),
            of(A, allocation(1, channel_code="nowhere")),
            of(A, dead_event(1, B)),
            of(A, Delete("attribution_events")),
            of(A, row("reconciliation_runs", 1, A, last_run_at="2024-03-01", state="lost")),
            of(UNKNOWN, dead_event(1, UNKNOWN)),
            of(A, replace(dead_event(1), columns=("id",), rows=((event_id(1),),))),
            of(A, Insert("dead_events", ("id", "error_detail"), ((event_id(1), Json("{}")),))),
        )
        found = lab.findings(self.name, shown, "REVOKE ALL ON dead_events FROM app_rw")
        assert found == {}
