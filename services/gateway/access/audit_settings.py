"""Settings of the audit."""

from pydantic import Field

from live_avatar.serving.settings import Group

STDERR = "-"


class AuditSettings(Group):
    """Where the audit goes: one JSON line for each decision."""

    path: str = Field(
        default=STDERR,
        min_length=1,
        description="file that lines are appended to, opened again when it was moved away; -: stderr, beside the log",
    )
    stream: str = Field(
        default="",
        max_length=256,
        description="key of a Redis stream in the store that gets the lines too",
    )
    stream_length: int = Field(
        default=100_000, ge=100, le=100_000_000, description="lines that the stream keeps, about; older ones go"
    )
