"""What a session's record says about the origin of its media.

Joins pipeline and key; nothing of streams.
"""

from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.provenance.signing import MediaSigning, media_facts
from live_avatar.v1 import avatar_service_pb2 as api


async def provenance_of(session_id: str, pipeline: Pipeline, signing: MediaSigning | None) -> bytes:
    """A serialized ``Session.Provenance`` of media that ``pipeline`` makes; raises ServiceError SIGNING_FAILED."""
    result = api.Session.Provenance(
        model_digest=pipeline.model_digest, watermark_deployment=pipeline.watermark_deployment
    )
    if signing is not None:
        record = await signing.record(media_facts(session_id, result))
        result.MergeFrom(api.Session.Provenance(signed_record=record))
    return result.SerializeToString()
