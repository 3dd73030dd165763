"""Files that a user names: where they may be written, and that nothing half-made takes their place."""

import os
import stat
from pathlib import Path

import pytest

from live_avatar.files import check_output, check_output_folder, ffmpeg_name, replacing, write_text


def test_a_new_file_and_one_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "one")
    path.chmod(0o640)
    write_text(path, "two")
    assert path.read_text() == "two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_failure_changes_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), replacing(path) as file:
        file.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("exists", [True, False])
def test_the_target_of_a_link_is_replaced_and_the_link_stays(tmp_path: Path, exists: bool) -> None:
    target, link, chain = tmp_path / "folder" / "target", tmp_path / "link", tmp_path / "chain"
    target.parent.mkdir()
    if exists:
        target.write_text("before")
    link.symlink_to(Path("folder") / "target")
    chain.symlink_to(link)
    write_text(chain, "after")
    assert (link.is_symlink(), chain.is_symlink(), target.is_symlink()) == (True, True, False)
    assert target.read_text() == "after"
    assert os.listdir(target.parent) == ["target"]


def test_a_link_that_leads_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="too many links"):
        check_output(tmp_path / "loop")


def test_devices_are_written_through() -> None:
    node = os.stat("/dev/null")
    write_text(Path("/dev/null"), "gone")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.path.samestat(node, os.stat("/dev/null"))
    assert check_output(Path("/dev/null")).is_stream


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
def test_an_open_descriptor_is_written_through_even_where_it_is_a_file(tmp_path: Path, name: str) -> None:
    with (tmp_path / "a").open("wb") as file:
        path = Path(name.format(file.fileno()))
        if name == "link":
            path = tmp_path / "link"
            path.symlink_to(f"/dev/fd/{file.fileno()}")
        output = check_output(path)
        assert output.is_stream
        assert output.own_descriptor == file.fileno()
        assert not output.is_stdout


def test_what_can_be_no_output(tmp_path: Path) -> None:
    protected = tmp_path / "protected"
    protected.touch(mode=0o444)
    for path, reason in (
        (tmp_path, "is a folder"),
        (protected, "is write-protected"),
        (protected / "a", "Not a directory"),
        (tmp_path / ("x" * 300), "name too long"),
    ):
        with pytest.raises(OSError, match=f"(?i){reason}"):
            check_output(path)


def test_what_can_be_no_folder_for_output(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_output_folder(tmp_path)
    check_output_folder(tmp_path / "new" / "deep")
    for path in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(NotADirectoryError, match=r"file(:| is) not a folder"):
            check_output_folder(path)


def test_an_input_is_known_by_any_name(tmp_path: Path) -> None:
    source = tmp_path / "a.wav"
    source.write_text("speech")
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "hard").hardlink_to(source)
    for name in ("a.wav", "link", "hard", "../" + tmp_path.name + "/a.wav"):
        with pytest.raises(ValueError, match="is the same file as the input"):
            check_output(tmp_path / name, (tmp_path / "absent", source))
    assert check_output(tmp_path / "other", (source,)).path == tmp_path / "other"


def test_names_for_ffmpeg_are_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ffmpeg_name(Path("12:30.wav")) == f"file:{tmp_path}/12:30.wav"
