"""What a session has that any pipeline can go on from, beside its sound: its last finished blocks.

Knows messages of the decoder and indexes; nothing of pipelines or sessions.
"""

from collections import OrderedDict
from collections.abc import Mapping

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest
from live_avatar.pipeline.v1.vae_decoder_service_pb2 import StreamVideoResponse
from live_avatar.serving.parts import PartJoiner

MAX_BLOCK_BYTES = 16 << 20
"""Of one finished block; those of the 14B system have 0.6 MB."""
_SPARE_BLOCKS = 4
"""Blocks beyond a window: those that are finished before the video of an earlier one has come as a whole."""


class FinishedBlocks:
    """The newest finished blocks of a session, serialized; older ones are forgotten.

    Args:
        window_blocks: blocks that a pipeline is primed with at most.
        most_ahead: blocks that may have come and are not delivered.
    """

    def __init__(self, window_blocks: int, most_ahead: int = 0) -> None:
        self._most = window_blocks + _SPARE_BLOCKS + most_ahead
        self._window_blocks = window_blocks
        self._joiner = PartJoiner(MAX_BLOCK_BYTES)
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def receive(self, piece: StreamVideoResponse.FinishedBlock) -> None:
        """Takes a piece of a block.

        Raises:
            ServiceError: pieces come out of order, or a block is too large.
        """
        data = self._joiner.add(piece.part, piece.part_count, piece.data, piece.block_index)
        if data is None:
            return
        self._blocks[piece.block_index] = data
        if len(self._blocks) > self._most:
            self._blocks.popitem(last=False)

    def restore(self, blocks: Mapping[int, bytes]) -> None:
        """Takes whole blocks, as ``data`` gives them."""
        self._blocks = OrderedDict(sorted(blocks.items()))

    def data(self, index: int) -> bytes:
        """Block ``index`` as it came; empty where it is not there."""
        return self._blocks.get(index, b"")

    def rewind(self, next_block: int) -> None:
        """Forgets the blocks from ``next_block`` on: they are made again."""
        self._joiner = PartJoiner(MAX_BLOCK_BYTES)
        for index in [index for index in self._blocks if index >= next_block]:
            del self._blocks[index]

    def count_before(self, next_block: int) -> int:
        """How many blocks without a gap end before ``next_block``, at most those of a window."""
        count = 0
        while count < self._window_blocks and next_block - count - 1 in self._blocks:
            count += 1
        return count

    def has(self, index: int) -> bool:
        """Block ``index`` has come as a whole, and is not forgotten."""
        return index in self._blocks

    def first_primed(self, next_block: int, coming: int = 0) -> int:
        """The first block that a pipeline which goes on at ``next_block`` is primed with; that one itself: none is.

        Args:
            next_block: the first that is generated.
            coming: blocks right before it that are still on their way.
        """
        count = coming + self.count_before(next_block - coming)
        return next_block - min(count, self._window_blocks)

    def message(self, key: SessionKey, index: int, deadline_s: int) -> StreamBlocksRequest:
        """Block ``index``, which has come, as what primes a pipeline."""
        block = StreamBlocksRequest.Block.FromString(self._blocks[index])
        block.key.CopyFrom(key)
        block.budget.FromSeconds(deadline_s)
        return StreamBlocksRequest(block=block)
