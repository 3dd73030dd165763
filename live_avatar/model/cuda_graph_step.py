"""The compiled denoising step as a CUDA graph, captured once per window and replayed from buffers that never move.

Knows windows and sizes; knows nothing of sessions, schedules or transport.
"""

from collections.abc import Callable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from live_avatar.model.compiled_step import CompiledStep, StepForward, contiguous_inputs
from live_avatar.model.dit import NoisyInput, TextKV
from live_avatar.model.kv_cache import KVWindow, Place

Replay = Callable[[], object]
Record = Callable[[Replay], Replay]
"""Records what a call does on the device; the result does it again, from and to the same memory."""


class _CudaGraphCapture:
    """Buffers that the captured step of one window reads and writes; their addresses never change."""

    def __init__(self, noisy: NoisyInput, text: TextKV, window: KVWindow) -> None:
        self.noisy = contiguous_inputs(noisy)
        self.text = text
        self.velocity = torch.empty_like(self.noisy.latent)
        self.frames = torch.zeros(2, dtype=torch.int64, device=window.device)
        self.slot = torch.zeros(window.block_tokens, dtype=torch.int64, device=window.device)
        self._tokens = torch.arange(window.block_tokens, device=window.device)
        self.replay: Replay | None = None

    def fits(self, noisy: NoisyInput, text: TextKV) -> bool:
        """Whether prompt and noise level are those that were recorded."""
        return text is self.text and noisy.time is self.noisy.time

    def fill(self, noisy: NoisyInput, place: Place) -> None:
        """Copies the inputs of a block in; no value is read back, nothing is allocated."""
        self.noisy.latent.copy_(noisy.latent, non_blocking=True)
        self.noisy.audio.local.copy_(noisy.audio.local, non_blocking=True)
        self.noisy.audio.glob.copy_(noisy.audio.glob, non_blocking=True)
        self.frames[0].fill_(place.first_frame)
        self.frames[1].fill_(place.reference_frame)
        torch.add(self._tokens, place.slot, out=self.slot)


class CudaGraphStep:
    """Replays a CUDA graph of the compiled step once a window is full; runs the compiled step until then.

    A window is captured when it is full for the first time, and again when its prompt has changed.
    """

    def __init__(self, step: CompiledStep, record: Record) -> None:
        self._step = step
        self._record = record
        self._captures: WeakKeyDictionary[KVWindow, _CudaGraphCapture] = WeakKeyDictionary()

    def __call__(self, noisy: NoisyInput, text: TextKV, window: KVWindow, reference_offset: int) -> Tensor:
        """See ``StepForward``; the velocity is overwritten by the next step of the same window."""
        place = window.place(reference_offset)
        if place.visible < window.layers[0].k.shape[1] or not self._step.covers(noisy, window):
            return self._step(noisy, text, window, reference_offset)
        capture = self._captures.get(window)
        if capture is None or not capture.fits(noisy, text):
            capture = self._captures[window] = _CudaGraphCapture(noisy, text, window)
        capture.fill(noisy, place)
        if capture.replay is None:
            capture.replay = self._record(lambda: self._run(capture, window, place.visible))
        capture.replay()
        return capture.velocity

    def _run(self, capture: _CudaGraphCapture, window: KVWindow, visible: int) -> None:
        where = (capture.frames, capture.slot)
        capture.velocity.copy_(self._step.forward(capture.noisy, capture.text, window, visible, where))


class CudaGraphRecorder:
    """Captures CUDA graphs in one memory pool; a graph may overwrite what another has left there."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        # A pool whose last graph is gone takes no other: this one stays when all sessions have ended.
        self._first = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._first, pool=self._pool, capture_error_mode="thread_local"):
            torch.zeros(1, device="cuda")

    def __call__(self, run: Replay) -> Replay:
        """See ``Record``."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            run()  # what libraries allocate at their first call must not be part of the graph
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            run()
        return graph.replay


def fastest_step(step: CompiledStep) -> StepForward:
    """Returns the CUDA graph step on a GPU, elsewhere the compiled one."""
    return CudaGraphStep(step, CudaGraphRecorder()) if step.model.patch_embedding.weight.device.type == "cuda" else step
