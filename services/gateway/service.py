"""The gateway from its settings: store, pipelines, sessions.

Composes; knows nothing else.
"""

import asyncio
import secrets
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from typing import Any

import grpc
import structlog
from redis.asyncio import Redis

from live_avatar.config import PRESETS, Preset, preset
from live_avatar.services.gateway.access.audit_log import AuditLog
from live_avatar.services.gateway.access.choice import Access, open_access
from live_avatar.services.gateway.access.tokens import SessionTokens
from live_avatar.services.gateway.api.admin import AdminServicer
from live_avatar.services.gateway.api.auditing import AuditInterceptor, session_ended
from live_avatar.services.gateway.api.authentication import AuthenticationInterceptor
from live_avatar.services.gateway.api.call_limit import CallLimitInterceptor
from live_avatar.services.gateway.api.call_rate import CallRateInterceptor
from live_avatar.services.gateway.api.late_requests import LateRequestInterceptor
from live_avatar.services.gateway.api.servicer import AvatarServicer
from live_avatar.services.gateway.api.usage_servicer import UsageServicer
from live_avatar.services.gateway.discovery.choice import open_discovery
from live_avatar.services.gateway.discovery.source import Address
from live_avatar.services.gateway.election.choice import open_election
from live_avatar.services.gateway.election.leader import LeaderElection
from live_avatar.services.gateway.pipelines.fleet import Fleet
from live_avatar.services.gateway.pipelines.pipeline import Pipeline
from live_avatar.services.gateway.provenance.signing import open_signing
from live_avatar.services.gateway.relay.holders import Holders
from live_avatar.services.gateway.relay.interceptor import ElsewhereInterceptor
from live_avatar.services.gateway.relay.listener import RelayListener
from live_avatar.services.gateway.relay.relayed import NotHeldHereInterceptor, RelayedCallInterceptor
from live_avatar.services.gateway.sessions.manager import SessionManager
from live_avatar.services.gateway.sessions.policy import SessionPolicy
from live_avatar.services.gateway.settings import GatewaySettings
from live_avatar.services.gateway.store.points import RecoveryPoints
from live_avatar.services.gateway.store.posting import PostingCursor
from live_avatar.services.gateway.store.redis_access import IN_MEMORY, connect
from live_avatar.services.gateway.store.store import SessionStore
from live_avatar.services.gateway.store.usage import UsageLog
from live_avatar.serving.server import Service
from live_avatar.serving.telemetry import Telemetry
from live_avatar.serving.timing import HopTiming
from live_avatar.serving.tls import ClientTls
from live_avatar.v1 import admin_service_pb2, avatar_service_pb2, usage_service_pb2
from live_avatar.v1.admin_service_pb2_grpc import add_AdminServiceServicer_to_server
from live_avatar.v1.avatar_service_pb2_grpc import add_AvatarServiceServicer_to_server
from live_avatar.v1.usage_service_pb2_grpc import add_UsageServiceServicer_to_server

_TOKEN_KEY_BYTES = 32
_RENEWAL_CONNECTIONS = 10
"""Beside those of callers, who may have taken all of theirs."""
_KEY_CONNECTIONS = 8
"""That API keys are checked with; never behind callers who have taken all others."""
_AUDIT_CONNECTIONS = 2
_POINT_CONNECTIONS = 4
_AVATAR_SERVICE = avatar_service_pb2.DESCRIPTOR.services_by_name["AvatarService"].full_name
_ADMIN_SERVICE = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"].full_name
_USAGE_SERVICE = usage_service_pb2.DESCRIPTOR.services_by_name["UsageService"].full_name


