"""What is wrong with an encrypted line, from the words in which gRPC reports that nobody was reached.

gRPC has one status for all that keeps a call from its server.  Knows its texts; nothing of calls.
"""

from collections.abc import Mapping

_UNREACHED = "failed to connect to all addresses"
_FAULTS: Mapping[str, str] = {
    "Hostname Verification Check failed": "the certificate of the server is not for the name by which it was called",
    "is not in peer certificate": "the certificate of the server is not for the name by which it was called",
    "certificate has expired": "the certificate of the server has expired",
    "certificate is not yet valid": "the certificate of the server is not valid yet",
    "CERTIFICATE_VERIFY_FAILED": "the certificate of the server is by no authority that is trusted here",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS",
    "handshake failed": "the TLS handshake failed",
}
"""By what a text contains, the more exact ones first."""
_CLOSED = ("Socket closed", "Connection reset by peer")


def tls_fault(text: str) -> str:
    """What about TLS kept a call from its server, as a sentence; empty where nothing points to it.

    A server that wants TLS, or a certificate of the client, closes a line that brings none, without a word.
    """
    if _UNREACHED not in text:
        return ""
    for sign, fault in _FAULTS.items():
        if sign in text:
            return fault
    if any(sign in text for sign in _CLOSED):
        return "the server closed the connection at once, as one does that wants TLS or a certificate of the client"
    return ""
