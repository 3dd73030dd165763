"""What a manifest says of media: who made it, with what, when, and which mark lies in the frames.

Plain data, as C2PA 2.4 names it; nothing of boxes, keys or files.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

GENERATOR = "live-avatar"
AI_SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's word for: created by a trained algorithm."""
MARK_ALGORITHM = "org.live-avatar.watermark.1"
"""Of ``live_avatar.watermark``; not in C2PA's list of soft binding algorithms."""
ACTIONS, SOFT_BINDING, GENERATION = "c2pa.actions.v2", "c2pa.soft-binding", "org.live-avatar.generation"


@dataclass(frozen=True, kw_only=True)
class MediaFacts:
    """What is known of a session's media; an empty text says nothing."""

    session_id: str
    model_digest: str = ""
    mark: str = ""
    """What the mark in the frames carries, from ``mark_value``; empty: the frames are not marked."""
    consent: str = ""
    """Reference to the consent of the person whose portrait it is."""


def mark_value(deployment: int, session: int) -> str:
    """A mark's deployment and session, 24 bits each, as 12 hexadecimal digits."""
    return f"{deployment:06x}{session:06x}"


def software_agent() -> dict[str, str]:
    """This program, as C2PA names what generates claims."""
    return {"name": GENERATOR, "version": version("live-avatar")}


def assertions(facts: MediaFacts, now: datetime | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Labels and contents of the assertions that say ``facts``, created ``now``."""
    when = (now or datetime.now(UTC)).strftime("%Y-%m-%dT%H:%M:%SZ")
    created = {
        "action": "c2pa.created",
        "when": when,
        "softwareAgent": software_agent(),
        "digitalSourceType": AI_SOURCE,
    }
    listed: list[tuple[str, dict[str, Any]]] = [(ACTIONS, {"actions": [created]})]
    if facts.mark:
        listed.append((SOFT_BINDING, {"alg": MARK_ALGORITHM, "blocks": [{"scope": {}, "value": facts.mark}]}))
    details = {"session_id": facts.session_id, "model_digest": facts.model_digest, "consent": facts.consent}
    listed.append((GENERATION, {name: value for name, value in details.items() if value}))
    return listed
