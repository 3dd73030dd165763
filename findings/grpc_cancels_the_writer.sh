#!/usr/bin/env bash
# A stream whose read was given up answers a write under way with a cancellation that nobody asked for.
#
# Versions: grpcio 1.85.3 (asyncio), CPython 3.11.
# What one expects: asyncio.timeout around call.read() ends that read, or at most the call, and who writes to the call at that
#   time gets an error of gRPC that says so.
# What happens: the read's cancellation cancels the whole call, and the write that waits for flow control raises
#   asyncio.CancelledError in a task that nobody cancelled.  Code that lets CancelledError through ends without a word.
#   (A write that begins later gets InvalidStateError.)
# Seen: "a write under way when a read timed out: CancelledError, task.cancelling() 0".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check grpcio==1.85.3
"$folder/venv/bin/python" - <<'PY'
import asyncio
import sys

import grpc


async def silent(requests, context):
    await asyncio.sleep(60)  # reads nothing: the peer's writes wait
    yield b""


async def write_much(call) -> tuple[str, int]:
    try:
        for _ in range(100):
            await call.write(bytes(1_000_000))
    except BaseException as error:
        return type(error).__name__, asyncio.current_task().cancelling()
    return "nothing", 0


async def main() -> int:
    server = grpc.aio.server()
    handlers = {"Talk": grpc.stream_stream_rpc_method_handler(silent)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Service", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
        call = channel.stream_stream("/Service/Talk")()
        writer = asyncio.create_task(write_much(call))
        try:
            async with asyncio.timeout(0.5):
                await call.read()
        except TimeoutError:
            pass
        raised, cancelling = await writer
    await server.stop(None)
    print(f"a write under way when a read timed out: {raised}, task.cancelling() {cancelling}")
    return 0 if (raised, cancelling) == ("CancelledError", 0) else 1


sys.exit(asyncio.run(main()))
PY
