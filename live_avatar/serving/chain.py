"""What may be said of the services of a pipeline together.

Knows what services say of themselves; nothing of streams.
"""

from collections import Counter
from collections.abc import Sequence

from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo


def shared_devices(services: Sequence[ServiceInfo]) -> str:
    """Which services compute on one device, as a sentence; empty where each has its own."""
    warnings = []
    for device, count in Counter(service.device for service in services).items():
        if count > 1:
            names = ", ".join(service.name for service in services if service.device == device)
            warnings.append(f"device {device} is shared by {names}; allow_shared_devices permits that")
    return "; ".join(warnings)
