"""Opens the server that a specification names, and decides what `auto` means here and now."""

from __future__ import annotations

import re

from invariants.errors import UsageError
from invariants.servers.base import Content, Say, Server

FORMS = "auto, container[:TAG], embedded[:MAJOR], or a postgresql:// URL"


def open_server(spec: str, content: Content, *, say: Say, cache: bool = True) -> Server:
    """Open the server `spec` names, with `content` in its template.

    Raises UsageError when `spec` is none of the forms, InfrastructureError when the server fails.
    """
    from invariants.servers.embedded import DEFAULT_MAJOR, open_embedded

    kind, _, detail = spec.partition(":")
    if kind == "embedded":
        if detail and not detail.isdigit():
            raise UsageError(f"--server {spec}: not a major version; for example embedded:18")
        major = int(detail) if detail else DEFAULT_MAJOR
        return open_embedded(major, content, reason="as asked for", say=say, use_cache=cache)
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
        return open_embedded(DEFAULT_MAJOR, content, reason=reason, say=say, use_cache=cache)
    if re.match(r"postgres(ql)?://", spec) or "=" in spec:
        from invariants.servers.url import open_url

        return open_url(spec, content, reason="as asked for", say=say)
    # A URL with a typo may still hold a password.
    shown = "that" if "://" in spec or "@" in spec else spec
    raise UsageError(f"--server {shown}: unknown; it is {FORMS}")
