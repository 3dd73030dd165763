"""Resume handles: where in a session a stream goes on that takes the place of one that has ended.

A handle is signed like a session token and carries no right of its own: the token that belongs to it must come with it.
Knows cryptography; nothing of streams.
"""

import re
from dataclasses import dataclass

import grpc

from live_avatar.services.gateway.access.tokens import SessionTokens
from live_avatar.serving.errors import ServiceError

HANDLE_INVALID = "HANDLE_INVALID"
_SIGNED = b"live-avatar resume handle\n"
_FORM = re.compile(
    r"(?P<body>lah_(?P<key>[0-9a-f]{8})\.(?P<session>[0-9a-f]{1,64})\.(?P<stream>[0-9]{1,9})\.(?P<block>[0-9]{1,15}))"
    r"\.(?P<mac>[A-Za-z0-9_-]{43})"
)


@dataclass(frozen=True)
class ResumeHandle:
    """What a handle says."""

    session_id: str
    stream: int
    """Number of the stream that gave it away, from 1."""
    block: int
    """First block that the client may lack."""


class ResumeHandles:
    """Makes and checks handles.

    Args:
        tokens: of the same gateway; their keys sign handles too.
    """

    def __init__(self, tokens: SessionTokens) -> None:
        self._tokens = tokens

    def make(self, handle: ResumeHandle) -> str:
        """What the client receives."""
        body = f"lah_{self._tokens.key_name}.{handle.session_id}.{handle.stream}.{handle.block}"
        return f"{body}.{self._tokens.sign(_SIGNED, body)}"

    def check(self, text: str) -> ResumeHandle:
        """What ``text`` says; raises ServiceError UNAUTHENTICATED where no gateway of ours has made it."""
        parts = _FORM.fullmatch(text)
        if parts is None or not self._tokens.is_signed(_SIGNED, parts["body"], parts["key"], parts["mac"]):
            message = "the resume handle is not valid"
            raise ServiceError(grpc.StatusCode.UNAUTHENTICATED, HANDLE_INVALID, message, field="open.resume_handle")
        return ResumeHandle(parts["session"], int(parts["stream"]), int(parts["block"]))