@asynccontextmanager
async def build(settings: GatewaySettings, telemetry: Telemetry) -> AsyncIterator[Service]:
    """The gateway, running; it is ready as soon as a pipeline is."""
    client = connect(settings.store.address())
    store, access = _open_store(settings, client), _open_access(settings, client, telemetry)
    election, audit_log = _election(settings), _open_audit(settings, client, telemetry)
    interceptors, holders = _interceptors(settings, audit_log, access), _holders(settings, telemetry)
    listener, points = _relay_listener(settings, telemetry, interceptors), _open_points(settings)
    relay = listener.address if listener is not None else ""
    manager = SessionManager(store, _fleet(settings, telemetry), _policy(settings, relay), telemetry, election, points)
    servicer = AvatarServicer(manager, telemetry)
    usage = UsageServicer(store.usage, manager.policy.limits)
    admin = AdminServicer(access.admin, manager.quotas, manager.policy.limits)
    manager.on_end(partial(session_ended, audit_log.audit))
    register_relayed = partial(add_AvatarServiceServicer_to_server, servicer)

    def register(server: grpc.aio.Server) -> None:
        register_relayed(server)
        add_UsageServiceServicer_to_server(usage, server)
        add_AdminServiceServicer_to_server(admin, server)

    async def drain() -> None:
        async with asyncio.TaskGroup() as draining:
            draining.create_task(manager.drain())
            draining.create_task(holders.drain())

    relaying = listener.serving(register_relayed) if listener is not None else nullcontext()
    async with relaying, asyncio.TaskGroup() as tasks:
        posting = _posting(settings, client, store, election, telemetry)
        running = [tasks.create_task(work) for work in (manager.run(), access.run(), holders.run(), *posting)]
        auditing = tasks.create_task(audit_log.run())
        try:
            yield Service(
                register=register,
                interceptors=(*interceptors, ElsewhereInterceptor(holders, manager, relay)),
                grpc_names=(_AVATAR_SERVICE, _USAGE_SERVICE, _ADMIN_SERVICE),
                loaded=_loaded(settings),
                ready=lambda: manager.ready and access.ready,
                drain=drain,
            )
        finally:
            for task in running:
                task.cancel()
            await asyncio.wait(running)
            auditing.cancel()  # what ended just now is in the audit too
            await asyncio.wait([auditing])
            await audit_log.aclose()
            await access.aclose()
            await store.aclose()
            if points is not None:
                await points.aclose()


def _loaded(settings: GatewaySettings) -> Mapping[str, object]:
    return {
        "pipelines": list(settings.pipelines),
        "store": settings.store.url.rpartition("@")[2],
        "auth": ",".join(sorted(settings.auth.modes)) or "none",
        "signing": "on" if settings.signing.certificate else "none: no key",
    }


def _interceptors(
    settings: GatewaySettings, audit_log: AuditLog, access: Access
) -> tuple[grpc.aio.ServerInterceptor, ...]:
    """Those of all calls, whichever port they come to: a caller is the same one there."""
    return (
        AuditInterceptor(audit_log.audit),
        AuthenticationInterceptor(access.authenticator),
        CallRateInterceptor(settings.limits.max_calls_per_second),
        CallLimitInterceptor(settings.limits.max_calls_per_caller),
        LateRequestInterceptor(),
    )


def _relay_listener(
    settings: GatewaySettings, telemetry: Telemetry, interceptors: Sequence[grpc.aio.ServerInterceptor]
) -> RelayListener | None:
    """Where other gateways call this one; None: nowhere."""
    if settings.relay_host:
        around = (RelayedCallInterceptor(), *interceptors, NotHeldHereInterceptor())
        return RelayListener(settings.relay, settings.relay_host, settings.store.url, telemetry, around)
    if settings.store.url != IN_MEMORY:
        structlog.get_logger(__name__).warning("relay.host is not set: no other gateway can pass calls on to this one")
    return None


def _holders(settings: GatewaySettings, telemetry: Telemetry) -> Holders:
    if settings.relay.tls.certificate is None:
        return Holders(settings.relay, None)
    tls = settings.tls.model_copy(update={"server_name": settings.relay.server_name})
    return Holders(settings.relay, ClientTls.of(tls, telemetry))


