"""What a session says of whom it acts for: settings, and the templates that their values come from.

In a template `{tenant}`, `{user}` and further names stand for what an actor says. Inside a JSON
document they are escaped as JSON is, so that no value can end the text that it stands in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from invariants.workload.operations import Actor

TENANT, USER = "tenant", "user"
_NAME = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?\Z", re.ASCII)


@dataclass(frozen=True)
class Templates:
    """The settings that a session makes, each with the template of its value."""

    settings: tuple[tuple[str, str], ...]

    @cached_property
    def names(self) -> frozenset[str]:
        """What the templates speak of: `tenant`, `user` and others."""
        return frozenset(n for _, template in self.settings for n in names_in(template))

    def values(self, actor: Actor) -> tuple[tuple[str, str], ...]:
        """The settings with the values that an actor gives them; none where it says nothing.

        An actor whose tenant is the empty text empties each setting as a whole, unless it says
        what else there is to say. A setting is left alone where nothing is known to put into it.
        """
        if actor.silent:
            return ()
        if actor.tenant == "" and not actor.said:
            return tuple((setting, "") for setting, _ in self.settings)
        known = {**({} if actor.tenant is None else {TENANT: actor.tenant}), **dict(actor.said)}
        return tuple(
            (setting, filled(template, known))
            for setting, template in self.settings
            if not (asked := names_in(template)) or asked & known.keys()
        )


def names_in(template: str) -> frozenset[str]:
    """The names that a template has places for."""
    return frozenset(_NAME.findall(template))


def filled(template: str, known: Mapping[str, str]) -> str:
    """The template with the values of names; a name without a value is empty."""
    if not _is_document(template):
        return _NAME.sub(lambda m: known.get(m[1], ""), template)
    made, position = "", 0
    for match in _NAME.finditer(template):
        made += template[position : match.start()]
        value = known.get(match[1], "")
        if _within_text(template[: match.start()]):
            made += json.dumps(value)[1:-1]
        else:
            made += value if _NUMBER.match(value) else json.dumps(value)
        position = match.end()
    return made + template[position:]


def _is_document(template: str) -> bool:
    """Whether the template is a JSON document once its places are filled."""
    if not template.lstrip().startswith(("{", "[")):
        return False
    try:
        # In a text a number is as good as any other value.
        return isinstance(json.loads(_NAME.sub("0", template)), dict | list)
    except ValueError:
        return False


def _within_text(before: str) -> bool:
    """Whether what comes next stands inside a JSON string."""
    inside = escaped = False
    for character in before:
        if escaped:
            escaped = False
        elif character == "\\":
            escaped = inside
        elif character == '"':
            inside = not inside
    return inside
