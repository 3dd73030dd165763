"""API keys as people hold them: ``la_<id>_<secret>``.

Knows their form and how they are hashed; nothing of where they are stored.
"""

import hashlib
import hmac
import re
import secrets
import string
from dataclasses import dataclass, field

PREFIX = "la_"
_ID_CHARACTERS = string.ascii_lowercase + string.digits
_ID_LENGTH = 16
_SECRET_BYTES = 32
_FORM = re.compile(r"la_(?P<key_id>[a-z0-9]{12,32})_(?P<secret>[A-Za-z0-9_-]{43,128})")
FORM = "la_<id>_<secret>: 12 to 32 of a-z and 0-9, then 43 to 128 of A-Z, a-z, 0-9, - and _"


@dataclass(frozen=True)
class ApiKey:
    """A whole key; its text is a secret and does not show in its representation."""

    key_id: str
    secret: str = field(repr=False)

    @classmethod
    def generate(cls) -> "ApiKey":
        """A new key with 256 random bits."""
        key_id = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(_ID_LENGTH))
        return cls(key_id, secrets.token_urlsafe(_SECRET_BYTES))

    @classmethod
    def parse(cls, text: str) -> "ApiKey":
        """From its text.

        Raises:
            ValueError: it has another form; the message does not repeat it.
        """
        parts = _FORM.fullmatch(text)
        if parts is None:
            raise ValueError(f"an API key has the form {FORM}")
        return cls(parts["key_id"], parts["secret"])

    @property
    def text(self) -> str:
        """What callers send."""
        return f"{PREFIX}{self.key_id}_{self.secret}"

    @property
    def digest(self) -> bytes:
        """SHA-256 of the secret: enough for 256 random bits, and fast enough for every call."""
        return hashlib.sha256(self.secret.encode()).digest()

    def matches(self, digest: bytes) -> bool:
        """Whether ``digest`` is of this key's secret, in a time that does not depend on either."""
        return hmac.compare_digest(self.digest, digest)
