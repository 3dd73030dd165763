"""Every reason of an error that a program can read, with what it means and what the caller does about it.

The table behind docs/reference/api.md; a test finds reasons that are raised and not listed here.  Plain data: imports
nothing of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Audience(Enum):
    """Who meets a reason."""

    CLIENT = "client"
    """Callers of the public API."""
    OPERATOR = "operator"
    """Services of a pipeline among themselves."""
    SDK = "sdk"
    """Programs that use the Python client, which raises it itself."""


@dataclass(frozen=True)
class Reason:
    """One row of the table."""

    codes: tuple[str, ...]
    """gRPC status codes it comes with."""
    meaning: str
    remedy: str
    audience: Audience = Audience.CLIENT


_INVALID = ("INVALID_ARGUMENT",)
_PRECONDITION = ("FAILED_PRECONDITION",)
_UNAUTHENTICATED = ("UNAUTHENTICATED",)
_DENIED = ("PERMISSION_DENIED",)
_EXHAUSTED = ("RESOURCE_EXHAUSTED",)
_DEGRADED = ("DEADLINE_EXCEEDED", "OK")
_UNAVAILABLE = ("UNAVAILABLE",)
_FIX = "correct the request; `GetServerInfo` publishes the limits"
_WAIT = "wait as long as `RetryInfo` says, then call again"
_AGAIN = "create a new session"
_REPORT = "report it: the services disagree about the protocol"

REASONS: Mapping[str, Reason] = {
    "API_KEY_NOT_FOUND": Reason(("NOT_FOUND",), "there is no such API key, or it is another tenant's", "list the keys"),
    "AUDIO_FORMAT_UNSUPPORTED": Reason(_INVALID, "encoding, rate, channels or size of the audio is not accepted", _FIX),
    "AUDIO_QUEUE_FULL": Reason(_EXHAUSTED, "too much audio is queued", "send audio no faster than it is played"),
    "AUDIO_STARVED": Reason(
        _DEGRADED, "speech of a live session does not arrive in time; a warning of an event", "send speech earlier"
    ),
    "AUDIO_TOO_LONG": Reason(
        _EXHAUSTED, "a recording that is to be encoded as a whole is longer than the limit", "use `LISTENING_STREAMING`"
    ),
    "AUDIO_TOO_SHORT": Reason(_INVALID, "the recording is shorter than one frame", "send more audio"),
    "BLOCK_DEADLINE": Reason(
        ("DEADLINE_EXCEEDED",),
        "a block took longer than the installation allows",
        "create a new session; if it repeats, the pipeline is overloaded or stuck",
    ),
    "BLOCK_OUT_OF_RANGE": Reason(_INVALID, "a block that the gateway has not sent yet", _FIX),
    "CAPACITY_EXHAUSTED": Reason(_EXHAUSTED, "all slots are taken, or the device is busy", _WAIT),
    "CLIENT_GONE": Reason(
        ("OK", "FAILED_PRECONDITION"),
        "the client cancelled its stream or vanished, and did not resume it in time; an `end_reason` of `Session`",
        _AGAIN,
    ),
    "CLIENT_SLOW": Reason(
        _DEGRADED, "finished live video is not read in time; a warning of an event", "read faster and grant credits"
    ),
    "CREATE_FAILED": Reason(
        ("ABORTED",), "the session ended during its creation, or its creation takes too long", _WAIT
    ),
    "CREDIT_OUT_OF_RANGE": Reason(_INVALID, "more video units were granted than allowed", _FIX),
    "CREDENTIAL_EXPIRED": Reason(_UNAUTHENTICATED, "the API key or token has expired", "use a new one"),
    "CREDENTIAL_INVALID": Reason(
        _UNAUTHENTICATED,
        "the API key or token is malformed, unknown or wrong, or `authorization` is there several times",
        "send a valid one, as `authorization: Bearer KEY`",
    ),
    "CREDENTIAL_MISSING": Reason(
        _UNAUTHENTICATED, "the call has no credential", "send one, as `authorization: Bearer KEY`"
    ),
    "DEADLINE": Reason(("DEADLINE_EXCEEDED",), "a call without a deadline took longer than the default", "call again"),
    "DRAINING": Reason(
        _UNAVAILABLE,
        "this server is shutting down: it accepts no new sessions, and ends what still runs; also the cause of a "
        "`KIND_DISCONTINUITY` where the session left its pipeline before that ended",
        _WAIT,
    ),
    "DUPLICATE_OPEN": Reason(_PRECONDITION, "the session's stream is open already", "use the stream that is open"),
    "DURATION_OUT_OF_RANGE": Reason(_INVALID, "a duration is negative, malformed or over its limit", _FIX),
    "ENUM_UNKNOWN": Reason(_INVALID, "a number that is no value of the enum in this version", _FIX),
    "FIT_UNSUPPORTED": Reason(_INVALID, "an unknown way of fitting the portrait", _FIX),
    "GATEWAY_LOST": Reason(
        ("UNAVAILABLE", "OK"),
        "the gateway that holds the session does not answer; also an `end_reason` of `Session`",
        "resume the stream; " + _WAIT,
    ),
    "HANDLE_EXPIRED": Reason(
        _PRECONDITION, "the resume handle is from before what the gateway keeps", "use the newest handle"
    ),
    "HANDLE_FOREIGN": Reason(_PRECONDITION, "the resume handle belongs to another session", "use the session's own"),
    "HANDLE_INVALID": Reason(
        _UNAUTHENTICATED, "the resume handle is not one that the gateway has made", "use the newest handle"
    ),
    "HANDLE_USED": Reason(
        _PRECONDITION,
        "a newer stream of the session is open or was resumed, and its client has received the answer",
        "use the newest handle",
    ),
    "IDLE": Reason(_PRECONDITION, "nothing happened for the idle timeout; also announced by `GoAway`", _AGAIN),
    "IMAGE_TOO_LARGE": Reason(_INVALID, "the portrait has too many bytes or pixels", _FIX),
    "IMAGE_TOO_SLOW": Reason(_INVALID, "the portrait takes too long to decode", "save it again, or smaller"),
    "IMAGE_UNREADABLE": Reason(
        _INVALID,
        "the portrait is no still image of an accepted format, or it is damaged",
        "send JPEG, PNG, WebP, HEIC or AVIF",
    ),
    "INTERNAL": Reason(("INTERNAL",), "a fault of the server", "create a new session and report it"),
    "ISSUER_UNAVAILABLE": Reason(
        _UNAVAILABLE, "the token cannot be checked because the OIDC issuer does not answer", _WAIT
    ),
    "KEY_REVOKED": Reason(_UNAUTHENTICATED, "the API key was revoked", "use another key"),
    "KV_MEMORY_EXHAUSTED": Reason(_EXHAUSTED, "no memory is left for another session", _WAIT),
    "LEASE_LOST": Reason(("ABORTED",), "another gateway has taken or ended the session", _AGAIN),
    "MAX_DURATION": Reason(_PRECONDITION, "the session reached its longest duration; announced by `GoAway`", _AGAIN),
    "MESSAGE_MALFORMED": Reason(
        _INVALID, "bytes that cannot be parsed as a message of this call, or a message without payload", _FIX
    ),
    "MESSAGE_TOO_LARGE": Reason(
        _EXHAUSTED, "a message has more bytes than allowed; `max_message_bytes` in the metadata", _FIX
    ),
    "MESSAGE_OUT_OF_ORDER": Reason(_INVALID, "a message in the wrong order, or samples with a gap", _FIX),
    "LIST_TOO_LONG": Reason(_INVALID, "a list has too many entries", _FIX),
    "METHOD_DENIED": Reason(_DENIED, "a method without a rule of access", "nothing"),
    "NAME_TOO_LONG": Reason(_INVALID, "an id, a name or a token is too long", _FIX),
    "NAME_UNPRINTABLE": Reason(_INVALID, "a name has characters that cannot be printed", _FIX),
    "NOT_LIVE": Reason(
        ("FAILED_PRECONDITION", "INVALID_ARGUMENT"), "the call needs live delivery, or cannot be used with it", _FIX
    ),
    "NOT_YET_SERVED": Reason(
        ("UNIMPLEMENTED",), "a part of the contract that this version does not serve", "leave it out"
    ),
    "OPEN_MISSING": Reason(
        ("DEADLINE_EXCEEDED",), "the stream did not begin with `open` in time", "send `open` at once"
    ),
    "PAGE_SIZE_OUT_OF_RANGE": Reason(_INVALID, "a page size that is negative", _FIX),
    "PAGE_TOKEN_INVALID": Reason(_INVALID, "a page token that no response contained", "begin at the first page"),
    "PIPELINE_SLOW": Reason(
        _DEGRADED,
        "live video is later than it is due; a warning of an event",
        "nothing, or a smaller load: `service` names the slowest service",
    ),
    "PORTRAIT_UNLIKE_TRAINING": Reason(
        _PRECONDITION,
        "the weights were trained on other portraits, so the video shows a smear; a warning of an event",
        "a portrait as the message describes it, or weights trained on images like this one",
    ),
    "PROMPT_TOO_LONG": Reason(_INVALID, "the prompt has too many characters", _FIX),
    "QUOTA_UNKNOWN": Reason(_INVALID, "a quota that does not exist, or a number beyond its range", _FIX),
    "REQUEST_ID_REUSED": Reason(("ALREADY_EXISTS",), "the request id was used for another request", "use a fresh id"),
    "SCOPES_INVALID": Reason(_INVALID, "a scope that does not exist, or none at all", _FIX),
    "SCOPE_MISSING": Reason(
        _DENIED, "the caller's credential does not have the scope that the call needs", "use a key with that scope"
    ),
    "SESSION_CLOSED": Reason(("ABORTED",), "a caller closed the session", "nothing"),
    "SESSION_EXPIRED": Reason(
        _PRECONDITION, "the session has ended; the metadata `cause` may say `IDLE` or `MAX_DURATION`", _AGAIN
    ),
    "SESSION_NOT_FOUND": Reason(("NOT_FOUND",), "there is no such session", _AGAIN),
    "SIZE_UNSUPPORTED": Reason(_INVALID, "frames of this size are not served", _FIX),
    "SIGNING_FAILED": Reason(
        _UNAVAILABLE,
        "the gateway's key could not sign the media, so they are not sent",
        "create a new session; the operator checks the signing key or its service",
    ),
    "SLOW_CONSUMER": Reason(_EXHAUSTED, "finished video waited too long", "read faster and grant credits"),
    "STAGE_LOST": Reason(_UNAVAILABLE, "a service of the pipeline is lost or not ready", _WAIT),
    "STORE_LOST": Reason(
        ("UNAVAILABLE", "ABORTED"),
        "the store of sessions does not answer; ABORTED if a running session ended because of it",
        _WAIT,
    ),
    "STORE_REFUSED": Reason(
        _UNAVAILABLE,
        "the store of sessions refuses the server or its writes: password, rights, a replica, no memory, no disk",
        "notify the operator; see the server's log",
    ),
    "STREAM_NOT_OPEN": Reason(_PRECONDITION, "the session's stream is not open yet", "open the stream first"),
    "TENANT_FORBIDDEN": Reason(
        _DENIED,
        "the request names a tenant that is not the caller's, or the caller's token names none",
        "leave `tenant` empty; let the OIDC issuer put the tenant into its tokens",
    ),
    "TENANT_INVALID": Reason(_INVALID, "no name that a tenant can have", "use 1 to 63 of a-z, 0-9 and `-`"),
    "STREAM_REPLACED": Reason(
        ("ABORTED",), "another stream of the session was opened with a resume handle", "use the newer stream"
    ),
    "TENANT_QUOTA": Reason(
        _EXHAUSTED,
        "a quota of the tenant is used up, or the request asks for more than it allows; `QuotaFailure` names it; "
        "announced by `GoAway` to sessions that run",
        "wait as long as `RetryInfo` says; where there is none, ask for less or ask the operator for more",
    ),
    "TOKEN_EXPIRED": Reason(_UNAUTHENTICATED, "the session token has expired with its session", _AGAIN),
    "TOKEN_INVALID": Reason(
        _UNAUTHENTICATED,
        "the session token is malformed, or signed with a key that the gateway does not have",
        "use the token of `CreateSession`; give all gateways one `token_key`",
    ),
    "TOO_MANY_CALLS": Reason(
        _EXHAUSTED,
        "too many calls of one session wait, or one caller has too many in progress or begins too many per second",
        _WAIT,
    ),
    "TOO_MANY_FAILURES": Reason(
        _EXHAUSTED, "too many credentials from the caller's network address were not valid", _WAIT
    ),
    "TOO_MANY_KEYS": Reason(_EXHAUSTED, "the tenant has as many API keys that work as it may", "revoke some"),
    "TOO_MANY_STREAMS": Reason(_EXHAUSTED, "too many streams wait for their open, or of a kind are open", _WAIT),
    "UPDATE_EMPTY": Reason(_INVALID, "the update's mask names nothing", _FIX),
    "UTTERANCE_OVER": Reason(
        _PRECONDITION,
        "further speech of an interrupted utterance is dropped; a warning of an event",
        "begin a new utterance with `sample_offset` 0 or a new `utterance_id`",
    ),
    "VIDEO_FORMAT_UNSUPPORTED": Reason(_INVALID, "encoding, bitrate or size of the video is not served", _FIX),
    # Between services.
    "AUDIO_MALFORMED": Reason(_INVALID, "audio that is no whole number of samples", _REPORT, Audience.OPERATOR),
    "AUDIO_MISSING": Reason(_PRECONDITION, "a block came before its audio", _REPORT, Audience.OPERATOR),
    "AUDIO_TOO_FAST": Reason(_EXHAUSTED, "audio came further ahead than may be", _REPORT, Audience.OPERATOR),
    "CONDITIONING_MALFORMED": Reason(_INVALID, "conditioning that cannot be read", _REPORT, Audience.OPERATOR),
    "CONDITIONING_MISSING": Reason(_PRECONDITION, "a block came before its conditioning", _REPORT, Audience.OPERATOR),
    "CONDITIONING_TOO_LARGE": Reason(_INVALID, "conditioning of too many bytes", _REPORT, Audience.OPERATOR),
    "CREDITS_EXCEEDED": Reason(_EXHAUSTED, "a block came without a credit", _REPORT, Audience.OPERATOR),
    "DUPLICATE_HELLO": Reason(_INVALID, "a second hello on one stream", _REPORT, Audience.OPERATOR),
    "HELLO_MISSING": Reason(
        ("INVALID_ARGUMENT", "DEADLINE_EXCEEDED"), "a stream that does not begin with hello", _REPORT, Audience.OPERATOR
    ),
    "MODEL_MISMATCH": Reason(
        _PRECONDITION, "neighbours hold different weights", "give all services the same weights", Audience.OPERATOR
    ),
    "PEER_LOST": Reason(_UNAVAILABLE, "a neighbour is silent or gone", "it reconnects by itself", Audience.OPERATOR),
    "PEER_NAME_FORBIDDEN": Reason(
        _DENIED,
        "the certificate of the calling service has none of the names in `server.tls.allowed_names`",
        "give the caller a certificate with one of them",
        Audience.OPERATOR,
    ),
    "PRIMING_INVALID": Reason(
        _INVALID, "a session cannot go on from the blocks that were announced", _REPORT, Audience.OPERATOR
    ),
    "PROTOCOL_VERSION": Reason(
        _PRECONDITION,
        "neighbours whose versions are further apart than one, or an older one that cannot go on with a session",
        "give all services the same version",
        Audience.OPERATOR,
    ),
    "SESSION_KEY_MALFORMED": Reason(_INVALID, "a session key that is empty or too long", _REPORT, Audience.OPERATOR),
    "SESSION_MOVED": Reason(
        _UNAVAILABLE,
        "a gateway passed a call on to one that does not hold the session any more",
        "it looks again by itself",
        Audience.OPERATOR,
    ),
    "STALE_EPOCH": Reason(
        ("ABORTED",), "a later holder of the session has taken over", "the older holder gives up", Audience.OPERATOR
    ),
    "TENSOR_MALFORMED": Reason(_INVALID, "a tensor of another shape or type", _REPORT, Audience.OPERATOR),
    "VIDEO_UNCLAIMED": Reason(_PRECONDITION, "no gateway takes the session's video", _REPORT, Audience.OPERATOR),
    # Of the Python client.
    "PROTOCOL": Reason(
        ("INTERNAL",), "the server's first answer is not the one expected", "check the address", Audience.SDK
    ),
    "SERVER_SILENT": Reason(
        ("DEADLINE_EXCEEDED",), "nothing came from the server for a long time", _AGAIN, Audience.SDK
    ),
    "STREAM_ENDED": Reason(_PRECONDITION, "the stream has ended", "open another session", Audience.SDK),
    "TLS_FAILED": Reason(
        _UNAVAILABLE,
        "no encrypted line: the certificate is not trusted, expired or of another name, or one side does not speak TLS",
        "give the credentials of the installation's authority; see docs/guides/access.md",
        Audience.SDK,
    ),
}
