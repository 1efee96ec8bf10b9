"""Files that are written completely or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from common.errors import UserError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; renamed to `path` on success, removed on any error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path`, completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def check_folder(path: Path, option: str) -> None:
    """UserError unless `path`, given as `option`, is a folder or can become one."""
    there = next(part for part in (path.absolute(), *path.absolute().parents) if part.exists())
    if not there.is_dir():
        raise UserError(f"{option} {path}: {there} is a file; give a folder", exit_code=2)
    if not os.access(there, os.W_OK):
        raise UserError(f"{option} {path}: nothing can be written in {there}; give another place", exit_code=2)


def check_file(path: Path, option: str) -> None:
    """UserError unless `path`, given as `option`, is a file or can become one."""
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; give a file", exit_code=2)
    check_folder(path.absolute().parent, option)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
