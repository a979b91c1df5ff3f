"""Opens the server that a specification names, and decides what `auto` means here and now."""

from __future__ import annotations

import re
from collections.abc import Sequence

from invariants.errors import InfrastructureError, UsageError
from invariants.servers.base import Content, Say, Server

_MISSING = re.compile(r'extension "([^"]+)" is not available')
FORMS = "auto, container[:TAG], embedded[:MAJOR], or a postgresql:// URL"


def open_server(
    spec: str, content: Content, *, say: Say, cache: bool = True, disposable: bool = False
) -> Server:
    """Open the server `spec` names, with `content` in its template; patches are left to the caller.

    `disposable` says that all on the server of a URL may be altered.

    Raises UsageError when `spec` is none of the forms, InfrastructureError when the server fails.
    """
    from invariants.servers.binaries import MAJORS

    kind, _, detail = spec.partition(":")
    if kind == "embedded":
        if detail and not detail.isdigit():
            raise UsageError(f"--server {spec}: not a major version; for example embedded:18")
        if not detail:
            return _embedded(MAJORS, content, "as asked for", say, cache)
        return _embedded([int(detail)], content, "as asked for", say, cache)
    if kind == "container":
        from invariants.servers.container import DEFAULT_TAG, open_container

        return open_container(detail or DEFAULT_TAG, content, reason="as asked for", say=say)
    if spec == "auto":
        from invariants.servers.container import (
            DEFAULT_TAG,
            DockerUnusable,
            open_container,
            why_not,
        )

        reason = why_not(DEFAULT_TAG, say)
        if reason is None:
            why = "a Docker engine answers and has the image"
            try:
                return open_container(DEFAULT_TAG, content, reason=why, say=say)
            except DockerUnusable as error:
                say(str(error))
                reason = "a Docker engine answers but starts no container"
        return _embedded(MAJORS, content, reason, say, cache)
    if re.match(r"postgres(ql)?://", spec) or "=" in spec:
        from invariants.servers.url import open_url

        return open_url(spec, content, reason="as asked for", say=say, disposable=disposable)
    # A URL with a typo may still hold a password.
    shown = "that" if "://" in spec or "@" in spec else spec
    raise UsageError(f"--server {shown}: unknown; it is {FORMS}")


def _embedded(
    majors: Sequence[int], content: Content, reason: str, say: Say, cache: bool
) -> Server:
    """Open an embedded server of the first major that has all extensions which the schema needs.

    An extension that a server lacks shows when the schema asks for it.
    """
    from invariants.servers.binaries import having
    from invariants.servers.embedded import open_embedded

    major, lacking = majors[0], set[str]()
    while True:
        try:
            return open_embedded(major, content, reason=reason, say=say, use_cache=cache)
        except InfrastructureError as error:
            missing = _MISSING.search(str(error))
            if missing is None:
                raise
            extension = missing[1]
            lacking.add(extension)
            able = [b.major for b in having(extension) if lacking <= b.extensions]
            others = [m for m in able if m in majors]
            if not others:
                instead = [f"--server embedded:{m}" for m in able]
                raise InfrastructureError(
                    f"{error}; use {' or '.join((*instead, '--server container:IMAGE'))}, "
                    f"with {extension} in it"
                ) from None
            say(
                f"server: embedded PostgreSQL {major} has no extension {extension}; "
                f"taking {others[0]}, which has"
            )
            major = others[0]
