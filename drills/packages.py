"""Programs of Debian packages that are not installed: fetched once into a folder, without root."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CACHE = Path.home() / ".cache" / "live-avatar" / "drills"
FETCH_S = 120.0


class ProgramMissingError(RuntimeError):
    """A program is neither installed nor to be had from Debian."""


@dataclass(frozen=True)
class Program:
    """Where a program is, and where its libraries are."""

    path: Path
    libraries: Path | None = None

    @property
    def environment(self) -> dict[str, str]:
        """Variables that it needs."""
        return {"LD_LIBRARY_PATH": str(self.libraries)} if self.libraries else {}


def find_program(name: str, packages: tuple[str, ...], cache: Path = CACHE) -> Program:
    """The installed program, or that of Debian's packages in ``cache``.

    Args:
        name: of the program, in a folder for programs.
        packages: that hold it and the libraries which a Debian without it lacks.
        cache: folder that packages are unpacked to.

    Raises:
        ProgramMissingError: it is not installed and cannot be fetched.
    """
    installed = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if installed:
        return Program(Path(installed))
    found = cache / "usr" / "sbin" / name
    if not found.exists():
        _fetch(name, packages, cache)
    libraries = next((cache / "usr" / "lib").glob("*-linux-gnu"), None)
    return Program(found, libraries)


def _fetch(name: str, packages: tuple[str, ...], cache: Path) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    try:
        for package in packages:
            _run(["apt-get", "download", "-qq", package], cache)
        for file in cache.glob("*.deb"):
            _run(["dpkg", "-x", file.name, "."], cache)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        message = f"{name} is not installed and cannot be fetched from Debian: {str(reason).strip()}"
        raise ProgramMissingError(message) from None


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=FETCH_S)
