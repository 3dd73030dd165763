"""Quotas and usage as callers of a gateway meet them."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from live_avatar.services.gateway.access.caller import Caller, Scope
from live_avatar.services.gateway.api import quota_calls
from live_avatar.services.gateway.api.quota_calls import QUOTA_HEADER
from live_avatar.services.gateway.api.usage_servicer import UsageServicer
from live_avatar.services.gateway.limits import Limits
from live_avatar.services.gateway.quotas.book import QuotaBook
from live_avatar.services.gateway.store.quotas import Quotas, QuotaTable
from live_avatar.services.gateway.store.redis_access import IN_MEMORY, connect
from live_avatar.services.gateway.store.usage import UsageLog
from live_avatar.serving.errors import ServiceError, from_rpc_error
from live_avatar.v1 import admin_service_pb2 as admin
from live_avatar.v1 import avatar_service_pb2 as api
from live_avatar.v1 import usage_service_pb2 as usage
from live_avatar.v1.admin_service_pb2_grpc import AdminServiceStub
from live_avatar.v1.media_pb2 import VideoFormat
from live_avatar.v1.usage_service_pb2 import UsageRecord
from live_avatar.v1.usage_service_pb2_grpc import UsageServiceStub
from tests.services.gateway.clients import (
    BLOCK_SAMPLES,
    Gateway,
    Talk,
    create_request,
    failure,
    gateway,
    movie,
    tone,
    units,
    whole_system,
)
from tests.services.gateway.fake_pipeline import fake_pipeline
from tests.services.gateway.store.test_store import record

Code = grpc.StatusCode


def limited(**quotas: int) -> dict[str, Any]:
    return {"quotas": quotas, "usage": {"interval_seconds": 0.1}}


async def listed(running: Gateway, **request: Any) -> Sequence[UsageRecord]:
    async with grpc.aio.insecure_channel(running.target) as channel:
        response = await UsageServiceStub(channel).ListUsage(usage.ListUsageRequest(**request), timeout=10)
        return list(response.records)


def remaining(metadata: Any) -> dict[str, int]:
    """The header, taken apart as its documentation says."""
    text = dict(metadata).get(QUOTA_HEADER, "")
    return {name: int(value) for name, value in (part.split("=") for part in text.split(",") if part)}


def test_what_is_left_is_in_the_metadata_of_good_and_bad_answers() -> None:
    async def scenario() -> None:
        async with whole_system(settings=limited(max_concurrent_sessions=1, max_media_seconds_per_day=60)) as running:
            call = running.stub.CreateSession(create_request(), timeout=10)
            await call
            assert remaining(await call.initial_metadata()) == {
                "max_concurrent_sessions": 0,
                "max_media_seconds_per_day": 60,
            }
            rejected = running.stub.CreateSession(create_request(), timeout=10)
            error = await failure(lambda: rejected)
            assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "TENANT_QUOTA")
            assert error.violation is not None
            assert error.violation.subject == "default"
            assert error.violation.description.startswith("max_concurrent_sessions of tenant default is 1")
            assert error.retry_after_s == 5
            assert remaining(await rejected.trailing_metadata())["max_concurrent_sessions"] == 0

    asyncio.run(scenario())


def test_fifty_calls_on_two_gateways_make_five_sessions(redis_server: str) -> None:
    async def scenario() -> None:
        settings = limited(max_concurrent_sessions=5) | {"store": {"url": redis_server}, "token_key": "k" * 32}
        async with (
            fake_pipeline(64) as pipeline,
            gateway(pipeline, settings=settings) as one,
            gateway(pipeline, settings=settings) as two,
        ):
            calls = [(one, two)[turn % 2].create() for turn in range(50)]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            errors = [from_rpc_error(error) for error in answers if isinstance(error, grpc.aio.AioRpcError)]
            assert {(error.reason, error.metadata["quota"]) for error in errors} == {
                ("TENANT_QUOTA", "max_concurrent_sessions")
            }
            assert sum(isinstance(answer, api.CreateSessionResponse) for answer in answers) == 5
            assert (len(errors), pipeline.sessions_held) == (45, 15)
            made = next(answer for answer in answers if isinstance(answer, api.CreateSessionResponse))
            await two.stub.CloseSession(api.CloseSessionRequest(session_id=made.session.session_id), timeout=10)
            await two.create()

    asyncio.run(scenario())


def test_without_quotas_there_is_no_header() -> None:
    async def scenario() -> None:
        async with whole_system() as running:
            call = running.stub.CreateSession(create_request(), timeout=10)
            await call
            assert remaining(await call.initial_metadata()) == {}

    asyncio.run(scenario())


def test_the_longest_session_and_the_largest_frame_are_bounded() -> None:
    async def scenario() -> None:
        async with whole_system(settings=limited(max_session_seconds=5, max_frame_pixels=128 * 128)) as running:
            small = api.SessionConfig(audio=create_request().config.audio, video=VideoFormat(enlargement=1))
            request = api.CreateSessionRequest(reference_image=create_request().reference_image, config=small)
            made = await running.stub.CreateSession(request, timeout=10)
            assert made.session.max_duration == Duration(seconds=5)
            request.max_duration.FromSeconds(6)
            error = await failure(lambda: running.stub.CreateSession(request, timeout=10))
            assert (error.reason, error.metadata["quota"], error.retry_after_s) == (
                "TENANT_QUOTA", "max_session_seconds", None,
            )  # fmt: skip
            request.max_duration.FromSeconds(1)
            request.config.video.enlargement = 4
            error = await failure(lambda: running.stub.CreateSession(request, timeout=10))
            assert (error.reason, error.metadata["quota"]) == ("TENANT_QUOTA", "max_frame_pixels")
            assert running.pipeline.sessions_held == 3, "what was refused holds nothing"

    asyncio.run(scenario())


def test_queued_speech_of_a_live_session_is_bounded() -> None:
    async def scenario() -> None:
        async with whole_system(settings=limited(max_queued_audio_seconds=1)) as running:
            made = await running.create(delivery=api.DELIVERY_LIVE)
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                await talk.speak(tone(4 * 16_000))
                error = await talk.failure()
            assert (error.code, error.reason) == (Code.RESOURCE_EXHAUSTED, "AUDIO_QUEUE_FULL")

    asyncio.run(scenario())


async def go_away(talk: Talk) -> api.StreamAvatarResponse.GoAway:
    while not (response := await talk.receive()).HasField("go_away"):
        assert response.HasField("video_unit") or response.HasField("audio_unit")
    return response.go_away


def test_a_session_ends_with_notice_once_its_tenant_has_used_its_media(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("live_avatar.services.gateway.sessions.session.Session.end_with_notice.__defaults__", (0.3,))

    async def scenario() -> None:
        async with whole_system(settings=limited(max_media_seconds_per_day=1)) as running:
            made = await running.create(delivery=api.DELIVERY_LIVE)
            async with Talk(running.stub) as talk:
                await talk.open(made.session_token)
                notice = await asyncio.wait_for(go_away(talk), 20)
                assert (notice.reason, notice.time_left.ToMilliseconds()) == ("TENANT_QUOTA", 300)
                assert (await talk.failure()).reason == "TENANT_QUOTA"
            await running.freed()
            last = (await listed(running))[-1]
            assert (last.kind, last.end_reason) == (UsageRecord.KIND_ENDED, "TENANT_QUOTA")
            error = await failure(lambda: running.create())
            assert error.metadata["quota"] == "max_media_seconds_per_day"

    asyncio.run(scenario())


@pytest.mark.parametrize("encoding", ["ENCODING_FMP4", "ENCODING_H264_ANNEXB", "ENCODING_RAW_RGB24"])
def test_records_of_a_session_sum_up_to_what_its_client_got(encoding: str) -> None:
    async def scenario() -> None:
        async with whole_system(settings=limited()) as running:
            received = await movie(running, 7 * BLOCK_SAMPLES + 1_000, video={"encoding": encoding})
            await running.freed()
            frames = sum(unit.frame_count for unit in units(received))
            blocks = {unit.block_index for unit in units(received) if unit.frame_count}
            records = await listed(running)
            assert sum(one.media_time.ToNanoseconds() for one in records) == frames * 10**9 // 25
            assert sum(one.blocks for one in records) == len(blocks) == 8
            assert [one.number for one in records] == list(range(len(records)))
            last = records[-1]
            assert (last.kind, last.end_reason, last.tenant, last.preset) == (
                UsageRecord.KIND_ENDED, "", "default", "TINY",
            )  # fmt: skip
            assert (last.width, last.height) != (0, 0)
            spent = {time.service for one in records for time in one.service_times}
            assert spent == {"audio-encoder", "denoise-stage-0", "vae-decoder"}

    asyncio.run(scenario())


def test_operators_read_and_change_quotas() -> None:
    async def scenario() -> None:
        async with (
            whole_system(settings=limited(max_session_seconds=9)) as running,
            grpc.aio.insecure_channel(running.target) as channel,
        ):
            stub = AdminServiceStub(channel)
            request = admin.UpdateQuotasRequest(tenant="default", quotas=admin.Quotas(max_concurrent_sessions=1))
            request.update_mask.paths.append("max_concurrent_sessions")
            changed = await stub.UpdateQuotas(request, timeout=10)
            assert changed.quotas == admin.Quotas(max_concurrent_sessions=1, max_session_seconds=9)
            await running.create()
            assert (await failure(lambda: running.create())).reason == "TENANT_QUOTA"
            seen = await stub.GetQuotas(admin.GetQuotasRequest(), timeout=10)
            assert seen.quotas == changed.quotas
            assert (seen.usage.concurrent_sessions, seen.usage.media_milliseconds_today) == (1, 0)
            request.update_mask.Clear()
            assert (await stub.UpdateQuotas(request, timeout=10)).quotas == admin.Quotas(max_concurrent_sessions=1)

    asyncio.run(scenario())


@contextmanager
def called_by(monkeypatch: pytest.MonkeyPatch, caller: Caller) -> Iterator[None]:
    with monkeypatch.context() as patch:
        for module in ("quota_calls", "usage_servicer"):
            patch.setattr(f"live_avatar.services.gateway.api.{module}.current_caller", lambda: caller)
        yield


TEAM = Caller(tenant="team", scopes=frozenset(Scope))
OPERATOR = Caller(tenant="default", scopes=frozenset(Scope), is_operator=True)
BAD_UPDATES = {
    "another tenant": (TEAM, admin.UpdateQuotasRequest(tenant="other"), "TENANT_FORBIDDEN"),
    "its own tenant": (TEAM, admin.UpdateQuotasRequest(tenant="team"), "TENANT_FORBIDDEN"),
    "no tenant": (OPERATOR, admin.UpdateQuotasRequest(), "TENANT_INVALID"),
    "no name": (OPERATOR, admin.UpdateQuotasRequest(tenant="A b"), "TENANT_INVALID"),
    "no scope": (Caller(tenant="team"), admin.UpdateQuotasRequest(tenant="team"), "SCOPE_MISSING"),
    "no quota": (OPERATOR, admin.UpdateQuotasRequest(tenant="a", update_mask=FieldMask(paths=["x"])), "QUOTA_UNKNOWN"),
    "a number too large": (
        OPERATOR,
        admin.UpdateQuotasRequest(tenant="a", quotas=admin.Quotas(max_frame_pixels=2**60)),
        "QUOTA_UNKNOWN",
    ),
}


@pytest.mark.parametrize("name", BAD_UPDATES)
def test_updates_that_are_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    caller, request, reason = BAD_UPDATES[name]

    async def scenario() -> None:
        book = QuotaBook(QuotaTable(connect(IN_MEMORY)), Quotas())
        with called_by(monkeypatch, caller), pytest.raises(ServiceError) as caught:
            await quota_calls.update_quotas(book, request)
        assert caught.value.reason == reason

    asyncio.run(scenario())


async def pages(servicer: UsageServicer, **request: Any) -> list[list[tuple[str, int]]]:
    """All pages of a list, as tenants and numbers of their records."""
    found, token = list[list[tuple[str, int]]](), ""
    while True:
        page = await servicer.ListUsage(usage.ListUsageRequest(page_token=token, **request), None)  # type: ignore[arg-type]
        found.append([(one.tenant, one.number) for one in page.records])
        token = page.next_page_token
        if not token:
            return found


def flat(found: list[list[tuple[str, int]]]) -> list[tuple[str, int]]:
    return list(chain.from_iterable(found))


def test_pages_hold_the_records_of_one_tenant_or_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        client = connect(IN_MEMORY)
        log = UsageLog(client)
        pipe: Any = client.pipeline(transaction=True)
        for turn in range(6):
            log.start(pipe, record(f"s{turn}", tenant=("team", "other")[turn % 2]), {})
        await pipe.execute()
        monkeypatch.setattr("live_avatar.services.gateway.api.usage_servicer._READ_TOGETHER", 2)
        servicer = UsageServicer(log, Limits())
        team, other = ("team", 0), ("other", 0)
        with called_by(monkeypatch, TEAM):
            assert flat(await pages(servicer)) == [team] * 3
            assert flat(await pages(servicer, page_size=1)) == [team] * 3
            monkeypatch.setattr("live_avatar.services.gateway.api.usage_servicer._MOST_READS", 1)
            short = await pages(servicer, page_size=2)
            assert [len(page) for page in short] == [1, 1, 1, 0], "short pages, and none left out"
            for refused in ("*", "other"):
                with pytest.raises(ServiceError, match="TENANT_FORBIDDEN"):
                    await pages(servicer, tenant=refused)
        with called_by(monkeypatch, OPERATOR):
            assert flat(await pages(servicer, tenant="*")) == [team, other] * 3
            assert flat(await pages(servicer, tenant="other")) == [other] * 3
            far = usage.ListUsageRequest(tenant="*")
            far.start_time.FromSeconds(4_000_000_000)
            assert flat(await pages(servicer, tenant="*", start_time=far.start_time)) == []
            early = usage.ListUsageRequest()
            early.end_time.FromSeconds(1)
            assert flat(await pages(servicer, tenant="*", end_time=early.end_time)) == []
            for token in ("x", "1-2-3", "99999999999999999999-0", "\u0661-\u0661"):
                with pytest.raises(ServiceError, match="PAGE_TOKEN_INVALID"):
                    await servicer.ListUsage(usage.ListUsageRequest(page_token=token), None)  # type: ignore[arg-type]
        with called_by(monkeypatch, Caller(tenant="team")), pytest.raises(ServiceError, match="SCOPE_MISSING"):
            await pages(servicer)
        await client.aclose()

    asyncio.run(scenario())
