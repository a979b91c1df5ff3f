"""What a tenant setting and a time say, however they are spelled."""

from __future__ import annotations

import re
from datetime import date

# As PostgreSQL reads a uuid: in braces or not, with a hyphen after any four digits.
_UUID = re.compile(r"(\{)?([0-9a-f]{4}(?:-?[0-9a-f]{4}){7})(?(1)\})\Z", re.IGNORECASE)
# As PostgreSQL prints a time, in a row or as JSON: any year, before Christ as well.
_MOMENT = re.compile(
    r"(\d{4,})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?"
    r"(?:([+-])(\d\d)(?::?(\d\d))?(?::?(\d\d))?)?( BC)?\Z",
    re.ASCII,
)
# The calendar is the same again after so many years.
_CYCLE_YEARS, _CYCLE_DAYS = 400, 146_097
_EPOCH = date(1970, 1, 1).toordinal()
_INTEGER = re.compile(r"\s*[+-]?\d+\s*\Z", re.ASCII)


def meant(setting: str | None, kind: str | None) -> str | None:
    """An id as its type prints it, where the setting is a spelling of one; else as it is."""
    if setting is None:
        return None
    if kind == "uuid" and (match := _UUID.match(setting)):
        digits = match[2].replace("-", "").lower()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    if kind in ("smallint", "integer", "bigint") and _INTEGER.match(setting):
        return str(int(setting))
    return setting


def moment(text: str) -> float | int:
    """Microseconds since 1970 of a time as PostgreSQL prints it.

    Raises ValueError for anything else. Python's own dates end with the year 9999.
    """
    if text in ("infinity", "-infinity"):
        return float(text)
    match = _MOMENT.match(text)
    if match is None:
        raise ValueError(f"{text!r} is no time")
    year, month, day = (int(p) for p in match.group(1, 2, 3))
    if match[12]:
        year = 1 - year
    cycles, year = divmod(year - 1, _CYCLE_YEARS)
    days = date(year + 1, month, day).toordinal() + cycles * _CYCLE_DAYS - _EPOCH
    hours, minutes, seconds = (int(p or 0) for p in match.group(4, 5, 6))
    away = [int(p or 0) for p in match.group(9, 10, 11)]
    offset = (away[0] * 3600 + away[1] * 60 + away[2]) * (-1 if match[8] == "-" else 1)
    whole = days * 86_400 + hours * 3600 + minutes * 60 + seconds - offset
    return whole * 1_000_000 + int((match[7] or "").ljust(6, "0"))
