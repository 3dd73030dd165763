"""Files that a user names: checked before work begins, and never replaced by half of what they should hold.

Knows paths and descriptors; nothing of what the files hold.
"""

import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_DESCRIPTOR = re.compile(r"/proc/(?:self|\d+)(?:/task/\d+)?/fd/\d+|/dev/fd/\d+")
_MOST_LINKS = 40
"""As the kernel has it."""
_WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True)
class OutputPath:
    """Where a file that a user named is written."""

    given: Path
    """As the user wrote it, for messages."""
    path: Path
    """The same with all links resolved: what is replaced is the file that a link names, not the link."""
    is_stream: bool
    """A device, a pipe or a descriptor such as /dev/stdout: it is written through and never replaced."""

    @property
    def is_stdout(self) -> bool:
        """Whether what is written through goes to this process's standard output."""
        try:
            return self.is_stream and os.path.samestat(self.path.stat(), os.fstat(1))
        except OSError:
            return False

    @property
    def own_descriptor(self) -> int | None:
        """Number of the descriptor of this process that it is, if it is one."""
        of_process, _, number = str(self.path).rpartition("/fd/")
        return int(number) if of_process in ("/dev", "/proc/self", f"/proc/{os.getpid()}") else None

    def beside(self, ending: str) -> Path:
        """A name in the same folder that nothing has, for what is not finished; short, whatever the file's own is."""
        return self.path.with_name(f".live-avatar-{secrets.token_hex(6)}.{ending}")


def check_output(path: Path, inputs: Iterable[Path] = ()) -> OutputPath:
    """Finds out where a file called ``path`` can be written, and changes nothing.

    Args:
        path: as the user wrote it.
        inputs: files that are read meanwhile and must not be written over.

    Raises:
        ValueError: it is one of ``inputs``, by whatever name.
        OSError: it is a folder, a disk or write-protected, or no file can be there.
    """
    resolved = _resolve(path)
    is_descriptor = _DESCRIPTOR.fullmatch(str(resolved)) is not None
    try:
        status = resolved.stat()
    except FileNotFoundError:
        _check_parent(path, resolved)
        return OutputPath(path, resolved, is_stream=is_descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(f"{path} is a folder; name a file in it")
    if stat.S_ISBLK(status.st_mode) or (stat.S_ISSOCK(status.st_mode) and not is_descriptor):
        raise OSError(f"{path} is a {'disk' if stat.S_ISBLK(status.st_mode) else 'socket'}; name a file")
    is_file = stat.S_ISREG(status.st_mode)
    if not os.access(resolved, os.W_OK) or (is_file and not is_descriptor and not status.st_mode & _WRITE_BITS):
        raise PermissionError(f"{path} is write-protected; choose another name")
    if not stat.S_ISCHR(status.st_mode):
        _check_inputs(path, status, inputs)
    if is_file and not is_descriptor:
        _check_parent(path, resolved)
    return OutputPath(path, resolved, is_stream=is_descriptor or not is_file)


def check_output_folder(path: Path) -> None:
    """Raises OSError where no files can be written into a folder called ``path``, which may be missing yet."""
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"{path}: not a folder")
    _check_parent(path, path.absolute() / "any")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file that takes the place of ``path`` once the block has succeeded, and is removed where it fails.

    A device or a pipe cannot be replaced: it is yielded itself.  Folders are made.

    Raises:
        OSError: see ``check_output``.
    """
    output = check_output(path)
    if output.is_stream:
        yield output.path
        return
    output.path.parent.mkdir(parents=True, exist_ok=True)
    partial = output.beside(f"partial{output.path.suffix}")
    try:
        yield partial
        put_in_place(partial, output.path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path``, whole or not at all; see ``replacing``."""
    with replacing(path) as file:
        file.write_text(text)


def put_in_place(finished: Path, path: Path) -> None:
    """Gives a finished file the name ``path``, and the permissions of the file it replaces."""
    if path.exists():
        shutil.copymode(path, finished)
    finished.replace(path)


def ffmpeg_name(path: Path) -> str:
    """``path`` as FFmpeg takes it for a file, whatever colons, bars and percent signs it holds."""
    return f"file:{path.absolute()}"


def _resolve(path: Path) -> Path:
    """``path`` with links resolved, but for the last step of those that stand for an open descriptor."""
    here = path.absolute()
    for _ in range(_MOST_LINKS):
        here = Path(os.path.realpath(here.parent)) / here.name
        if _DESCRIPTOR.fullmatch(str(here)) or not here.is_symlink():
            return here
        here = here.parent / here.readlink()
    raise OSError(f"{path}: too many links lead from one to another")


def _check_parent(path: Path, resolved: Path) -> None:
    """Raises OSError where no file can be made beside ``resolved``; folders that are missing can be made."""
    folder = next(parent for parent in resolved.parents if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"{path}: {folder} is not a folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: nothing may be written in {folder}")


def _check_inputs(path: Path, status: os.stat_result, inputs: Iterable[Path]) -> None:
    for each in inputs:
        if each.exists() and os.path.samestat(status, each.stat()):
            raise ValueError(f"{path} is the same file as the input {each}; choose another name for the output")
