"""Values as types take them, and as they come back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from invariants.contract.sections import Pii
from invariants.schema.catalog import Column
from invariants.workload.operations import Assignments, Json, Value

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")
_TIME = re.compile(r"(\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d+)?\+00)?|-?infinity)\Z")
_NUMBER = re.compile(r"-?\d{1,9}(\.\d{1,5})?\Z")
_RANGES = {"smallint": 2**15, "integer": 2**31, "bigint": 2**63}
# Types whose values compare in Python as they do in SQL.
PLAIN = ("uuid", "text", "character varying", "integer", "bigint", "smallint", "boolean", "jsonb")


def pii_keys(pii: Pii, document: Any) -> list[str]:
    """The keys that name personal data, at any depth of a document."""
    found: list[str] = []
    stack = [document]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            found += [k for k in value if pii.names(k)]
            stack += value.values()
        elif isinstance(value, list):
            stack += value
    return found


def matches(row: Mapping[str, Any], where: Assignments) -> bool:
    """Whether a row has all these values."""
    return all(row.get(c) == v for c, v in where)


def seen(value: Value) -> Any:
    """A value as it is read back."""
    return value.document if isinstance(value, Json) else value


def exact(amount: Any) -> Decimal:
    """An amount as it was read back, to be added up without a rounding."""
    return amount if isinstance(amount, Decimal) else Decimal(str(amount))


def comparable(column: Column) -> bool:
    """Whether values of the column are equal in Python where they are in SQL, once read back."""
    if column.is_array or column.type == "jsonb":
        return False
    known = column.type in (*PLAIN, "date", "name") or column.type.startswith("timestamp")
    return bool(known or column.enum) and not column.equates


def as_read(column: Column, value: Value) -> Any:
    """A value as it is read back, where its type spells it another way than it was sent."""
    if isinstance(value, str) and column.type.startswith("timestamp") and not column.is_array:
        try:
            moment = _moment(value)
        except ValueError:
            return value
        zoned = column.type == "timestamp with time zone"
        told = moment.replace(tzinfo=None).isoformat()
        told = told.rstrip("0") if "." in told else told
        return f"{told}+00:00" if zoned else told
    return seen(value)


def as_text(column: Column, value: Any) -> str:
    """A value of a row, as it was read, as a query returns it: `t` for true, say."""
    if isinstance(value, bool):
        return "t" if value else "f"
    if column.type.startswith("timestamp"):
        return str(value).replace("T", " ").replace("+00:00", "+00")
    return str(value)


def differ(column: Column, stored: Any, sent: Any) -> bool:
    """Whether a column certainly holds another value than the one it was given."""
    if stored == sent or column.type in PLAIN:
        return bool(stored != sent)
    if stored is None or sent is None:
        return True
    try:
        if column.type == "timestamp with time zone":
            return _moment(stored) != _moment(sent)
        if column.type == "numeric" and column.scale >= 0:
            unit = Decimal(1).scaleb(-column.scale)
            # PostgreSQL rounds half away from zero.
            rounded = Decimal(str(sent)).quantize(unit, ROUND_HALF_UP)
            return Decimal(str(stored)) != rounded
    except (ValueError, InvalidOperation):
        # Infinities, say.
        return False
    return False


def _moment(value: Any) -> datetime:
    """A time as the server reads it, whose time zone is UTC."""
    moment = datetime.fromisoformat(str(value))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def fits(column: Column, value: Value) -> bool | None:
    """Whether the column's type takes a value, and spells it so; None where that is not known."""
    kind = column.type
    if column.enum:
        return value in column.enum
    if kind in _RANGES:
        return -_RANGES[kind] <= value < _RANGES[kind] if type(value) is int else None
    if kind in ("text", "character varying", "character"):
        if not isinstance(value, str) or "\0" in value:
            return None
        if kind == "character":
            # A shorter one is filled up with blanks.
            return True if len(value) == column.length else None
        return True if column.length < 0 or len(value) <= column.length else None
    if kind == "boolean":
        return True if isinstance(value, bool) else None
    if kind in ("json", "jsonb"):
        return True if isinstance(value, Json) and _storable(value) else None
    if kind == "uuid":
        return True if isinstance(value, str) and UUID.match(value) else None
    if kind.startswith("timestamp"):
        return True if isinstance(value, str) and _is_time(value) else None
    if kind == "numeric":
        return True if isinstance(value, str) and _as_written(column, value) else None
    return None


def _as_written(column: Column, value: str) -> bool:
    """Whether a numeric column keeps a number as it is, without rounding it."""
    found = _NUMBER.match(value)
    if found is None or column.scale < 0:
        return found is not None
    return len(value.partition(".")[2]) <= column.scale


def _is_time(value: str) -> bool:
    if not _TIME.match(value):
        return False
    if value.endswith("infinity"):
        return True
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


def _storable(value: Json) -> bool:
    """Whether jsonb certainly takes a document: it has no NUL, no half of a character, no NaN."""
    try:
        text = json.dumps(value.document, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:
        return False
    return "\\u0000" not in text
