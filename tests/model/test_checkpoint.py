"""Weights in files: whole, or an error that names key and file and leaves the module as it was."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from live_avatar.model import checkpoint
from live_avatar.model.weight_files import (
    MANIFEST,
    DamagedFileError,
    Manifest,
    MisshapedTensorError,
    MissingTensorError,
    SurplusTensorError,
    WeightsError,
    model_digest,
    open_weights,
    read_header,
)

NAMES = {"public.0.weight": "first.weight", "public.0.bias": "first.bias", "scale": "scale"}
HEADER_LENGTH_BYTES = 8


class Small(nn.Module):
    """Two parameters in a layer, and one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.scale = nn.Parameter(torch.ones(()))


class Tied(nn.Module):
    """One parameter under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3)
        self.twin = self.table


def on_meta() -> Small:
    with torch.device("meta"):
        return Small().requires_grad_(False)


def small_tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = checkpoint.public_shapes(on_meta(), NAMES)
    return {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}


def write(folder: Path, tensors: dict[str, Tensor] | None = None, shard_bytes: int = 40) -> Manifest:
    return checkpoint.write_weights(
        folder, (tensors or small_tensors()).items(), preset="TINY", component="dit", shard_bytes=shard_bytes
    )


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound folder of several shards; tests copy what they damage."""
    folder = tmp_path_factory.mktemp("weights") / "dit"
    write(folder)
    return folder


