"""What a device is called and how much of it is free."""

from pathlib import Path

import pytest
import torch

from live_avatar.model.device import device_identity, free_bytes, open_device

CPU = torch.device("cpu")


def kernel(root: Path, **files: str) -> Path:
    """A folder that looks like the kernel's."""
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 4000 kB\n")
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    for name, text in files.items():
        (group / f"memory.{name}").write_text(text)
    return root


def test_free_memory_of_a_machine(tmp_path: Path) -> None:
    assert free_bytes(CPU, kernel(tmp_path)) == 4000 * 1024


def test_free_memory_of_a_container_without_a_limit(tmp_path: Path) -> None:
    assert free_bytes(CPU, kernel(tmp_path, max="max\n", current="5\n")) == 4000 * 1024


@pytest.mark.parametrize(("current", "free"), [("900000\n", 200_000), ("2000000\n", 0)])
def test_free_memory_of_a_container(tmp_path: Path, current: str, free: int) -> None:
    root = kernel(tmp_path, max="1000000\n", current=current, stat="anon 5\ninactive_file 100000\n")
    assert free_bytes(CPU, root) == free


def test_this_machine_has_memory() -> None:
    assert free_bytes(CPU) > 2**20


def test_devices() -> None:
    threads = torch.get_num_threads()
    assert open_device("cpu", threads) == CPU
    assert torch.get_num_threads() == threads
    assert device_identity(CPU).startswith("cpu:")


@pytest.mark.parametrize("name", ["abacus", "cuda:99", ""])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(ValueError, match="device"):
        open_device(name, torch.get_num_threads())
