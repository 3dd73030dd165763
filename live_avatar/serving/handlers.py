"""Replaces what a gRPC method handler does, whatever kind of call it is.

Knows the four kinds; nothing of what they do.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import grpc

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour = Callable[..., Any]


def with_behaviour(handler: Handler, wrap: Callable[[Behaviour], Behaviour]) -> Handler:
    """``handler`` with ``wrap`` of its behaviour in place of it; messages are read and written as before."""
    kinds: tuple[tuple[Any, Any], ...] = (
        (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
        (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
        (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
        (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
    )
    behaviour, make = next((behaviour, make) for behaviour, make in kinds if behaviour is not None)
    wrapped: Handler = make(
        wrap(behaviour),
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return wrapped
