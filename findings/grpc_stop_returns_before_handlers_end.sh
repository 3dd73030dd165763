#!/usr/bin/env bash
# A server that has stopped still runs its handlers' last lines.
#
# Versions: grpcio 1.85.3 (asyncio), CPython 3.11.
# What one expects: await server.stop(grace) returns when no handler runs any more, so that what they use may be freed.
# What happens: after the grace the handlers are cancelled and stop() returns; their finally blocks run afterwards.
# Seen: "stop() returned while the handler's finally block was running".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check grpcio==1.85.3
"$folder/venv/bin/python" - <<'PY'
import asyncio
import sys

import grpc

running, ended = asyncio.Event(), asyncio.Event()


async def handler(request, context):
    try:
        running.set()
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.3)  # frees something, slowly
        ended.set()


async def main() -> int:
    server = grpc.aio.server()
    handlers = {"Work": grpc.unary_unary_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.unary_unary("/Service/Work")(b"")
        await running.wait()
        await server.stop(0.1)
        early = not ended.is_set()
        call.cancel()
        await asyncio.wait_for(ended.wait(), 5)
    print("stop() returned while the handler's finally block was running" if early else "stop() waited")
    return 0 if early else 1


sys.exit(asyncio.run(main()))
PY
