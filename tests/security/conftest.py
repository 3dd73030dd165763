"""A real Redis server for the tests that want one."""

from tests.services.gateway.conftest import redis_server

__all__ = ["redis_server"]
