"""NOTIFY: whoever logs in may listen, so that no value of a row may be in what is told."""

from __future__ import annotations

import pytest

from invariants.checks import INVARIANTS
from invariants.search.judge import Judge, by_signature
from tests.engine import A, Finding, Lab, altered, dead_event, of, workload

TELLS = """
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN
{}; RETURN NULL; END$$;
CREATE TRIGGER tell AFTER INSERT ON dead_events FOR EACH ROW EXECUTE FUNCTION tell()
"""
SHOWN = workload(of(A, dead_event(1, A, error_code="secret-17")))
TELLING = {
    "the whole row": "PERFORM pg_notify('dead', to_jsonb(NEW)::text)",
    "a document of its own": "PERFORM pg_notify('dead', json_build_object('row',"
    " json_build_object('error_code', NEW.error_code))::text)",
    "a text": "PERFORM pg_notify('dead', 'came: ' || NEW.error_code || '.')",
    "on a channel that is called like the table": "PERFORM pg_notify(TG_TABLE_NAME,"
    " NEW.error_code)",
}
SILENT = {
    "that something came": "NOTIFY dead",
    "its id": "PERFORM pg_notify('dead', NEW.id::text)",
    "its id and its tenant's": "PERFORM pg_notify('dead', json_build_object('id', NEW.id,"
    " 'tenant_id', NEW.tenant_id, 'op', TG_OP)::text)",
    "what it is no value of": "PERFORM pg_notify('dead', 'a row of source ' || length(NEW.source))",
}


@pytest.mark.parametrize("what", TELLING)
def test_what_tells_a_value(head_lab: Lab, what: str) -> None:
    """psql shows notifications and has them nowhere: its script says that it does not judge."""
    changes = TELLS.format(TELLING[what])
    with altered(head_lab.environment, changes) as broken, Judge(broken, head_lab.contract) as j:
        case, violations = j.violations(INVARIANTS["cross-tenant"], SHOWN)
        found = by_signature(violations)
        assert set(found) == {"cross-tenant/notify/dead_events/tell"}
        script = Finding(case, next(iter(found.values()))).counterexample.script
        done = head_lab.psql(broken, script)
        assert done.returncode == 2
        assert "Asynchronous notification" in done.stdout
        assert "secret-17" in done.stdout


@pytest.mark.parametrize("what", SILENT)
def test_what_tells_none(head_lab: Lab, what: str) -> None:
    assert head_lab.findings("cross-tenant", SHOWN, TELLS.format(SILENT[what])) == {}
