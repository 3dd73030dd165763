"""Sessions' keys as keys of dictionaries, which messages cannot be."""

from live_avatar.pipeline.v1.blocks_pb2 import SessionKey


def key_name(key: SessionKey) -> tuple[str, int]:
    """Session id and epoch."""
    return key.session_id, key.epoch
