"""The services of one pipeline as real processes, which the launcher's child keeps from outliving the tests.

Knows flags, ports and signals; knows nothing of what travels between services.
"""

import os
import random
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from live_avatar.launcher.child import Child, Program

HOST = "127.0.0.1"
START_S = 120.0
STOP_S = 15.0
POOL_THREADS, POOL_FILES = 4, 3
"""What pools may still gain after a warm-up; a leak of one in a hundred sessions makes ten of a thousand."""
DECODER, ENCODER = "vae-decoder", "audio-encoder"
# Below the range from which the kernel gives ports to those who ask for none: nobody takes one between two starts.
_PORTS = range(12_000, 32_000)


def address(port: int) -> str:
    """``port`` on this machine."""
    return f"{HOST}:{port}"


def free_port() -> int:
    """A port on which nobody listens."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        try:
            socket.create_server((HOST, port)).close()
        except OSError:
            continue
        return port
    raise AssertionError("no port is free")


def stage_name(steps: range) -> str:
    """Name of the stage that performs ``steps``."""
    return f"denoise-stage-{steps.start}"


class Processes:
    """Running services by name, in the order of the chain."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[str, Child] = {}

    def __getitem__(self, name: str) -> Child:
        return self._children[name]

    @property
    def names(self) -> Sequence[str]:
        """Of all services."""
        return tuple(self._children)

    def address(self, name: str) -> str:
        """Where ``name`` listens."""
        return address(self._children[name].port)

    def start(self, programs: Mapping[Program, int]) -> None:
        """Starts services, each on its port, and returns when all listen."""
        for program, port in programs.items():
            self._children[program.name] = Child(program, self._logs / f"{program.name}.log", port)
        for program in programs:
            self._children[program.name].wait_listening(START_S)

    def spawn_again(self, name: str) -> Child:
        """Starts a service that has ended anew, on the port it had; does not wait until it listens."""
        before = self._children[name]
        before.kill()
        assert before.reap(STOP_S), f"{name} does not end"
        self._children[name] = Child(before.program, before.log, before.port)
        return self._children[name]

    def revive(self) -> None:
        """Starts every service anew that a test has left dead."""
        ended = [name for name, child in self._children.items() if not child.alive]
        for child in [self.spawn_again(name) for name in ended]:
            child.wait_listening(START_S)

    def stop(self, *names: str) -> None:
        """Ends services in order, all unless named, and checks that each ended by itself without an error."""
        chosen = names or self.names
        for name in chosen:
            self._children[name].terminate()
        for name in chosen:
            child = self._children[name]
            assert child.reap(STOP_S), f"{name} does not end"
            assert child.process.returncode == 0, child.obituary(child.process.returncode)
            del self._children[name]

    def kill(self) -> None:
        """Ends what is left."""
        for child in self._children.values():
            child.kill()
            child.reap(STOP_S)


@contextmanager
def processes(logs: Path) -> Iterator[Processes]:
    """No services yet; none is left afterwards."""
    running = Processes(logs)
    try:
        yield running
    finally:
        running.kill()


class Memory:
    """What a process takes."""

    def __init__(self, pid: int) -> None:
        folder = Path("/proc") / str(pid)
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        self.resident_kb = int(status["VmRSS"].split()[0])
        self.threads = int(status["Threads"])
        self.descriptors = len(os.listdir(folder / "fd"))


def left_behind(before: Mapping[str, Memory], now: Mapping[str, Memory]) -> dict[str, tuple[int, int]]:
    """Threads and descriptors that processes have more than before, by name of those that have too many.

    Pools of a bound of their own grow when calls happen to meet: threads of gRPC and Python, connections to Redis.
    """
    more = {
        name: (one.threads - before[name].threads, one.descriptors - before[name].descriptors)
        for name, one in now.items()
    }
    return {name: counts for name, counts in more.items() if counts[0] > POOL_THREADS or counts[1] > POOL_FILES}


def chain_programs(
    model: Sequence[str], stages: Sequence[range], end: int, *, head: int | None = None, stage_flags: Sequence[str] = ()
) -> dict[Program, int]:
    """Stages that end at port ``end``; where ``head`` is None an audio encoder before them, else the first one there.

    Args:
        model: flags of every service.
        stages: steps of each.
        end: port of the VAE decoder.
        head: port of the first stage.
        stage_flags: further flags of every stage.
    """
    started: dict[Program, int] = {}
    following = end
    for steps in reversed(stages):
        port = head if head is not None and steps is stages[0] else free_port()
        own = ("--steps", f"{steps.start}-{steps.stop - 1}", "--step-count", str(stages[-1].stop))
        flags = ("--next", address(following), *own, *model, *stage_flags)
        started[Program(name=stage_name(steps), module="live_avatar.services.denoise_stage", flags=flags)] = port
        following = port
    if head is None:
        started[encoder_program(model, following)] = free_port()
    return dict(reversed(started.items()))


def encoder_program(model: Sequence[str], following: int) -> Program:
    """The audio encoder before port ``following``."""
    return Program(
        name=ENCODER, module="live_avatar.services.audio_encoder", flags=("--next", address(following), *model)
    )


def decoder_program(model: Sequence[str]) -> Program:
    """The VAE decoder."""
    return Program(name=DECODER, module="live_avatar.services.vae_decoder", flags=tuple(model))
