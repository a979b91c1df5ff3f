"""A mutant: the schema with one guard weakened, or made too strict, as SQL for a clone of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from invariants.workload.sql import name

# What each operator does to the schema.
OPERATORS: Mapping[str, str] = {
    "row-security-disabled": "row level security of a table is switched off",
    "row-security-not-forced": "row level security no longer binds the owner of a table",
    "policy-dropped": "a policy is gone",
    "policy-using-true": "a policy lets every row be seen, changed and removed",
    "policy-check-true": "a policy lets every row be written",
    "policy-permissive-added": "a further policy permits everything",
    "policy-one-command": "a policy for all commands is for one only",
    "policy-other-column": "a policy compares another column than the tenant's",
    "role-bypassrls": "a role bypasses row level security",
    "role-superuser": "an application role is a superuser",
    "role-member": "an application role is a member of another role",
    "table-owner": "a table belongs to an application role",
    "view-owner": "a view or materialized view belongs to an application role",
    "function-owner": "a function that runs as its owner belongs to an application role",
    "privilege-granted": "a role has a privilege on a relation that it does not have",
    "column-privilege-granted": "a role has a privilege on columns that it does not have",
    "execute-granted": "a role may execute a function that it may not",
    "trigger-dropped": "a trigger is gone",
    "trigger-disabled": "a trigger is switched off",
    "trigger-fewer-events": "a trigger fires at all of its events but one",
    "trigger-other-timing": "a trigger fires before instead of after the row is written, or after",
    "trigger-not-deferred": "a deferred constraint trigger fires at once",
    "trigger-statement-level": "a row trigger fires once a statement",
    "trigger-swallowing": "a trigger discards the row, or does nothing, instead of its work",
    "function-comparison": "a comparison in a function is another one",
    "function-constant": "an integer in a function is one more or one less",
    "function-branch": "a condition in a function is always true, or always false",
    "function-clause-dropped": "a condition in a function has one term of AND or OR less",
    "function-result": "a boolean function returns a constant",
    "function-lock-dropped": "a function reads rows without locking them",
    "function-lock-weakened": "a function locks rows in a mode that lets others do the same",
    "function-write-dropped": "a function leaves out a statement that writes, or that takes a lock",
    "function-swallowing": "a function returns NULL where it raises an exception",
    "function-permitting": "a trigger function lets the row pass where it raises an exception",
    "function-security": "a function runs as its caller instead of its owner, or the reverse",
    "function-search-path": "a function resolves names by the search path of its caller",
    "reference-dropped": "a foreign key is gone",
    "reference-without-tenant": "a composite foreign key leaves the tenant out",
    "reference-other-action": "a foreign key does something else when the row it names is deleted",
    "reference-not-valid": "a foreign key is not validated for the rows that are there",
    "unique-dropped": "a unique index, or the constraint it is of, is gone",
    "unique-without-tenant": "a unique index leaves the tenant out",
    "unique-fewer-columns": "a unique index leaves a column out",
    "unique-without-where": "a partial unique index is for all rows",
    "unique-other-where": "a partial unique index is for other rows",
    "check-dropped": "a CHECK is gone",
    "check-weakened": "a CHECK accepts one value more, or has one condition less",
    "check-strengthened": "a CHECK accepts one value less, or has one alternative less",
    "not-null-dropped": "a column may be NULL",
    "type-narrowed": "a column holds less",
    "view-without-filter": "a view shows the rows of every tenant",
    "view-without-barrier": "a view is no security barrier",
    "view-security-invoker": "a view reads as its reader instead of its owner, or the reverse",
    "reference-row-missing": "a row of a taxonomy is missing",
    "reference-row-retired": "a row of a taxonomy is retired, or in use again",
    "privilege-revoked": "a role has not got a privilege that the contract promises",
    "policy-restrictive": "a further policy forbids everything, or every INSERT",
    "trigger-refusing": "a trigger refuses every row that a statement writes",
    "unique-added": "further columns have to be unique",
    "not-null-added": "a column may not be NULL",
    "function-handing-out": "a function for everybody hands out the rows of the tenant it is told",
    "procedure-emptying": "a procedure for everybody removes the rows of every tenant",
    "policy-escape-setting": "a policy lets every row pass once a session has made a setting",
    "number-shared": "the rows of all tenants are numbered together",
    "deed-granted": "a role has TRIGGER, REFERENCES or MAINTAIN on a table",
    "grant-option-granted": "a role may hand on a privilege",
    "create-granted": "a role may create objects in a schema",
    "sequence-granted": "a role may read or set a sequence",
    "partition-granted": "a role may use a partition by its own name",
    "role-settable": "an application role may become a role whose privileges it does not inherit",
    "role-attribute": "an application role may create roles or databases, or replicate",
    "view-empty": "a view of the read path shows no row",
}


@dataclass(frozen=True)
class Mutant:
    """One guard changed: by which operator, on which object, and the SQL that does it.

    `detail` tells mutants of one operator and target apart. The statements are run in order by the
    superuser, each by itself or all in one transaction.
    """

    operator: str
    target: str
    statements: tuple[str, ...]
    detail: str = ""
    # It changes roles, which belong to the server and not to a database.
    server_wide: bool = False
    # It refuses or cuts short what the schema takes, and takes nothing else: for liveness.
    strict: bool = False

    def __post_init__(self) -> None:
        if self.operator not in OPERATORS:
            raise ValueError(f"{self.operator!r} is no operator: add it to OPERATORS")

    @property
    def name(self) -> str:
        """`operator/target/detail`, without spaces."""
        parts = (self.operator, self.target, self.detail)
        return "/".join(re.sub(r"\s+", "_", part) for part in parts if part)


def quoted(identifier: str) -> str:
    """One identifier, quoted where need be, also when it has a dot in it."""
    return '"' + identifier.replace('"', '""') + '"' if "." in identifier else name(identifier)


def listed(identifiers: tuple[str, ...]) -> str:
    """Identifiers separated by commas."""
    return ", ".join(map(quoted, identifiers))


def grantee(role: str) -> str:
    """A role as GRANT and CREATE POLICY name it."""
    return role if role == "PUBLIC" else quoted(role)
