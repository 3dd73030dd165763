"""Opens a session that goes on: a pipeline gets what the session is conditioned on and its last finished blocks.

Knows the order of messages; what a session needs is its own to say.
"""

import time

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey, StreamBlocksRequest
from live_avatar.services.gateway.pipelines import messages
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.sessions.line import Line
from live_avatar.services.gateway.sessions.portrait import encode_portrait
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.serving.errors import stage_lost
from live_avatar.serving.parts import conditioning_parts


async def open_again(session: Session, pipeline: Pipeline) -> Line:
    """Opens a session on ``pipeline`` in the epoch of its record, and primes that for its next block.

    Blocks that are still on their way are waited for; the pipeline gets those before them meanwhile.

    Raises:
        ServiceError: the pipeline failed, or the session did; nothing is held on the pipeline then.
    """
    key = SessionKey(session_id=session.record.session_id, epoch=session.record.epoch)
    line, block = Line(session, pipeline, key), session.ledger.admitted
    first = session.finished_blocks.first_primed(block, session.ledger.in_flight)
    size = messages.generated_size(session.config.video)
    request = messages.open_request(key, session.config, size, first, block - first)
    try:
        await pipeline.open(request, line, finished_blocks=True)
        await encode_portrait(session, pipeline)
        await _prime(session, line, first, block)
        if line.lost is not None:
            raise line.lost
    except BaseException:
        line.close()
        raise
    return line


async def _prime(session: Session, line: Line, first: int, block: int) -> None:
    """Sends everything that blocks from ``first`` on are conditioned on, and the finished ones before ``block``."""
    for from_block, body in session.conditioning.bodies_since(first):
        for part in conditioning_parts(line.key, from_block, body.SerializeToString()):
            await line.pipeline.send(part)
    for index in range(first, block):
        message = await _finished(session, line.key, index)
        async with line.pipeline.slot(time.monotonic_ns()):
            await line.pipeline.send(message)


async def _finished(session: Session, key: SessionKey, index: int) -> StreamBlocksRequest:
    """Block ``index`` as what primes a pipeline, once it has come."""
    blocks, ledger = session.finished_blocks, session.ledger
    await session.wait_for(lambda: blocks.has(index) or not ledger.is_in_flight)
    if not blocks.has(index):
        raise stage_lost(f"the pipeline did not give block {index} back")
    return blocks.message(key, index, session.limits.block_deadline_seconds)
