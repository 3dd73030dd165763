"""Conditioning as it arrives: parts in, the body they make out.

Knows messages; what they mean is the business of the services.
"""

import grpc
from google.protobuf.message import DecodeError

from live_avatar.pipeline.v1.blocks_pb2 import ConditioningBody, StreamBlocksRequest
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.parts import PartJoiner


class ConditioningJoiner:
    """Joins the parts of one session's conditionings, one conditioning after the other."""

    def __init__(self) -> None:
        self._joiner = PartJoiner()

    def add(self, part: StreamBlocksRequest.ConditioningPart) -> ConditioningBody | None:
        """Takes the next part; returns the body after the last one, else None.

        Raises:
            ServiceError: a part out of order, too many bytes, or bytes that are no body.
        """
        data = self._joiner.add(part.part, part.part_count, part.data, part.from_block)
        if data is None:
            return None
        try:
            return ConditioningBody.FromString(data)
        except DecodeError as error:
            raise ServiceError(
                grpc.StatusCode.INVALID_ARGUMENT, "CONDITIONING_MALFORMED", "the joined parts are no conditioning"
            ) from error
