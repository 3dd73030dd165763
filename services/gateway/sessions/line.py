"""A session on one pipeline in one epoch: what comes from there counts while the session is there.

Knows the session and the pipeline by their interfaces alone.
"""

from typing import Protocol

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.serving.errors import ServiceError


class LineOwner(Protocol):
    """A session; must neither wait nor raise."""

    def lose(self, line: "Line", error: ServiceError) -> None:
        """The pipeline has ended the session and freed it."""

    def receive_video(self, line: "Line", video: StreamVideoResponse.Video) -> None:
        """Frames of a block."""

    def receive_sink(self, line: "Line", data: bytes) -> None:
        """The model's own first latent, as a serialized Sink."""

    def receive_finished(self, line: "Line", piece: StreamVideoResponse.FinishedBlock) -> None:
        """A piece of a finished block."""


class Line:
    """See the module; the pipeline's ``Listener``.

    Args:
        owner: the session.
        pipeline: on which it has a slot.
        key: the session's id and this epoch.
    """

    def __init__(self, owner: LineOwner, pipeline: Pipeline, key: SessionKey) -> None:
        self._owner = owner
        self.pipeline = pipeline
        self.key = key
        self.lost: ServiceError | None = None
        """Why it is over, where the pipeline ended it."""

    def close(self) -> None:
        """Frees the session on the pipeline.  Idempotent; returns at once."""
        self.pipeline.close(self.key)

    def lose(self, error: ServiceError) -> None:
        """See ``Listener``."""
        self.lost = self.lost or error
        self._owner.lose(self, error)

    def receive_video(self, video: StreamVideoResponse.Video) -> None:
        """See ``Listener``."""
        self._owner.receive_video(self, video)

    def receive_sink(self, data: bytes) -> None:
        """See ``Listener``."""
        self._owner.receive_sink(self, data)

    def receive_finished(self, piece: StreamVideoResponse.FinishedBlock) -> None:
        """See ``Listener``."""
        self._owner.receive_finished(self, piece)