@pytest.fixture
def damaged(converted: Path, tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Makes a copy of the sound folder with one file replaced."""

    def copy(name: str, content: bytes) -> Path:
        target = tmp_path / "damaged"
        target.mkdir(exist_ok=True)
        for path in converted.iterdir():
            (target / path.name).write_bytes(content if path.name == name else path.read_bytes())
        return target

    return copy


def assert_untouched(module: nn.Module) -> None:
    assert all(parameter.is_meta for parameter in module.parameters())


def test_what_is_written_comes_back_bit_for_bit(converted: Path) -> None:
    module, weights = on_meta(), open_weights(converted)
    assert weights.manifest is not None and len(weights.manifest.files) == 2
    checkpoint.load_module(module, NAMES, weights)
    for key, tensor in checkpoint.public_state(module, NAMES).items():
        assert torch.equal(tensor, small_tensors()[key])


def test_shards_are_plain_safetensors_under_public_names(converted: Path) -> None:
    found: dict[str, Tensor] = {}
    for path in converted.glob("*.safetensors"):
        found |= load_file(path)
    assert found.keys() == NAMES.keys()


def test_weights_may_be_read_by_whoever_may_read_the_manifest(converted: Path) -> None:
    wanted = (converted / MANIFEST).stat().st_mode
    assert [shard.stat().st_mode for shard in converted.glob("*.safetensors")] == [wanted] * 2


def test_conversion_while_loading_equals_conversion_after(converted: Path) -> None:
    module = on_meta()
    checkpoint.load_module(module, NAMES, open_weights(converted), dtype=torch.bfloat16)
    for key, tensor in checkpoint.public_state(module, NAMES).items():
        assert torch.equal(tensor, small_tensors()[key].bfloat16())


def test_loaded_tensors_outlive_their_file(tmp_path: Path) -> None:
    write(tmp_path / "dit")
    module = on_meta()
    checkpoint.load_module(module, NAMES, open_weights(tmp_path / "dit"))
    for path in (tmp_path / "dit").glob("*.safetensors"):
        path.write_bytes(bytes(path.stat().st_size))
    assert torch.equal(module.first.weight, small_tensors()["public.0.weight"])


def test_a_shared_parameter_stays_shared() -> None:
    with torch.device("meta"):
        module = Tied()
    checkpoint.assign(module, {"table": "table.weight"}, {"table": torch.ones(4, 3)})
    assert module.twin.weight is module.table.weight


def test_saving_and_loading_a_module_is_the_identity(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, again = Small(), on_meta()
    checkpoint.save_component(module, NAMES, tmp_path / "dit", preset="TINY", component="dit", config={"dim": 3})
    weights = open_weights(tmp_path / "dit")
    checkpoint.load_module(again, NAMES, weights)
    assert weights.manifest is not None and weights.manifest.config == {"dim": 3}
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in module.state_dict().items())


def test_weights_are_never_overwritten(converted: Path) -> None:
    with pytest.raises(DamagedFileError, match="already holds weights"):
        write(converted)


def test_a_write_that_breaks_off_leaves_no_manifest(tmp_path: Path) -> None:
    def broken() -> Iterator[tuple[str, Tensor]]:
        yield "public.0.weight", torch.zeros(5, 3)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        checkpoint.write_weights(tmp_path / "dit", broken(), preset="TINY", component="dit", shard_bytes=1)
    with pytest.raises(WeightsError):
        open_weights(tmp_path / "dit")
    write(tmp_path / "dit")
    open_weights(tmp_path / "dit").verify()


def test_single_file_and_index_open_alike(tmp_path: Path) -> None:
    tensors = small_tensors()
    save_file(tensors, tmp_path / "all.safetensors")
    index = tmp_path / "sharded"
    index.mkdir()
    listing = {}
    for number, (key, tensor) in enumerate(tensors.items()):
        listing[key] = f"model-{number}.safetensors"
        save_file({key: tensor}, index / listing[key])
    (index / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listing}))
    for path in (tmp_path / "all.safetensors", tmp_path, index):
        module = on_meta()
        checkpoint.load_module(module, NAMES, open_weights(path))
        assert torch.equal(module.first.weight, tensors["public.0.weight"])


def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path: Path) -> None:
    save_file(small_tensors(), tmp_path / "model-0.safetensors")
    listing = dict.fromkeys([*NAMES, "ghost"], "model-0.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listing}))
    with pytest.raises(MissingTensorError, match=r"model-0\.safetensors: tensor ghost"):
        open_weights(tmp_path)
    del listing["ghost"], listing["scale"]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listing}))
    with pytest.raises(SurplusTensorError, match=r"model-0\.safetensors: tensor scale"):
        open_weights(tmp_path)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda tensors: tensors.pop("scale"), MissingTensorError, "1 missing: scale"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), SurplusTensorError, "surplus: extra .*weights-0000"),
        (
            lambda tensors: tensors.update({"public.0.bias": torch.ones(4)}),
            MisshapedTensorError,
            r"public\.0\.bias is \[4\] F32 in weights-0000\d\.safetensors, not \[5\]",
        ),
        (
            lambda tensors: tensors.update({"public.0.bias": torch.ones(5, dtype=torch.int64)}),
            MisshapedTensorError,
            r"public\.0\.bias is \[5\] I64",
        ),
    ],
    ids=["missing", "surplus", "shape", "integers"],
)
def test_other_tensors_are_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], kind: type[WeightsError], message: str
) -> None:
    tensors, module = small_tensors(), on_meta()
    change(tensors)
    write(tmp_path / "dit", tensors)
    with pytest.raises(kind, match=message) as caught:
        checkpoint.load_module(module, NAMES, open_weights(tmp_path / "dit"))
    assert str(tmp_path / "dit") in str(caught.value)
    assert_untouched(module)


def test_assign_refuses_what_does_not_fit() -> None:
    module, tensors = on_meta(), small_tensors()
    tensors["public.0.weight"] = torch.zeros(3, 5)
    with pytest.raises(MisshapedTensorError, match=r"public\.0\.weight is \[3, 5\]"):
        checkpoint.assign(module, NAMES, tensors)
    assert_untouched(module)


def test_a_module_takes_its_part_of_a_larger_set(tmp_path: Path) -> None:
    tensors = small_tensors() | {"other": torch.zeros(7)}
    write(tmp_path / "dit", tensors)
    expected = checkpoint.public_shapes(on_meta(), NAMES) | {"other": (7,)}
    module = on_meta()
    checkpoint.load_module(module, NAMES, open_weights(tmp_path / "dit"), expected=expected)
    assert torch.equal(module.scale, tensors["scale"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_every_flipped_bit_is_found(
    converted: Path, damaged: Callable[[str, bytes], Path], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(path.name for path in converted.glob("*.safetensors"))))
    content = bytearray((converted / name).read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    module = on_meta()
    with pytest.raises(WeightsError) as caught:
        checkpoint.load_module(module, NAMES, open_weights(damaged(name, bytes(content))))
    assert name in str(caught.value)
    hit = [key for key, entry in read_header(converted / name).items() if entry.start <= position < entry.end]
    assert all(key in str(caught.value) for key in hit)
    assert_untouched(module)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_every_truncation_is_named(converted: Path, damaged: Callable[[str, bytes], Path], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(path.name for path in converted.glob("*.safetensors"))))
    content = (converted / name).read_bytes()
    length = data.draw(st.integers(0, len(content) - 1))
    with pytest.raises(DamagedFileError, match=rf"{name}: truncated") as caught:
        open_weights(damaged(name, content[:length]))
    cut = [key for key, entry in read_header(converted / name).items() if entry.start <= length < entry.end]
    assert all(key in str(caught.value) for key in cut)


@pytest.mark.parametrize("tail", [b"\0", b"more"])
def test_a_file_that_is_too_long_is_refused(
    converted: Path, damaged: Callable[[str, bytes], Path], tail: bytes
) -> None:
    content = (converted / "weights-00001.safetensors").read_bytes()
    with pytest.raises(DamagedFileError, match=r"weights-00001\.safetensors"):
        open_weights(damaged("weights-00001.safetensors", content + tail))


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{", b'{"a": {}}', b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', b"\xff\xff"],
)
def test_an_unreadable_header_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(header).to_bytes(HEADER_LENGTH_BYTES, "little") + header)
    with pytest.raises(DamagedFileError, match=r"bad\.safetensors: unreadable header"):
        open_weights(path)


def test_a_header_with_a_hole_between_tensors_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(header).to_bytes(HEADER_LENGTH_BYTES, "little") + header + bytes(8))
    with pytest.raises(DamagedFileError, match="tensor a begins at"):
        open_weights(path)


def test_something_else_than_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.safetensors").write_bytes(b"<!doctype html><html></html>")
    with pytest.raises(DamagedFileError, match="not a safetensors file"):
        open_weights(tmp_path / "page.safetensors")


def test_a_lost_shard_is_named(converted: Path, damaged: Callable[[str, bytes], Path]) -> None:
    folder = damaged("", b"")
    (folder / "weights-00002.safetensors").unlink()
    with pytest.raises(DamagedFileError, match=r"weights-00002\.safetensors: is missing"):
        open_weights(folder)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"format": 1, "files": 3}',
        '{"format": 1, "files": [{"name": "x"}]}',
        '{"format": 1, "preset": "a", "component": "b", "config": {}, "files": '
        '[{"name": "../x", "bytes": 1, "sha256": "", "tensors": {}}]}',
    ],
)
def test_a_bad_manifest_is_refused(damaged: Callable[[str, bytes], Path], content: str) -> None:
    with pytest.raises(DamagedFileError, match=MANIFEST):
        open_weights(damaged(MANIFEST, content.encode()))


def test_weights_without_a_manifest_cannot_be_verified(tmp_path: Path) -> None:
    save_file(small_tensors(), tmp_path / "all.safetensors")
    with pytest.raises(DamagedFileError, match="no manifest"):
        open_weights(tmp_path).verify()


def test_the_model_digest_knows_content_but_not_order(tmp_path: Path) -> None:
    first = write(tmp_path / "a")
    other = write(tmp_path / "b", small_tensors(seed=1))
    again = write(tmp_path / "c")
    assert first.digest == again.digest != other.digest
    assert model_digest([first, other]) == model_digest([other, first]) != model_digest([first, again])
