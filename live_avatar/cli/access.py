"""How a command is trusted by a gateway, and how it trusts the gateway: what its options say.

Plain data.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Access:
    """Of one gateway."""

    ca: Path | None = None
    """Authority of its certificate; None: the public ones, where TLS is asked for."""
    api_key: str = field(default="", repr=False)
    """API key or token; empty: none."""
    insecure: bool = False
    """Send the key in plain text to other machines too."""
