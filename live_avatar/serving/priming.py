"""How a session that goes on from finished blocks begins: which of its blocks are primed, and how they come back.

Knows messages and indices; knows nothing of latents.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo, StreamBlocksRequest
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.serving.errors import ServiceError
from live_avatar.serving.parts import cut
from live_avatar.serving.timing import PRIMING_VERSION

MAX_FIRST_BLOCK = 2**32
"""Sixty years of blocks: every position in a session stays far from the end of its integers."""


@dataclass(frozen=True)
class Priming:
    """Which blocks of a session are finished ones."""

    first_block: int = 0
    """The first block that comes."""
    next_block: int = 0
    """The first block that is generated; those before it are primed."""

    @classmethod
    def of(cls, request: StreamBlocksRequest.Open, window_blocks: int) -> "Priming":
        """What ``request`` announces.

        Raises:
            ServiceError: PRIMING_INVALID where no window of ``window_blocks`` blocks can be filled like that.
        """
        first, count = request.first_block, request.primed_blocks
        if count > window_blocks:
            raise _invalid(f"{count} blocks are to be primed, a window holds {window_blocks}", "primed_blocks")
        if first > MAX_FIRST_BLOCK or (first and not count):
            raise _invalid(f"a session cannot go on from block {first} with {count} primed blocks", "first_block")
        return cls(first, first + count)

    def check(self, block: StreamBlocksRequest.Block, due: int) -> None:
        """Checks that ``block`` is the one that is ``due``, finished where it must be and only there.

        Raises:
            ServiceError: MESSAGE_OUT_OF_ORDER.
        """
        if block.index != due:
            raise _out_of_order(f"block {block.index} came where block {due} was due")
        if block.prime != (due < self.next_block):
            raise _out_of_order(
                f"block {due} came {'' if block.prime else 'un'}finished; "
                f"those from {self.first_block} to before {self.next_block} are finished ones"
            )


def check_chain(request: StreamBlocksRequest.Open, services: Sequence[ServiceInfo]) -> None:
    """Checks that all ``services`` can prime, where ``request`` asks for it.

    Raises:
        ServiceError: PROTOCOL_VERSION.
    """
    for service in services if request.primed_blocks else ():
        if service.protocol_version < PRIMING_VERSION:
            message = f"{service.name} speaks protocol {service.protocol_version} and cannot go on with a session"
            raise ServiceError(grpc.StatusCode.FAILED_PRECONDITION, "PROTOCOL_VERSION", message)


def finished_block(block: StreamBlocksRequest.Block) -> Sequence[StreamVideoResponse]:
    """The messages that give the finished ``block`` to the gateway, in the order in which to send them."""
    kept = StreamBlocksRequest.Block(
        index=block.index, audio=block.audio, latent=block.latent, idle=block.idle, prime=True
    )
    pieces = cut(kept.SerializeToString())
    return [
        StreamVideoResponse(
            finished_block=StreamVideoResponse.FinishedBlock(
                key=block.key, block_index=block.index, part=part, part_count=len(pieces), data=piece
            )
        )
        for part, piece in enumerate(pieces)
    ]


def _invalid(message: str, field: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "PRIMING_INVALID", message, field=field)


def _out_of_order(message: str) -> ServiceError:
    return ServiceError(grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_OUT_OF_ORDER", message)
