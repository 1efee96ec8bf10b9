"""The files of /flash and /sd, on the host's side: a board's program reaches these files and nothing else.

/flash is SPIFFS: without folders, and with its own error numbers (vfs_spiffs.c). /sd is FAT: with folders, on a card
that can be full. Every name leads below the volume's own folder: `..` stops at the top, and a link that leads out of
the folder counts as missing.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from dataclasses import dataclass
from pathlib import Path

from common.flash_map import FILES_BYTES
from common.spiffs import PAGE_BYTES, taken_bytes
from sim.boards.devices import Devices

FLASH_BLOCKS = FILES_BYTES // PAGE_BYTES
CARD_BLOCKS = 1 << 20
MOST_OPEN = 256
MOST_OPEN_ON_FLASH = 2
"""MaixPy's SPIFFS can have this many files open, as seen in the emulator; files that were never closed count."""
LARGEST_READ_BYTES = 8 << 20


def _failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Volume:
    """A folder of this computer as a board's file system. All errors are OSError with the board's own number."""

    def __init__(self, root: Path, flat: bool, devices: Devices):
        self._root = root.resolve()
        self.flat = flat
        self._devices = devices

    def _path(self, name: str) -> Path:
        parts: list[str] = []
        for part in name.split("/"):
            if part == "..":
                parts = parts[:-1]
            elif part not in ("", "."):
                parts.append(part)
        path = self._root.joinpath(*parts)
        if "\0" in name or (self.flat and len(parts) > 1) or not path.resolve().is_relative_to(self._root):
            raise _failure(errno.ENOENT)
        return path

    def open(self, name: str, mode: str) -> tuple[io.FileIO, int | None]:
        """The file, and how many bytes may be written to it; None: as many as fit on the card."""
        if sorted(mode.replace("b", "").replace("t", "").replace("+", "")) not in (["a"], ["r"], ["w"], ["x"]):
            raise _failure(errno.EINVAL)
        path = self._path(name)
        plain = mode.replace("t", "").replace("b", "")
        room = None
        if self.flat:
            plain = plain.replace("x", "w")
            # SPIFFS answers ENOENT to every error of open().
            if plain.startswith("a") and not path.is_file():
                raise _failure(errno.ENOENT)
            if plain != "r":
                room = self.free_bytes() - PAGE_BYTES
                if room < PAGE_BYTES:
                    raise _failure(errno.ENOENT)
        if (
            path.exists() and not path.is_file()
        ):  # Only regular files are allowed: a pipe would block, and a device would answer.
            raise _failure(errno.ENOENT if self.flat else errno.EISDIR)
        try:
            return io.FileIO(path, plain), room
        except OSError as error:
            raise _failure(errno.ENOENT if self.flat else error.errno or errno.EIO) from None

    def take_room(self, count: int) -> None:
        """Count bytes that are written to the card; OSError if it is full."""
        room = self._devices.sd_free_bytes
        if self.flat or room is None:
            return
        if room < count:
            raise _failure(errno.ENOSPC)
        self._devices.sd_free_bytes = room - count

    def free_bytes(self) -> int:
        """Free bytes on the flash; every file takes one more block for its name."""
        used = 0
        for path in self._root.iterdir():
            with contextlib.suppress(OSError):
                used += taken_bytes(path.stat().st_size)
        return FILES_BYTES - used

    def stat(self, name: str) -> tuple[int, int, int]:
        """A file's mode, its length in bytes and the time of its last change."""
        found = self._path(name).stat()
        return found.st_mode & 0o170000, found.st_size, int(found.st_mtime)

    def statvfs(self) -> tuple[int, int, int]:
        """The size of a block in bytes, the number of blocks, and how many are free."""
        if self.flat:
            return PAGE_BYTES, FLASH_BLOCKS, self.free_bytes() // PAGE_BYTES
        room = self._devices.sd_free_bytes
        return PAGE_BYTES, CARD_BLOCKS, CARD_BLOCKS if room is None else room // PAGE_BYTES

    def list(self, name: str) -> list[tuple[str, int]]:
        """The names and modes of a folder's entries, in no particular order."""
        found = []
        for path in self._path(name).iterdir():
            with contextlib.suppress(OSError):
                found.append((path.name, self._path(f"{name}/{path.name}").stat().st_mode & 0o170000))
        return found

    def make_folder(self, name: str) -> None:
        self._path(name).mkdir()

    def remove_folder(self, name: str) -> None:
        self._path(name).rmdir()

    def remove(self, name: str) -> None:
        self._path(name).unlink()

    def rename(self, old: str, new: str) -> None:
        source, target = self._path(old), self._path(new)
        if self.flat and target.exists():
            raise _failure(errno.EIO)  # SPIFFS_ERR_CONFLICTING_NAME
        source.rename(target)


@dataclass
class _Open:
    file: io.FileIO
    volume: Volume
    room: int | None


class BoardFiles:
    """Volumes by number (0 is /flash, 1 is /sd), and the files that are open on them by handle."""

    def __init__(self, volumes: list[Volume]):
        self._volumes = volumes
        self._open: dict[int, _Open] = {}

    def volume(self, number: int) -> Volume:
        """The volume of this number; OSError (ENODEV) if there is none."""
        if not 0 <= number < len(self._volumes):
            raise _failure(errno.ENODEV)
        return self._volumes[number]

    def open(self, number: int, name: str, mode: str) -> int:
        """Open a file, and return its handle."""
        if len(self._open) >= MOST_OPEN:
            raise _failure(errno.EMFILE)
        volume = self.volume(number)
        if volume.flat and sum(found.volume is volume for found in self._open.values()) >= MOST_OPEN_ON_FLASH:
            raise _failure(errno.ENOENT)
        file, room = volume.open(name, mode)
        handle = next(i for i in range(MOST_OPEN) if i not in self._open)
        self._open[handle] = _Open(file, volume, room)
        return handle

    def _at(self, handle: int) -> _Open:
        try:
            return self._open[handle]
        except KeyError:
            raise _failure(errno.EBADF) from None

    def read(self, handle: int, count: int, position: int) -> bytes:
        """Up to `count` bytes from `position` on, all remaining ones if `count` is negative."""
        file = self._at(handle).file
        if not file.readable():
            raise _failure(errno.EBADF)
        file.seek(position)
        return file.read(min(count, LARGEST_READ_BYTES) if count >= 0 else LARGEST_READ_BYTES) or b""

    def write(self, handle: int, data: bytes, position: int) -> tuple[int, int]:
        """Write all of `data` or nothing, at `position` (negative: at the end); returns the number of bytes and the
        position after them."""
        found = self._at(handle)
        if not found.file.writable():
            raise _failure(errno.EBADF)
        found.volume.take_room(len(data))
        if found.room is not None:
            found.room -= len(data)
            if found.room < 0:
                raise _failure(errno.ENOSPC)
        found.file.seek(max(position, 0), os.SEEK_END if position < 0 else os.SEEK_SET)
        return found.file.write(data) or 0, found.file.tell()

    def size(self, handle: int) -> int:
        """The length of an open file in bytes."""
        return os.fstat(self._at(handle).file.fileno()).st_size

    def close(self, handle: int) -> None:
        """Close a handle; one that is closed already is ignored."""
        found = self._open.pop(handle, None)
        if found is not None:
            found.file.close()

    def close_all(self) -> None:
        """Close all files, as when the power is switched off."""
        for handle in list(self._open):
            self.close(handle)
