"""The last service of a chain as a process of its own: ``python -m tests.serving.hop_process PORT`` prints its port."""

import asyncio
import sys

from tests.serving.fakes import FakeWork, serving


async def _main(port: int) -> None:
    async with serving(FakeWork(last=True), name="far", port=port) as running:
        sys.stdout.write(f"{running.port}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