def _posting(
    settings: GatewaySettings, client: Redis, store: SessionStore, election: LeaderElection, telemetry: Telemetry
) -> Iterator[Coroutine[Any, Any, None]]:
    """What posts usage records, where the operator wants that."""
    usage = settings.usage
    if usage.webhook_url is None or usage.webhook_secret is None:
        return
    from live_avatar.services.gateway.usage.webhook import WebhookPoster  # httpx takes time to import

    yield WebhookPoster(
        store.usage,
        PostingCursor(client, store.owner),
        election,
        usage.webhook_url,
        usage.webhook_secret.get_secret_value().encode(),
        telemetry.webhook_delay,
    ).run()


def _open_access(settings: GatewaySettings, client: Redis, telemetry: Telemetry) -> Access:
    own = client if settings.store.url == IN_MEMORY else connect(settings.store.address(), _KEY_CONNECTIONS)
    return open_access(settings.auth, own, telemetry)


def _open_audit(settings: GatewaySettings, client: Redis, telemetry: Telemetry) -> AuditLog:
    shares = settings.store.url == IN_MEMORY or not settings.audit.stream
    return AuditLog(
        settings.audit, client if shares else connect(settings.store.address(), _AUDIT_CONNECTIONS), telemetry
    )


def _open_store(settings: GatewaySettings, client: Redis) -> SessionStore:
    if settings.store.url == IN_MEMORY:
        structlog.get_logger(__name__).warning("sessions are kept in this process: one gateway only, none survive it")
    return SessionStore(
        client,
        renewals=client if settings.store.url == IN_MEMORY else connect(settings.store.address(), _RENEWAL_CONNECTIONS),
        owner=uuid.uuid4().hex,
        lease_ms=round(settings.store.lease_seconds * 1000),
        retention_ms=round(settings.store.retention_seconds * 1000),
        grace_ms=round(settings.store.grace_seconds * 1000),
        longest_ms=settings.limits.max_session_seconds * 1000,
        usage=UsageLog(client, settings.usage.max_entries),
    )


def _open_points(settings: GatewaySettings) -> RecoveryPoints | None:
    """Where recovery points are stored; None: no other gateway shares the store."""
    if settings.store.url == IN_MEMORY or not settings.limits.resume_seconds:
        return None
    return RecoveryPoints(connect(settings.store.url, _POINT_CONNECTIONS), settings.limits.point_kept_ms)


def _fleet(settings: GatewaySettings, telemetry: Telemetry) -> Fleet:
    presets = _presets(settings)
    tls = ClientTls.of(settings.tls, telemetry)

    def make(address: Address) -> Pipeline:
        return Pipeline(
            address.head,
            address.decoder,
            timing=HopTiming(),
            allow_shared_devices=settings.allow_shared_devices,
            observer=telemetry,
            presets=presets,
            tls=tls,
        )

    return Fleet(open_discovery(settings.pipelines, settings.discovery), make)


def _presets(settings: GatewaySettings) -> Mapping[str, Preset]:
    """The systems that pipelines may run; raises ValueError where a file describes none."""
    if settings.preset_file is None:
        return PRESETS
    described = preset(str(settings.preset_file))
    return {**PRESETS, described.name: described}


def _election(settings: GatewaySettings) -> LeaderElection:
    discovery = settings.discovery
    return open_election(discovery.lease, discovery.lease_seconds, discovery.kubeconfig)


def _policy(settings: GatewaySettings, relay: str) -> SessionPolicy:
    key, previous = (
        secret.get_secret_value().encode() if secret else None
        for secret in (settings.token_key, settings.previous_token_key)
    )
    key = key or secrets.token_bytes(_TOKEN_KEY_BYTES)
    return SessionPolicy(
        limits=settings.limits,
        tokens=SessionTokens(key, previous),
        endpoint=settings.endpoint,
        relay=relay,
        live=settings.live,
        drain_s=settings.server.drain_seconds,
        lease_s=settings.store.lease_seconds,
        grace_s=settings.store.grace_seconds,
        quotas=settings.quotas.table(),
        recording=settings.usage.rules(),
        signing=open_signing(settings.signing, key),
        disclosure=settings.disclosure.text,
    )
