"""A FAT32 card image as a camera or a PC formats it (partition table, one partition), and a reader of such images.

It is written from Microsoft's FAT specification, independently of the file system under test, which is MaixPy's.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

SECTOR = 512
CLUSTER_SECTORS = 8
CLUSTER = CLUSTER_SECTORS * SECTOR
PARTITION_SECTOR, RESERVED_SECTORS, CLUSTERS = 2048, 32, 66_000  # FAT32 begins at 65,525 clusters
FAT_SECTORS = -(-4 * (CLUSTERS + 2) // SECTOR)
PARTITION_SECTORS = RESERVED_SECTORS + 2 * FAT_SECTORS + CLUSTERS * CLUSTER_SECTORS
FIRST_FAT = PARTITION_SECTOR + RESERVED_SECTORS
FIRST_DATA = FIRST_FAT + 2 * FAT_SECTORS
ROOT_CLUSTER, END_OF_CHAIN = 2, 0x0FFFFFFF
DIRECTORY, VOLUME_LABEL, LONG_NAME = 0x10, 0x08, 0x0F
SMALL = 0x18  # Windows NT: stem and suffix are in small letters


def create(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the image of a formatted card of 260 MiB with these files in its root.

    Names have the form 8.3, all in capitals or all in small letters. The image is a sparse file.
    """
    fat = [0x0FFFFFF8, END_OF_CHAIN, END_OF_CHAIN]
    root, data = bytearray(), bytearray(CLUSTER)
    for name, content in files.items():
        stem, _, suffix = name.upper().partition(".")
        case = SMALL if name.islower() else 0
        first = len(fat) if content else 0
        clusters = -(-len(content) // CLUSTER)
        fat += [*range(first + 1, first + clusters), END_OF_CHAIN] if clusters else []
        data += content.ljust(clusters * CLUSTER, b"\0")
        root += struct.pack(
            "<8s3sBBBHHHHHHHI", stem.encode().ljust(8), suffix.encode().ljust(3), 0x20, case, 0, 0, 0x5000, 0x5000,
            first >> 16, 0, 0x5000, first & 0xFFFF, len(content),
        )  # fmt: skip
    assert len(root) <= CLUSTER
    data[: len(root)] = root
    boot = bytearray(SECTOR)
    struct.pack_into(
        "<3s8sHBHBHHBHHHIIIHHIHH12sBBBI11s8s", boot, 0, b"\xeb\x58\x90", b"MSDOS5.0", SECTOR, CLUSTER_SECTORS,
        RESERVED_SECTORS, 2, 0, 0, 0xF8, 0, 63, 255, PARTITION_SECTOR, PARTITION_SECTORS, FAT_SECTORS, 0, 0,
        ROOT_CLUSTER, 1, 6, b"",
        0x80, 0, 0x29, 0x12345678, b"NO NAME    ", b"FAT32   ",
    )  # fmt: skip
    information = bytearray(SECTOR)
    struct.pack_into("<I", information, 0, 0x41615252)
    struct.pack_into("<III", information, 484, 0x61417272, CLUSTERS + 2 - len(fat), len(fat))
    table = bytearray(SECTOR)
    struct.pack_into("<BBBBBBBBII", table, 446, 0, 0, 2, 0, 0x0C, 0, 2, 0, PARTITION_SECTOR, PARTITION_SECTORS)
    for sector in (boot, information, table):
        sector[510:] = b"\x55\xaa"
    entries = struct.pack(f"<{len(fat)}I", *fat)
    with path.open("wb") as card:
        card.truncate((PARTITION_SECTOR + PARTITION_SECTORS + 4096) * SECTOR)
        sectors: bytes | bytearray
        for at, sectors in (
            (0, table), (PARTITION_SECTOR, boot), (PARTITION_SECTOR + 1, information), (PARTITION_SECTOR + 6, boot),
            (FIRST_FAT, entries), (FIRST_FAT + FAT_SECTORS, entries), (FIRST_DATA, data),
        ):  # fmt: skip
            card.seek(at * SECTOR)
            card.write(sectors)


def read(path: Path) -> dict[str, bytes]:
    """All files by their path, with their long names where they have one.

    Fails unless the two copies of the file allocation table agree.
    """
    with path.open("rb") as file:
        image = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    copies = [image[SECTOR * at : SECTOR * (at + FAT_SECTORS)] for at in (FIRST_FAT, FIRST_FAT + FAT_SECTORS)]
    assert copies[0] == copies[1], "the copies of the file allocation table differ"
    fat = struct.unpack(f"<{len(copies[0]) // 4}I", copies[0])

    def chain(cluster: int) -> bytes:
        content = bytearray()
        while 2 <= cluster < 0x0FFFFFF8:
            at = SECTOR * FIRST_DATA + CLUSTER * (cluster - 2)
            content += image[at : at + CLUSTER]
            cluster = fat[cluster] & END_OF_CHAIN
        return bytes(content)

    def directory(cluster: int, prefix: str) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        long_name = ""
        content = chain(cluster)
        for at in range(0, len(content), 32):
            entry = content[at : at + 32]
            if entry[0] == 0:
                break
            if entry[11] == LONG_NAME and entry[0] != 0xE5:
                part = (entry[1:11] + entry[14:26] + entry[28:32]).decode("utf-16-le")
                long_name = part.split("\0")[0] + long_name
                continue
            stem, suffix = entry[:8].decode("latin-1").rstrip(), entry[8:11].decode("latin-1").rstrip()
            name, long_name = long_name or (f"{stem}.{suffix}" if suffix else stem), ""
            if entry[0] in (0xE5, 0x2E) or entry[11] & VOLUME_LABEL:
                continue
            first = int.from_bytes(entry[20:22], "little") << 16 | int.from_bytes(entry[26:28], "little")
            if entry[11] & DIRECTORY:
                found |= directory(first, f"{prefix}{name}/")
            else:
                found[prefix + name] = chain(first)[: int.from_bytes(entry[28:32], "little")]
        return found

    return directory(ROOT_CLUSTER, "")
