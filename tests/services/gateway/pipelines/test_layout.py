"""Which chains of services are taken for a pipeline."""

import pytest

from live_avatar.pipeline.v1.blocks_pb2 import ServiceInfo
from live_avatar.services.gateway.pipelines.layout import capacity, check_layout, describe
from live_avatar.serving.timing import PROTOCOL_VERSION


def chain(*slices: tuple[int, ...], step_count: int = 4) -> list[ServiceInfo]:
    """Audio encoder, a stage per slice of steps, decoder; each on its own device."""
    roles = [
        ServiceInfo.ROLE_AUDIO_ENCODER,
        *[ServiceInfo.ROLE_DENOISE_STAGE] * len(slices),
        ServiceInfo.ROLE_VAE_DECODER,
    ]
    services = [
        ServiceInfo(
            role=role, name=f"s{index}", protocol_version=PROTOCOL_VERSION, preset="TINY", model_digest="d",
            device=f"cpu:{index}", session_capacity=index + 2,
        )
        for index, role in enumerate(roles)
    ]  # fmt: skip
    for service, steps in zip(services[1:-1], slices, strict=True):
        service.steps.extend(steps)
        service.step_count = step_count
    return services


@pytest.mark.parametrize("slices", [((0,), (1,), (2,), (3,)), ((0, 1), (2, 3)), ((0, 1, 2, 3),), ((0,), (1, 2, 3))])
def test_any_partition_of_the_steps_is_a_pipeline(slices: tuple[tuple[int, ...], ...]) -> None:
    check_layout(chain(*slices), allow_shared_devices=False)


@pytest.mark.parametrize(
    ("slices", "step_count"),
    [(((0,), (1,), (2,)), 4), (((0,), (1,), (1,), (2,), (3,)), 4), (((1,), (0,), (2,), (3,)), 4), (((), ()), 4),
     (((0, 1, 2, 3),), 3)],
)  # fmt: skip
def test_steps_that_are_missing_double_or_out_of_order_are_named(
    slices: tuple[tuple[int, ...], ...], step_count: int
) -> None:
    with pytest.raises(ValueError, match="every denoising step"):
        check_layout(chain(*slices, step_count=step_count), allow_shared_devices=False)


def test_roles_have_an_order() -> None:
    good = chain((0, 1, 2, 3))
    for wrong in ([], good[:1], good[1:], good[:2], good[::-1], [good[0], good[2]], [good[0], *good]):
        with pytest.raises(ValueError, match="a pipeline is an audio encoder"):
            check_layout(wrong, allow_shared_devices=False)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("model_digest", "other", "different weights"), ("preset", "S2V_14B", "preset"), ("protocol_version", 99, "99")],
)
def test_services_must_agree(field: str, value: object, message: str) -> None:
    services = chain((0, 1), (2, 3))
    setattr(services[2], field, value)
    with pytest.raises(ValueError, match=message) as caught:
        check_layout(services, allow_shared_devices=False)
    assert "s2" in str(caught.value)


def test_stages_must_agree_on_the_number_of_steps() -> None:
    services = chain((0, 1), (2, 3))
    services[2].step_count = 5
    with pytest.raises(ValueError, match="every denoising step"):
        check_layout(services, allow_shared_devices=False)


def test_an_unknown_preset_is_an_error() -> None:
    services = chain((0, 1, 2, 3))
    for service in services:
        service.preset = "HUGE"
    with pytest.raises(ValueError, match="HUGE"):
        check_layout(services, allow_shared_devices=False)


def test_devices_are_shared_only_where_that_is_allowed() -> None:
    services = chain((0, 1), (2, 3))
    services[1].device = services[2].device
    check_layout(services, allow_shared_devices=True)
    with pytest.raises(ValueError, match="s1, s2"):
        check_layout(services, allow_shared_devices=False)


def test_the_smallest_service_decides_the_capacity() -> None:
    assert capacity(chain((0, 1), (2, 3))) == 2
    assert capacity([]) == 0
    assert describe(chain((0, 1), (2, 3))) == "s0 -> s1[0,1] -> s2[2,3] -> s3"
