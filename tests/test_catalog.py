"""Where weights come from: cache, the folder MAIX_POSENET_DATA, download; wrong ones are refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import UserError
from model_build import catalog
from model_build.catalog import Entry
from tests import posenet_forms as forms


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no data folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("MAIX_POSENET_DATA", raising=False)
    return tmp_path / "cache" / "maix-posenet"


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    """A file behind a URL."""
    source = tmp_path / "server" / "weights.bin"
    source.parent.mkdir()
    source.write_bytes(b"weights" * 1000)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    return Entry("net", "weights.bin", source.as_uri(), 7000, digest, "a test")


def test_downloads_once(cache: Path, entry: Entry) -> None:
    """The second time the file comes from the cache, with the server gone."""
    assert catalog.locate(entry) is None
    path = catalog.obtain(entry)
    assert path.is_relative_to(cache) and path.stat().st_size == 7000
    assert catalog.obtain(replace(entry, url="file:///nowhere")) == path


def test_wrong_hash_is_refused(cache: Path, entry: Entry) -> None:
    """Both hashes are said, and nothing stays behind."""
    wrong = replace(entry, sha256="0" * 64)
    with pytest.raises(UserError, match=f"{entry.sha256}, wanted is {'0' * 64}"):
        catalog.obtain(wrong)
    assert not list(cache.rglob("*.bin*"))


def test_unreachable_names_url_and_folder(cache: Path, entry: Entry) -> None:
    """Without a network the message says what to get and where to put it."""
    with pytest.raises(UserError, match="file:///nowhere.*put it into .*maix-posenet"):
        catalog.obtain(replace(entry, url="file:///nowhere"))


def test_data_folder_by_name_and_by_content(
    cache: Path, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's folder is searched by name, then by content under another name; a damaged file is passed over."""
    data = tmp_path / "data" / "deep"
    data.mkdir(parents=True)
    monkeypatch.setenv("MAIX_POSENET_DATA", str(tmp_path / "data"))
    (data / "weights.bin").write_bytes(b"x" * 7000)
    assert catalog.locate(entry) is None
    (data / "renamed.bin").write_bytes(b"weights" * 1000)
    assert catalog.locate(entry) == data / "renamed.bin"
    (data / "weights.bin").write_bytes(b"weights" * 1000)
    assert catalog.locate(entry) == data / "weights.bin"


def test_cache_by_content(cache: Path, entry: Entry) -> None:
    """A file that the user put there under the name that it had elsewhere is found as well."""
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "renamed.bin").write_bytes(b"weights" * 1000)
    assert catalog.locate(entry) == cache / "renamed.bin"


def test_checkpoint_with_parts(cache: Path, tmp_path: Path) -> None:
    """A tfjs checkpoint is its manifest and all parts; a part that was altered is refused and not kept."""
    from model_build.importers import tfjs_checkpoint

    network = forms.tiny_posenet(1, blocks=tfjs_checkpoint.BLOCK_STRIDES_16)
    manifest = forms.write_tfjs_checkpoint(network, tmp_path / "server")
    entry = Entry(
        "net", "manifest.json", manifest.as_uri(), manifest.stat().st_size,
        hashlib.sha256(manifest.read_bytes()).hexdigest(), "a test", kind="tfjs-checkpoint",
        whole_sha256=tfjs_checkpoint.digest(manifest),
    )  # fmt: skip
    forms.assert_same_weights(network, tfjs_checkpoint.load(catalog.obtain(entry)))
    for part in (cache / "net").glob("Mobilenet*"):
        part.unlink()
    part = tmp_path / "server" / "MobilenetV1_heatmap_2_biases"
    part.write_bytes(bytes(len(part.read_bytes())))
    with pytest.raises(UserError, match="refused, nothing kept"):
        catalog.obtain(entry)
    assert not list((cache / "net").glob("Mobilenet*"))


def test_names_are_unique_and_files_pinned() -> None:
    """No two entries of one name; everything that is downloaded has its size and hash."""
    entries = catalog.NETWORKS + catalog.FIRMWARE
    assert len({entry.name for entry in entries}) == len(entries)
    for entry in entries:
        if entry.path is None:
            assert entry.url.startswith("https://") and entry.bytes and entry.sha256 and len(entry.sha256) == 64
    assert catalog.find("maixpy-minimum", "firmware") and not catalog.find("maixpy-minimum")


@pytest.mark.weights
def test_shared_name_prefers_what_is_here(data_dir: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """posenet-075 is tfjs's where that is at hand, and Coral's where only that is."""
    assert catalog.find("posenet-075").name == "posenet-075-tfjs"  # type: ignore[union-attr]
    monkeypatch.setenv("MAIX_POSENET_DATA", str(data_dir / "weights" / "coral"))
    assert catalog.find("posenet-075").name == "posenet-075-coral"  # type: ignore[union-attr]
    monkeypatch.setenv("MAIX_POSENET_DATA", str(data_dir))
    assert catalog.find("posenet-075").name == "posenet-075-tfjs"  # type: ignore[union-attr]
