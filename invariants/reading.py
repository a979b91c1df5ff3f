"""Files that people write, as typed data: what does not fit is said in one line, with its place.

msgspec does the fitting. This says where, in the words of whoever wrote the file, and refuses what
is too large, too deep, said twice or no text before anything looks at it.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import msgspec

from invariants.errors import UsageError

BYTES_MAX = 8 * 1024 * 1024
DEPTH_MAX = 200

Text = Annotated[str, msgspec.Meta(pattern="^[^\0\ud800-\udfff]*\\Z")]
"""Text that a server can be sent: no NUL, no half of a character."""

T = TypeVar("T")

_BARE = re.compile(r"[A-Za-z0-9_-]+\Z")
_STEP = re.compile(r"\.([^.\[\]`]+)|\[(\d+)\]|(\[\.\.\.\])")
_OPENING = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)
_HALVES = re.compile("[\ud800-\udfff]")
_SHOWN_MAX = 60


class Misfit(ValueError):
    """What does not fit: the place in the document, what is wrong there, and the remedy."""

    def __init__(self, place: str, what: str, remedy: str) -> None:
        said = f"{what}; {remedy}"
        super().__init__(f"{place}: {said}" if place else said)
        self.place, self.what, self.remedy = place, what, remedy

    def under(self, place: str) -> Misfit:
        """The same, of a document that is itself part of one."""
        return Misfit(joined(place, self.place), self.what, self.remedy)

    def of(self, path: Path) -> UsageError:
        """The line that the command ends with."""
        return UsageError(f"{path}: {self}")


def joined(*places: str) -> str:
    """A place in a document, from what leads to it."""
    made = ""
    for place in filter(None, places):
        made += place if not made or place.startswith("[") else f".{place}"
    return made


def key(name: str) -> str:
    """A key as it is written in a file: in quotes where it has to be."""
    return name if _BARE.match(name) else json.dumps(name)


def quoted(value: object) -> str:
    """A value for a message: on one line, and not for ever."""
    try:
        told = repr(value)
    except (RecursionError, ValueError):
        return "what stands there"
    return told if len(told) <= _SHOWN_MAX else told[: _SHOWN_MAX - 3] + ".."


def read_text(path: Path, unreadable: str) -> str:
    """The text of a file. `unreadable` is the remedy. Raises `UsageError`."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; {unreadable}") from None
    except OSError as error:
        said = error.strerror or type(error).__name__
        raise UsageError(f"{path}: cannot be read ({said}); {unreadable}") from None
    if len(data) > BYTES_MAX:
        raise UsageError(f"{path}: larger than {BYTES_MAX // 1024**2} MB; {unreadable}")
    return data.decode("utf-8-sig")


def read_toml(path: Path, unreadable: str) -> dict[str, Any]:
    """The document in a TOML file. Raises `UsageError`."""
    try:
        return tomllib.loads(read_text(path, unreadable))
    except RecursionError:
        raise UsageError(f"{path}: not valid TOML: nested too deep; mend it") from None
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{path}: not valid TOML: {_one_line(error)}; mend that line") from None


