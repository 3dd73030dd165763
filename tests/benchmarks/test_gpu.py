"""The benchmark of a GPU, without one: its arithmetic, its plan, and that it goes on where it was stopped."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import gpu
from benchmarks.flops import geometry, step_work
from benchmarks.gpu_parts import TERA, does, draw_network, median_ms, watched
from benchmarks.gpu_sections import Numbers, Place, computed, repeated_block
from benchmarks.gpu_variants import one_latent, variants
from live_avatar.config import S2V_14B, TINY
from live_avatar.model.compiled_step import EagerStep
from live_avatar.model.dit import CausalDiT

CPU = torch.device("cpu")
PLACE = Place(TINY, ((64, 64),), CPU, 3)


def test_the_work_of_the_large_step_is_what_was_counted_elsewhere() -> None:
    work = step_work(S2V_14B, geometry(S2V_14B, 704, 384))
    assert (work.queries, work.keys) == (3168, 15_312)
    assert work.product_flops / TERA == pytest.approx(79.7, abs=0.1)
    assert work.attention_flops / TERA == pytest.approx(41.1, abs=0.1)


@torch.inference_mode()
def test_the_work_is_what_torch_counts_of_a_forward() -> None:
    model = draw_network(TINY, "dit", CPU)
    assert isinstance(model, CausalDiT)
    run = repeated_block(EagerStep(model), model, PLACE, (64, 64))
    # Written out as products, since torch counts none of those inside the attention kernels of a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    counted, work = counter.get_total_flops(), step_work(TINY, geometry(TINY, 64, 64)).flops
    assert work <= counted <= 1.05 * work, "embeddings, the head and modulation are not counted as work"


def test_a_drawn_network_is_alive() -> None:
    model = draw_network(TINY, "dit", CPU)
    gains = [p for name, p in model.named_parameters() if "norm" in name and name.endswith("weight")]
    assert gains and all(torch.equal(gain, torch.ones_like(gain)) for gain in gains)
    assert all(0 < float(p.std()) < 0.1 for name, p in model.named_parameters() if p.dim() > 1)


def test_kernels_are_distinguished_by_their_names() -> None:
    """As a profile of an H100 named them."""
    assert does("nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_bias_TNT") == "products"
    assert does("sm80_xmma_gemm_f32f32_f32f32_f32_tn_n_tilesize256x64x8_stage3") == "products"
    assert does("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128_4x1x1") == "attention"
    # Named after what the compiler joined with, this one prepares attention and is none.
    assert does("triton_red_fused__fused_rms_norm__scaled_dot_product_cudnn_attention__to_copy_mul") == "rest"


def test_clocks_and_counters_work_without_a_gpu() -> None:
    assert median_ms(lambda: None, CPU, 3) >= 0
    with watched(CPU) as steady:
        torch.ones(1)
    assert (steady.device_allocations, steady.recompiles, steady.syncs) == (0, 0, 0)


def test_variants_are_ratios_of_one_step() -> None:
    numbers = variants(PLACE, {})
    assert set(numbers) == {
        "one_latent_over_block_64x64",
        "two_sessions_over_twice_one_64x64",
        "batch_of_two_over_twice_one_64x64",
        "sp4_share_times_4_64x64",
    }
    assert all(0 < ratio < 100 for ratio in numbers.values())


def test_a_block_of_one_latent_sees_as_many_as_before() -> None:
    whole, short = PLACE.preset.stream, one_latent(PLACE).preset.stream
    assert short.latents_per_block == 1
    assert short.window_blocks == whole.latents_per_block * whole.window_blocks
    model = draw_network(TINY, "dit", CPU)
    assert isinstance(model, CausalDiT)
    velocity = repeated_block(EagerStep(model), model, one_latent(PLACE), (64, 64))()
    assert isinstance(velocity, torch.Tensor) and velocity.shape[2] == 1


def test_what_follows_from_the_parts() -> None:
    measured = {"step_bf16_ms_64x64": 175.0, "decode_fast_ms_64x64": 110.0, "decode_fast_first_ms_64x64": 37.0}
    numbers = computed(PLACE, measured)
    assert numbers["computed_one_gpu_fps_bf16"] == pytest.approx(12 / 0.81)
    assert numbers["projected_five_gpu_fps_bf16"] == pytest.approx(12 / 0.175)
    assert numbers["projected_first_frame_ms_bf16"] == pytest.approx(737)
    assert not any("fp8" in key for key in numbers)


def test_the_plan_names_every_size_and_product() -> None:
    message = gpu.plan("S2V_14B")
    for part in (
        "704x384",
        "832x480",
        "3168 tokens attend to 15312",
        "[3168, 5120] x [5120, 13824]",
        "32.4 GB",
        "21.0 GB",
    ):
        assert part in message


def test_a_stopped_measurement_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def section(name: str) -> Numbers:
        done.append(name)
        return {f"number_of_{name}": 1.0}

    def first(place: Place, before: Mapping[str, float]) -> Numbers:
        return section("first")

    def second(place: Place, before: Mapping[str, float]) -> Numbers:
        assert before["number_of_first"] == 1.0
        return section("second")

    monkeypatch.setattr(gpu, "SECTIONS", {"first": first, "second": second})
    gpu.measure(PLACE, ["first"], tmp_path)
    gpu.measure(PLACE, ["first", "second"], tmp_path)
    assert done == ["first", "second"]
    gpu.measure(PLACE, ["first"], tmp_path, again=True)
    assert done == ["first", "second", "first"]
    reported = json.loads((tmp_path / "gpu.json").read_text())
    assert reported["sections"]["second"]["number_of_second"] == 1.0
    assert "| `number_of_first` | 1 |" in (tmp_path / "gpu.md").read_text()


def test_numbers_of_another_machine_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "SECTIONS", {"one": lambda place, before: {"value": 2.0}})
    other = {"machine": "another", "sections": {"one": {"value": 1.0}}}
    (tmp_path / "gpu.json").write_text(json.dumps(other))
    assert gpu.measure(PLACE, ["one"], tmp_path)["one"]["value"] == 2.0
