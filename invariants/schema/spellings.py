"""Texts that a column may take, by its type and by what is written in the conditions on it.

Which of them it does take is for the server to say (`candidates`). The plain ones come first.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from invariants.schema.catalog import Column

_NUMBERS = ("0", "1", "2", "3", "10", "100", "101")
_RATIOS = ("0", "1", "0.5", "0.33333", "0.00001", "2", "-1")
TIMES = (
    "2024-03-01 00:00:00+00",
    "2024-03-01 00:00:01+00",
    "2024-03-02 12:30:00+00",
    "1901-01-01 00:00:00+00",
)
_DATES = ("2024-03-01", "2024-03-02", "1901-01-01")
TEXTS = ("a", "b", "order-1", "", "Ünï", "x'y\"z", "%_\\")
# Shapes that CHECKs ask of texts more often than others.
_SHAPES = (
    *("A", "ab", "abc", "AB", "ABC", "EUR", "USD", "en", "en-US", "DE", "1", "12", "123"),
    *("a@example.com", "https://example.com/a", "example.com", "+15550100000", "/a", "a/b", "a.b"),
    *("2024-03-01", "12:30", "#a1b2c3", "Europe/Berlin", "10.0.0.1", "1.0.0", "{}", "true"),
    "00000000-0000-4000-8000-000000000001",
)
_BY_TYPE: dict[str, Sequence[str]] = {
    "smallint": (*_NUMBERS, str(2**15 - 1), "-1"),
    "integer": (*_NUMBERS, str(2**31 - 1), "-1"),
    "bigint": (*_NUMBERS, str(2**31 - 1), "-1", str(2**63 - 1)),
    "oid": _NUMBERS,
    "numeric": (*_RATIOS, "100"),
    "real": _RATIOS[:5],
    "double precision": _RATIOS[:5],
    "money": ("0", "1", "0.5", "-1"),
    "boolean": ("false", "true"),
    "text": TEXTS,
    "character varying": TEXTS,
    "character": TEXTS,
    "citext": TEXTS,
    "name": ("a", "b", "order-1", "Ünï"),
    "json": ("{}", '{"a":1}', "[]", '{"nested":{"list":[1,null,"x"]}}'),
    "jsonb": ("{}", '{"a":1}', "[]", '{"nested":{"list":[1,null,"x"]}}'),
    "timestamp with time zone": TIMES,
    "timestamp without time zone": TIMES,
    "date": _DATES,
    "time without time zone": ("00:00:00", "12:30:00"),
    "time with time zone": ("00:00:00+00", "12:30:00+00"),
    "interval": ("00:00:00", "1 day", "1 mon"),
    "bytea": ("\\x", "\\x00ff"),
    "inet": ("192.0.2.1", "2001:db8::1", "10.0.0.0/8"),
    "cidr": ("192.0.2.0/24", "2001:db8::/32"),
    "macaddr": ("08:00:2b:01:02:03", "08:00:2b:01:02:04"),
    "macaddr8": ("08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03:04:06"),
    "xml": ("<a/>", "<a>1</a>"),
    "tsvector": ("'a'", "'a' 'b'", ""),
    "tsquery": ("'a'", "'a' & 'b'"),
    "point": ("(0,0)", "(1,2)"),
    "line": ("{1,2,3}",),
    "lseg": ("[(0,0),(1,1)]",),
    "box": ("(1,1),(0,0)", "(3,3),(2,2)"),
    "path": ("((0,0),(1,1))", "[(0,0),(1,1)]"),
    "polygon": ("((0,0),(1,0),(1,1))",),
    "circle": ("<(0,0),1>",),
    "pg_lsn": ("0/0", "16/B374D848"),
    "ltree": ("a", "a.b"),
    "hstore": ("", '"a"=>"1"'),
    "vector": ("[1]", "[1,2,3]"),
}
# Days of a week, of which one begins a year, the end of a month, and days far away.
_DAYS = (
    *("2024-01-01", "2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-06"),
    *(
        "2024-01-07",
        "2024-02-29",
        "2026-03-01",
        "2000-01-01",
        "2100-01-01",
        "1970-01-01",
        "2024-07-01",
    ),
)
# Types that nobody has told us of take one of these as a rule.
_ANY = (
    *("a", "1", "0", "", "{}", "()", "(,)", "(,,)", "(,,,)", "(,,,,)", "(,,,,,)", "[1,2)", "(0,0)"),
    *("2024-03-01", "2024-03-01 00:00:00+00", "10.0.0.1", "true", "POINT(0 0)", "[1]", "[1,2,3]"),
    *("[2024-03-01,2024-03-02)", "{[1,2)}", "{[2024-03-01,2024-03-02)}", "empty", "0/0", "a.b"),
    *("<a/>", "a@example.com", "0.5", "09:00:00", "1 day", "public", "pg_class"),
)
_SERIES: dict[str, Sequence[str]] = {
    # Above what sequences give.
    "smallint": ("2{n:04d}", "1{n:02d}", "{n}"),
    "integer": ("1{n:06d}", "1{n:03d}", "1{n:02d}", "{n}", "-{n}"),
    "bigint": ("1{n:06d}", "1{n:03d}", "1{n:02d}", "{n}", "1{n:012d}", "-{n}"),
    "oid": ("1{n:06d}",),
    "numeric": ("{n}", "0.{n:05d}", "0.{n:02d}", "-{n}"),
    "real": ("{n}", "0.{n:05d}"),
    "double precision": ("{n}", "0.{n:05d}"),
    "money": ("{n}",),
    "uuid": ("{id}",),
    "json": ('{{"n":{n}}}', "[{n}]", "{n}"),
    "jsonb": ('{{"n":{n}}}', "[{n}]", "{n}"),
    "timestamp with time zone": ("{t}",),
    "timestamp without time zone": ("{t}",),
    "date": ("{d}",),
    "time without time zone": ("{h}",),
    "time with time zone": ("{h}+00",),
    "interval": ("{n} hours",),
    "bytea": ("\\x{x}",),
    "inet": ("10.{octets}", "10.{octets}/32"),
    "cidr": ("10.{octets}/32",),
    "macaddr": ("08:00:2b:{colons}",),
    "macaddr8": ("08:00:2b:01:02:{colons}",),
    "xml": ("<a>{n}</a>",),
    "tsvector": ("'w{n}'",),
    "point": ("({n},0)",),
    "pg_lsn": ("0/{x}",),
    "ltree": ("a{n}",),
    "hstore": ('"a"=>"{n}"',),
    "int4range": ("[{n},{m})",),
    "int8range": ("[{n},{m})",),
    "numrange": ("[{n},{m})",),
    "daterange": ("[{d},{e})",),
    "tsrange": ("[{t},{u})",),
    "tstzrange": ("[{t},{u})",),
    "int4multirange": ("{{[{n},{m})}}",),
    "int8multirange": ("{{[{n},{m})}}",),
    "nummultirange": ("{{[{n},{m})}}",),
    "datemultirange": ("{{[{d},{e})}}",),
    "tsmultirange": ("{{[{t},{u})}}",),
    "tstzmultirange": ("{{[{t},{u})}}",),
}
ANY_TEXT = "a-{n}"
"""The series of columns that take any text."""
_TEXT_SERIES = (
    *(ANY_TEXT, "a{n}", "A{n}", "{n}", "user{n}@example.com", "https://example.com/{n}", "a_{n}"),
    *("http://example.com/{n}", "host{n}.example.com", "{ABC}", "{abc}", "+1555{n:07d}", "/{n}"),
    *("{id}", "#{x}", "{x}", "{n:03d}", "{n:04d}", "{n:05d}", "{n:06d}", "{n:08d}", "{n:010d}"),
    *("A{n:03d}", "A{n:05d}", "AB{n:04d}", "ABC-{n:04d}", "ABC{n:03d}", "1.{n}.0", "a.{n}", "{d}"),
    *("{n:012d}", "{n:013d}", "DE{n:020d}", "0x{x}", "sha256:{n:064d}", "{n:032d}", "{n:064d}"),
)
_TEXTUAL = ("text", "character varying", "character", "citext", "name")
_QUOTED = re.compile(r"E?'((?:[^']|'')*)'")
_NUMBER = re.compile(r"(?<![\w.'$])\(?(-?\d+(?:\.\d+)?)\)?(?![\w'])")
_DAY = re.compile(r"(\d{4}-\d\d-\d\d)((?: .*)?)\Z")
_NOW = re.compile(r"\bnow\(\)|\bCURRENT_|\bLOCALTIME|_timestamp\(\)", re.IGNORECASE)
_REGEX = re.compile(r"[\\^$*+?\[(|{]")
# How PostgreSQL's regular expressions say what Python's say otherwise.
_CLASSES = {
    "alpha": "a-zA-Z",
    "alnum": "a-zA-Z0-9",
    "digit": "0-9",
    "lower": "a-z",
    "upper": "A-Z",
    "space": " ",
    "blank": " ",
    "punct": "!.,;:-",
    "xdigit": "0-9a-fA-F",
    "word": "a-zA-Z0-9_",
}
_PATTERN_EXAMPLES = 40
_LENGTH_MAX = 4096


def textual(column: Column) -> bool:
    """Whether a column has texts."""
    return column.type in _TEXTUAL and not column.is_array


def texts(column: Column, conditions: Sequence[str]) -> tuple[list[str], list[str]]:
    """What may be tried in a column, given the expressions that speak of it.

    First what is plain, or named there; then what is tried where little of that is taken.
    """
    literals = [_unquoted(q) for c in conditions for q in _QUOTED.findall(c)]
    numbers = [n for c in conditions for n in _NUMBER.findall(c)]
    kind = column.type
    plain: list[str] = [*column.enum, *_BY_TYPE.get(kind, ())]
    if kind.endswith("range"):
        plain += _ranges(kind, literals)
    if column.is_array:
        elements = [*column.enum, *_BY_TYPE.get(kind, ()), *literals]
        many = [_array(*elements[:2]), _array(*elements[:3])] if elements else []
        return _once(["{}", *many, *(_array(e) for e in elements), *literals]), ["{NULL}"]
    if kind in ("json", "jsonb"):
        return _once(plain), _once(list(_documents(literals)))
    near = [n for number in numbers for n in _around(number)]
    near += [d for literal in literals for d in _days_around(literal)]
    more = [] if plain else [*_ANY, *TEXTS]
    if kind in _TEXTUAL:
        more += [*_SHAPES, *_of_length(numbers)]
        more += [t for literal in literals for t in _like(literal)]
        # What follows what a text has to begin with, say.
        more += [t for v in literals for t in (f"{v}a", f"a{v}", f"a{v}b", f"{v}1")]
    if kind == "bytea":
        more += ["\\x" + "00" * int(n) for n in numbers if n.isdigit() and int(n) <= _LENGTH_MAX]
    if kind == "date" or kind.startswith("timestamp"):
        more += _DAYS
    if kind.startswith("bit"):
        more += [digit * size for size in range(1, 65) for digit in "01"]
    return _once([*plain, *literals, *near]), _once(more)


def plain(column: Column) -> Sequence[str]:
    """What columns of this type are tried with, whatever is said of this one."""
    return () if column.is_array else _BY_TYPE.get(column.type, ())


def listed(conditions: Sequence[str]) -> list[str]:
    """The values that a condition lists, where one does."""
    return [v for c in conditions if "= ANY (" in c for v in _listed(c)]


def named(conditions: Sequence[str]) -> list[str]:
    """The literals in conditions, with the numbers and days next to those among them."""
    literals = [_unquoted(q) for c in conditions for q in _QUOTED.findall(c)]
    numbers = [n for c in conditions for n in _NUMBER.findall(c)]
    near = [n for number in numbers for n in _around(number)]
    near += [d for literal in literals for d in _days_around(literal)]
    if any(_NOW.search(c) for c in conditions):
        near += ["1901-01-01", "2100-01-01"]
    return _once([*literals, *near])


def patterned(conditions: Sequence[str]) -> list[str]:
    """Texts made from the regular expressions in conditions: dearer, so they come last."""
    found: list[str] = []
    for condition in conditions:
        for quoted in _QUOTED.findall(condition):
            literal = _unquoted(quoted)
            if "similar_to_escape" in condition:
                literal = literal.replace("%", ".*").replace("_", ".")
            if _REGEX.search(literal):
                found += _matching(literal)
    return _once(found)


def series(column: Column, conditions: Sequence[str]) -> list[str]:
    """Series (`samples.numbered`) that may be tried in a column."""
    if column.is_array:
        inside = _SERIES.get(column.type, ("a-{n}",) if column.type in _TEXTUAL else ())
        return [f"{{{{{s}}}}}" for s in inside]
    kind = column.type
    if kind.startswith("bit"):
        return [f"{{n:0{size}b}}" for size in range(3, 65)]
    if kind in _TEXTUAL:
        literals = [_unquoted(q) for c in conditions for q in _QUOTED.findall(c)]
        own = [s for literal in literals for s in _begun_with(literal)]
        numbers = [n for c in conditions for n in _NUMBER.findall(c)]
        sizes = [int(n) for n in numbers if n.isdigit() and 0 < int(n) <= _LENGTH_MAX]
        sized = [f"{{n:0{s + d}d}}" for s in sizes for d in (0, 1) if s + d >= 3]
        return [*_TEXT_SERIES, *own, *sized]
    bounded = [f"{n}{{n:02d}}" for c in conditions for n in _NUMBER.findall(c) if "." not in n]
    return [*_SERIES.get(kind, ()), *(bounded if kind in _SERIES and "int" in kind else ())]


def _once(found: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(t for t in found if "\0" not in t and len(t) <= _LENGTH_MAX))


def _unquoted(quoted: str) -> str:
    return quoted.replace("''", "'")


def _listed(condition: str) -> list[str]:
    found = re.search(r"ARRAY\[(.*?)\]", condition, re.DOTALL)
    return [_unquoted(q) for q in _QUOTED.findall(found[1])] if found else []


def _around(number: str) -> Iterator[str]:
    yield number
    if "." in number:
        return
    yield str(int(number) + 1)
    yield str(int(number) - 1)


def _days_around(literal: str) -> Iterator[str]:
    found = _DAY.match(literal)
    if found is None:
        return
    try:
        day = datetime.date.fromisoformat(found[1])
        for days in (1, -1):
            yield f"{day + datetime.timedelta(days=days)}{found[2]}"
    except (ValueError, OverflowError):
        return


def _of_length(numbers: Sequence[str]) -> Iterator[str]:
    for number in numbers:
        if number.isdigit() and int(number) <= _LENGTH_MAX:
            for size in (int(number), int(number) + 1, int(number) - 1):
                yield "a" * size
                yield "A" * size
                yield "1" * size


def _like(literal: str) -> Iterator[str]:
    if "%" in literal or "_" in literal:
        yield literal.replace("%", "a").replace("_", "a")
        yield literal.replace("%", "").replace("_", "1")
        yield literal.replace("%", "1").replace("_", "1")


def _begun_with(literal: str) -> Iterator[str]:
    """Series that go on from what a pattern begins with, as far as that is plain text."""
    begun = re.match(r"\^?\(?([\w:/.@+#-]*)", literal)
    stem = begun[1] if begun else ""
    if stem and not re.search(r"[*+?{]", stem):
        for rest in ("{n}", "-{n}", "{n:03d}", "{n:04d}", "{n:05d}", "{n:06d}", "{n:08d}", "{x}"):
            yield f"{stem}{rest}"


def _matching(pattern: str) -> list[str]:
    for name, members in _CLASSES.items():
        pattern = pattern.replace(f"[:{name}:]", members)
    pattern = re.sub(r"\\[mMy]", r"\\b", pattern)
    made: list[str] = []
    try:
        matching = st.from_regex(
            re.compile(pattern, re.ASCII),
            fullmatch=True,
            alphabet=st.characters(min_codepoint=32, max_codepoint=126),
        )

        @seed(0)
        @settings(
            max_examples=_PATTERN_EXAMPLES,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(matching)
        def draw(example: str) -> None:
            made.append(example)

        draw()
    except Exception:  # noqa: BLE001
        # It is no regular expression, or none that Python knows.
        return made
    return made


def _documents(literals: Sequence[str]) -> Iterator[str]:
    """Documents with the keys that conditions name."""
    fillings: tuple[Any, ...] = ("a", 1, True, [], ["a"], {}, None)
    for literal in literals:
        try:
            json.loads(literal)
            yield literal
        except ValueError:
            pass
    keys = [k for k in dict.fromkeys(literals) if re.fullmatch(r"[\w -]{1,60}", k)]
    for filling in fillings:
        for some in (keys, *([k] for k in keys)):
            yield json.dumps(dict.fromkeys(some, filling))
    for key in keys:
        for other in keys:
            yield json.dumps({key: other})
    yield from ('["a"]', "[1]", '"a"', "1", "true", "null", '[{"a":1}]')


def _array(*elements: str) -> str:
    quoted = ('"' + e.replace("\\", "\\\\").replace('"', '\\"') + '"' for e in elements)
    return "{" + ",".join(quoted) + "}"


def _ranges(kind: str, literals: Sequence[str]) -> list[str]:
    bounds = {
        "int": ("1", "2", "10"),
        "num": ("1", "2", "10"),
        "dat": ("2024-03-01", "2024-03-02", "2026-03-01"),
        "tst": ("2024-03-01 00:00:00+00", "2024-03-02 12:30:00+00", "2026-03-01 00:00:00+00"),
        "tsr": ("2024-03-01 00:00:00", "2024-03-02 12:30:00", "2026-03-01 00:00:00"),
        "tsm": ("2024-03-01 00:00:00", "2024-03-02 12:30:00", "2026-03-01 00:00:00"),
    }.get(kind[:3], ("1", "2", "a"))
    first, second, third = bounds
    found = [f"[{first},{second})", f"[{second},{third})", f"[{first},)", "empty", "(,)"]
    found += [f"[{literal},)" for literal in literals]
    return [f"{{{r}}}" for r in found] + ["{}"] if kind.endswith("multirange") else found