def read_json(path: Path, unreadable: str) -> Any:
    """The document in a JSON file. Raises `UsageError`, also for a key that is there twice."""
    try:
        text = read_text(path, unreadable)
        _check_depth(text)
        return json.loads(
            text, object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON: {_one_line(error)}; {unreadable}") from None


def fit(document: object, kind: type[T]) -> T:
    """The document as typed data. Raises `Misfit` for the first thing that does not fit."""
    try:
        _check_text(document, "")
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise _misfit(document, kind, str(error)) from None
    except RecursionError:
        raise Misfit("", "is nested too deep", "write less into one another") from None


def _check_text(value: object, place: str) -> None:
    """That there is no half of a character anywhere, which nothing could write or send."""
    if isinstance(value, str):
        if _HALVES.search(value):
            raise Misfit(place, f"{quoted(value)} holds what is no text", "take it out")
    elif isinstance(value, dict):
        for name, inner in value.items():
            _check_text(name, place)
            _check_text(inner, joined(place, key(name)))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _check_text(inner, f"{place}[{i}]")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _check_depth(text: str) -> None:
    depth = 0
    for found in _OPENING.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > DEPTH_MAX:
            raise ValueError(f"nested more than {DEPTH_MAX} deep")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(n for n in names if names.count(n) > 1)
        raise ValueError(f"the key {quoted(twice)} is there twice")
    return made


def _no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number of JSON")


def _finite(number: str) -> float:
    if not math.isfinite(float(number)):
        raise ValueError(f"{quoted(number)} is too large a number")
    return float(number)


def _misfit(document: object, kind: Any, error: str, under: str = "") -> Misfit:
    """Follow msgspec's path, which does not name the keys of open tables, and say what is there."""
    said, _, path = error.partition(" - at `")
    of_key = path.startswith("key` in `")
    path = path.removeprefix("key` in `").removeprefix("$").removesuffix("`")
    place, value, hint, outer = under, document, kind, kind
    for step in _STEP.finditer(path):
        outer, hint = hint, _chosen(value, hint)
        if step[1] is not None:
            assert isinstance(value, dict)
            place, value, hint = joined(place, key(step[1])), value[step[1]], _field(hint, step[1])
        elif step[2] is not None:
            assert isinstance(value, list | tuple)
            place += f"[{step[2]}]"
            value, hint = value[int(step[2])], _item(hint)
        else:
            assert isinstance(value, dict)
            # The first entry that does not fit; where all fit, it is one of their names.
            inner = _item(hint)
            name = next((n for n, v in value.items() if not _fits(v, inner)), None)
            if name is None:
                break
            place, value, hint = joined(place, key(name)), value[name], inner
            try:
                msgspec.convert(value, hint)
            except msgspec.ValidationError as found:
                return _misfit(value, hint, str(found), place)
    if of_key:
        return Misfit(place, "one of its keys is no name", "write names")
    if said.startswith("Invalid value"):  # of the key that says which kind of table it is
        tags = ", ".join(str(s.__struct_config__.tag) for s in _structs(outer))
        return Misfit(place, f"{quoted(value)} is not known", f"use one of: {tags}")
    return _worded(place, value, _chosen(value, hint), hint, said)


def _worded(place: str, value: object, hint: Any, whole: Any, said: str) -> Misfit:
    if unknown := re.match(r"Object contains unknown field `(.*)`", said, re.DOTALL):
        known = ", ".join(f.encode_name for f in msgspec.structs.fields(hint))
        if tag := hint.__struct_config__.tag_field:
            known = f"{tag}, {known}"
        return Misfit(joined(place, key(unknown[1])), "unknown key", f"use one of: {known}")
    if missing := re.match(r"Object missing required field `(.*)`", said):
        return Misfit(joined(place, key(missing[1])), "missing", "add this key")
    if said.startswith("Invalid enum value") or get_origin(hint) is Literal:
        listed = ", ".join(str(a) for a in get_args(hint))
        return Misfit(place, f"{quoted(value)} is not known", f"use one of: {listed}")
    expected = _expected(said)
    if "matching regex" in said:
        return Misfit(place, f"{quoted(value)} holds what is no text", "take it out")
    if expected == "str":
        return Misfit(place, f"{quoted(value)} is not a name", "write it in quotes")
    if expected == "array" and isinstance(value, list):
        return Misfit(place, "is empty", "name at least one, or remove it")
    if expected == "array":
        if _is_struct(_chosen(None, _item(hint))):
            return Misfit(place, "is not a list of tables", f"write [[{place}]]")
        nested = get_origin(_bare(_chosen(None, _item(hint)))) is tuple
        like = '[["a"], ["b"]]' if nested else '["a", "b"]'
        return Misfit(place, f"{quoted(value)} is not a list", f"write {like}")
    if expected.startswith("object"):
        return Misfit(place, "is not a table", f"write [{place}]" if place else "write { .. }")
    if expected == "bool":
        return Misfit(place, f"{quoted(value)} is not true or false", "write one")
    if set(expected.split(" | ")) <= {"float", "int"} and "float" in expected:
        return Misfit(place, f"{quoted(value)} is not a number", "write one")
    if expected.startswith("int"):
        least = _least(whole)
        of = "" if least is None else f" of at least {least}"
        return Misfit(place, f"is not a whole number{of}", f"for example {max(1, least or 0)}")
    return Misfit(place, f"{quoted(value)} does not fit", f"write one of: {expected or said}")


def _expected(said: str) -> str:
    found = re.match(r"Expected `([^`]*)`", said)
    return found[1].removesuffix(" | null") if found else ""


def _least(hint: Any) -> int | None:
    if get_origin(hint) is Annotated:
        bounds = [m.ge for m in hint.__metadata__ if isinstance(m, msgspec.Meta)]
        return next((int(b) for b in bounds if b is not None), None)
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return next((b for b in map(_least, parts) if b is not None), None)


def _fits(value: object, hint: Any) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _bare(hint: Any) -> Any:
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _parts(hint: Any) -> Iterable[Any]:
    hint = _bare(hint)
    if get_origin(hint) in (Union, UnionType):
        return [p for part in get_args(hint) for p in _parts(part)]
    return [hint]


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _structs(hint: Any) -> list[Any]:
    return [p for p in map(_bare, _parts(hint)) if _is_struct(p)]


def _chosen(value: object, hint: Any) -> Any:
    """Of several types the one that the value is meant to be."""
    parts = [_bare(p) for p in _parts(hint) if _bare(p) is not NoneType]
    structs = _structs(hint)
    if isinstance(value, dict) and structs:
        for struct in structs:
            config = struct.__struct_config__
            if config.tag_field is not None and value.get(config.tag_field) == config.tag:
                return struct
        return structs[0]
    return parts[0] if parts else Any


def _field(hint: Any, name: str) -> Any:
    if not _is_struct(hint):
        return _item(hint)
    hints = get_type_hints(hint, include_extras=True)
    names = {f.encode_name: f.name for f in msgspec.structs.fields(hint)}
    return hints.get(names.get(name, name), Any)


def _item(hint: Any) -> Any:
    arguments = [a for a in get_args(_chosen(None, hint)) if a is not Ellipsis]
    return arguments[-1] if arguments else Any
