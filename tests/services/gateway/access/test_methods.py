"""Every RPC has a rule, and what has none is for nobody."""

from live_avatar.services.gateway.access.methods import METHODS, Rule, rule_of
from live_avatar.v1 import admin_service_pb2, avatar_service_pb2, usage_service_pb2

FILES = (admin_service_pb2, avatar_service_pb2, usage_service_pb2)


def rpcs() -> set[str]:
    """Full names of all RPCs of the public API."""
    services = [service for file in FILES for service in file.DESCRIPTOR.services_by_name.values()]
    return {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}


def test_every_rpc_has_a_rule() -> None:
    assert set(METHODS) == rpcs()


def test_health_alone_is_open() -> None:
    assert rule_of("/grpc.health.v1.Health/Check") is Rule.OPEN
    assert rule_of("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") is Rule.CREDENTIAL
    assert Rule.OPEN not in METHODS.values()


def test_what_has_no_rule_may_not_be_called() -> None:
    for method in ("/live_avatar.v1.AvatarService/DeleteEverything", "/live_avatar.v1.Other/Get", "", "/"):
        assert rule_of(method) is None
