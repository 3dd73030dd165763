"""Records every call that changes something or is rejected in the audit.

Knows calls, callers and outcomes; nothing of where records go.
"""

import asyncio
import inspect
import re
from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass, replace
from typing import Any

import grpc
from google.protobuf.message import Message

from live_avatar.services.gateway.access.api_key import ApiKey
from live_avatar.services.gateway.access.audit import OK, Audit, AuditedCall, Decision, Value, set_audited_call
from live_avatar.services.gateway.access.authenticator import AUTHORIZATION
from live_avatar.services.gateway.access.caller import TENANT_PATTERN, current_caller
from live_avatar.services.gateway.access.failure_limit import peer_address
from live_avatar.services.gateway.access.methods import Rule, rule_of
from live_avatar.services.gateway.api.authentication import Continuation
from live_avatar.services.gateway.store.records import SessionRecord
from live_avatar.serving.errors import INTERNAL, ServiceError
from live_avatar.serving.handlers import Behaviour, Handler, with_behaviour

_READS = ("Get", "List")
"""Begin the names of RPCs that change nothing; of those only what is denied is recorded."""
_DENIALS = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.NOT_FOUND,
    }
)
_CANCELLED = "CANCELLED"
_FREQUENT = frozenset({"UpdateSession", "InterruptSession"})
_SESSION_ID = re.compile(r"[0-9a-f]{1,64}")
_KEY_ID = re.compile(r"[a-z0-9]{1,32}")
_MALFORMED = "(malformed)"
_FORMS = {"session_id": _SESSION_ID, "key_id": _KEY_ID, "tenant": re.compile(TENANT_PATTERN)}
"""Fields of requests and responses that are recorded, where they have the form that they should."""
_METHOD = re.compile(r"[A-Za-z0-9]{1,64}")


class AuditInterceptor(grpc.aio.ServerInterceptor):
    """Records calls; belongs before the interceptor that authenticates them.

    Args:
        audit: takes the records.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "Handler | None":
        """Wraps the handler of one call, but for those that are open to everybody."""
        handler = await continuation(handler_call_details)
        if handler is None or rule_of(handler_call_details.method) is Rule.OPEN:
            return handler
        return with_behaviour(handler, lambda behaviour: self._recorded(behaviour, handler_call_details))

    def _recorded(self, behaviour: Behaviour, details: grpc.HandlerCallDetails) -> Behaviour:
        async def answer(request: Any, context: Any) -> Any:
            call = _Call(self._audit, details, context.peer())
            with call:
                return call.answered(await behaviour(request, context))

        async def answers(request: Any, context: Any) -> AsyncIterator[Any]:
            with _Call(self._audit, details, context.peer()):
                async for response in behaviour(request, context):
                    yield response

        return answers if inspect.isasyncgenfunction(behaviour) else answer


class _Call:
    """The record of one call, written at its end."""

    def __init__(self, audit: Audit, details: grpc.HandlerCallDetails, peer: str) -> None:
        name = details.method.rpartition("/")[2]
        self._audit = audit
        self._action = name if _METHOD.fullmatch(name) else _MALFORMED
        self._metadata = details.invocation_metadata or ()
        self._peer = peer_address(peer)
        self._own = AuditedCall(self._record_message)
        self._response: object = None

    def __enter__(self) -> None:
        set_audited_call(self._own)

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if self._own.is_passed_on:
            return
        outcome = _outcome(error)
        if self._action.startswith(_READS) and outcome.code not in _DENIALS:
            return
        about = _about(self._own.request) | _about(self._response)
        session_id = str(about.pop("session_id", "")) or self._own.session_id
        decision = replace(self._decision(), session_id=session_id, about=about)
        code = outcome.code.name if outcome.code is not None else _CANCELLED
        decision = replace(decision, code=code, reason=outcome.reason)
        self._audit.record(decision, self._repeats(decision))

    def answered(self, response: Any) -> Any:
        """Takes note of the response of the call, and returns it."""
        self._response = response
        return response

    def _decision(self) -> Decision:
        caller = current_caller()
        if not caller.peer:  # no caller has been authenticated
            return Decision(action=self._action, key_id=_claimed_key(self._metadata), peer=self._peer)
        return Decision(action=self._action, tenant=caller.tenant, key_id=caller.key_id, peer=self._peer)

    def _record_message(self, message: str, session_id: str) -> None:
        decision = replace(self._decision(), action=f"{self._action}.{message}", session_id=session_id)
        self._audit.record(decision, (session_id, message))

    def _repeats(self, decision: Decision) -> Hashable:
        """Of failures those of one caller and one action with one reason; of successes those that a client may cause
        at will.  A key id counts where it is proven: who only claims one could fill the table with them.
        """
        if decision.code not in (OK, _CANCELLED):
            key_id = decision.key_id if decision.tenant else ""
            return self._peer, decision.tenant, key_id, self._action, decision.reason, self._own.session_id
        return (decision.session_id, self._action) if self._action in _FREQUENT else None


@dataclass(frozen=True)
class _Outcome:
    code: grpc.StatusCode | None
    """None: the caller left."""
    reason: str = ""


def _outcome(error: BaseException | None) -> _Outcome:
    if error is None:
        return _Outcome(grpc.StatusCode.OK)
    if isinstance(error, ServiceError):
        return _Outcome(error.code, error.reason)
    if isinstance(error, (asyncio.CancelledError, GeneratorExit, grpc.aio.BaseError)):
        return _Outcome(None)
    return _Outcome(grpc.StatusCode.INTERNAL, INTERNAL)


def _about(message: object) -> dict[str, Value]:
    """What a request or a response is about, without anything that people wrote."""
    if not isinstance(message, Message):
        return {}
    # By name, not by ListFields: that would copy a portrait to look at the name of its field.
    names = message.DESCRIPTOR.fields_by_name
    found: dict[str, Value] = {}
    for name, form in _FORMS.items():
        if name in names and (value := _field(message, name)):
            found[name] = value if form.fullmatch(value) else _MALFORMED
    for name in ("session", "api_key"):
        if name in names and message.HasField(name):
            found |= _about(_field(message, name))
    if "scopes" in names:
        scopes = [scope for scope in _field(message, "scopes")[:8] if re.fullmatch("[a-z]{1,16}", scope)]
        found |= {"scopes": scopes} if scopes else {}
    if "quotas" in names:
        found |= {field.name: int(number) for field, number in _field(message, "quotas").ListFields()}
    return found


def _field(message: Message, name: str) -> Any:
    return getattr(message, name)


def _claimed_key(metadata: Any) -> str:
    """The id of the API key that a call without a caller came with; ids are no secrets."""
    for name, value in metadata:
        if name.lower() == AUTHORIZATION and isinstance(value, str):
            try:
                return ApiKey.parse(value.partition(" ")[2].strip()).key_id
            except ValueError:
                return ""
    return ""


def session_ended(audit: Audit, session: SessionRecord, reason: str) -> None:
    """Records the end of a session, whatever ended it; key and tenant are those that created it."""
    audit.record(
        Decision(
            action="SessionEnded",
            tenant=session.tenant,
            key_id=session.key_id,
            session_id=session.session_id,
            reason=reason,
        )
    )
