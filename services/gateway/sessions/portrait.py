"""The portrait of a session on its way down: encoded by the decoder, sent with the prompt before the first block.

Knows the order of messages on the hop.
"""

import grpc
from google.protobuf.message import DecodeError

from live_avatar.novelty import PORTRAIT_UNLIKE_TRAINING
from live_avatar.pipeline.v1.blocks_pb2 import Sink
from live_avatar.services.gateway.pipelines import messages
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.refusals import PRECONDITION
from live_avatar.services.gateway.sessions.attachment import Phase
from live_avatar.services.gateway.sessions.events import Event, EventKind
from live_avatar.services.gateway.sessions.line import Line
from live_avatar.services.gateway.sessions.session import Session
from live_avatar.services.gateway.waiting import run_until
from live_avatar.serving.errors import ServiceError, as_service_error
from live_avatar.serving.parts import conditioning_parts

CONDITION_S = 60.0
"""From a portrait to its sink, on the slowest device."""


async def condition(session: Session, image: bytes, timeout_s: float = CONDITION_S) -> None:
    """Encodes the portrait and sends it down with the prompt; whatever fails concerns that session and no other.

    Stops when the session is over: the portraits of those that are gone would keep later ones waiting.
    """
    session.conditioning.take_portrait(image)
    line = session.line
    sending = _send_portrait(session, line, timeout_s)
    error = await run_until(lambda: session.phase is Phase.OVER, session.changed, sending)
    if error is not None:
        session.lose(line, as_service_error(error))


async def encode_portrait(session: Session, pipeline: Pipeline, timeout_s: float = CONDITION_S) -> None:
    """Makes sink version 0 of the portrait, where it is not there; warns of a portrait that the weights do not know.

    Raises:
        ServiceError: the portrait cannot be used, or the pipeline failed.
    """
    conditioning = session.conditioning
    if conditioning.has_portrait:
        return
    request = messages.portrait_request(conditioning.portrait, session.config)
    encoded = await pipeline.encode_portrait(request, timeout_s)
    conditioning.portrait_encoded(parsed_sink(encoded.sink))
    novelty = encoded.novelty
    if novelty is not None and not novelty.is_familiar:
        problem = ServiceError(PRECONDITION, PORTRAIT_UNLIKE_TRAINING, novelty.message, novelty.metadata)
        session.events.add(Event(kind=EventKind.WARNING, problem=problem))


async def _send_portrait(session: Session, line: Line, timeout_s: float) -> None:
    await encode_portrait(session, line.pipeline, timeout_s)
    if not session.is_on(line):
        return
    body = session.conditioning.first_body()
    for part in conditioning_parts(line.key, 0, body.SerializeToString()):
        await line.pipeline.send(part)
    if session.is_on(line):
        session.conditioning.portrait_sent()
        session.changed.notify()


def parsed_sink(data: bytes) -> Sink:
    """A decoder's sink; raises ServiceError INTERNAL where it is none."""
    try:
        return Sink.FromString(data)
    except DecodeError as error:
        raise ServiceError(grpc.StatusCode.INTERNAL, "INTERNAL", "the decoder's sink is no sink") from error
