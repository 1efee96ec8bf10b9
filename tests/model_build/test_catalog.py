"""Where weights come from: the cache, the folder MAIX_POSENET_DATA, or a download. Wrong files are refused."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from common.errors import UserError
from model_build import catalog
from model_build.catalog import Entry
from model_build.importers import tfjs_checkpoint
from tests.support import posenet_forms as forms


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
    return Entry("net", source.as_uri(), 7000, digest, "a test")


def test_a_file_is_downloaded_once(cache: Path, entry: Entry) -> None:
    """The second time the file comes from the cache, although the server is gone."""
    assert catalog.locate(entry) is None
    path = catalog.obtain(entry)
    assert path.is_relative_to(cache) and path.stat().st_size == 7000
    assert catalog.obtain(replace(entry, url="file:///nowhere")) == path


def test_wrong_hash_is_refused(cache: Path, entry: Entry) -> None:
    """The message names both hashes, and nothing stays behind."""
    wrong = replace(entry, sha256="0" * 64)
    with pytest.raises(UserError, match=f"{entry.sha256} instead of {'0' * 64}"):
        catalog.obtain(wrong)
    assert not list(cache.rglob("*.bin*"))


def test_an_unreachable_server_is_named_with_the_folder_to_use(cache: Path, entry: Entry) -> None:
    """Without the internet the message says what to get and where to put it."""
    with pytest.raises(UserError, match="file:///nowhere.*put it into .*maix-posenet"):
        catalog.obtain(replace(entry, url="file:///nowhere"))


def test_the_data_folder_is_searched_by_name_and_by_content(
    cache: Path, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody renamed the file. A damaged file of the right name is ignored."""
    data = tmp_path / "data" / "deep"
    data.mkdir(parents=True)
    monkeypatch.setenv("MAIX_POSENET_DATA", str(tmp_path / "data"))
    (data / "weights.bin").write_bytes(b"x" * 7000)
    assert catalog.locate(entry) is None
    (data / "renamed.bin").write_bytes(b"weights" * 1000)
    assert catalog.locate(entry) == data / "renamed.bin"
    (data / "weights.bin").write_bytes(b"weights" * 1000)
    assert catalog.locate(entry) == data / "weights.bin"


def test_the_cache_is_searched_by_content(cache: Path, entry: Entry) -> None:
    """Somebody put the file there under the name that it had elsewhere."""
    cache.mkdir(parents=True, exist_ok=True)
    (cache / "renamed.bin").write_bytes(b"weights" * 1000)
    assert catalog.locate(entry) == cache / "renamed.bin"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Entry:
    """A tfjs checkpoint behind a URL."""
    network = forms.tiny_posenet(1, blocks=tfjs_checkpoint.BLOCK_STRIDES_16)
    manifest = forms.write_tfjs_checkpoint(network, tmp_path / "server")
    return Entry(
        "net", manifest.as_uri(), manifest.stat().st_size,
        hashlib.sha256(manifest.read_bytes()).hexdigest(), "a test", kind="tfjs-checkpoint",
        whole_sha256=tfjs_checkpoint.digest(manifest),
    )  # fmt: skip


PART = "MobilenetV1_heatmap_2_biases"


def _damage(path: Path) -> None:
    """The same length with other bytes, so that only a hash can tell."""
    path.write_bytes(bytes(path.stat().st_size))


def test_a_checkpoint_is_checked_with_all_its_parts(cache: Path, checkpoint: Entry, tmp_path: Path) -> None:
    """A tfjs checkpoint is its manifest and all parts. A changed part is refused and not kept."""
    network = forms.tiny_posenet(1, blocks=tfjs_checkpoint.BLOCK_STRIDES_16)
    forms.assert_same_weights(network, tfjs_checkpoint.load(catalog.obtain(checkpoint)))
    for part in (cache / "net").glob("Mobilenet*"):
        part.unlink()
    _damage(tmp_path / "server" / PART)
    with pytest.raises(UserError, match="refused, nothing kept"):
        catalog.obtain(checkpoint)
    assert not list((cache / "net").glob("Mobilenet*"))


def test_a_part_that_was_damaged_on_disk_is_fetched_again(cache: Path, checkpoint: Entry) -> None:
    """It must not pass under the catalogue's name.

    Without the server the message names the folder that holds the damage, and no other part is lost.
    """
    manifest = catalog.obtain(checkpoint)
    good = (manifest.parent / PART).read_bytes()
    _damage(manifest.parent / PART)
    assert catalog.locate(checkpoint) is None
    with pytest.raises(UserError, match=r"net holds net, but a part of it is damaged; cannot get file:///nowhere"):
        catalog.obtain(replace(checkpoint, url="file:///nowhere/manifest.json"))
    assert not catalog._parts_missing(manifest, checkpoint)
    assert catalog.obtain(checkpoint) == manifest
    assert (manifest.parent / PART).read_bytes() == good


def test_a_damaged_checkpoint_of_the_user_is_not_used(
    cache: Path, checkpoint: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged or incomplete copy in the user's folder is ignored if there is a good one, and never written to."""
    data = tmp_path / "data"
    shutil.copytree(tmp_path / "server", data / "mine")
    monkeypatch.setenv("MAIX_POSENET_DATA", str(data))
    assert catalog.obtain(checkpoint) == data / "mine" / "manifest.json"
    _damage(data / "mine" / PART)
    assert catalog.obtain(checkpoint) == cache / "net" / "manifest.json"
    assert not any((data / "mine" / PART).read_bytes())
    (data / "mine" / PART).unlink()
    assert catalog.obtain(checkpoint) == cache / "net" / "manifest.json"
    assert not (data / "mine" / PART).exists()


class _Answer(BaseHTTPRequestHandler):
    """Answers by path: `short` ends early, `chunked` breaks off inside a chunk, and others send their own path."""

    def do_GET(self) -> None:
        body = self.path.encode() * 100
        self.send_response(200)
        if "chunked" in self.path:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n" % (2 * len(body)) + body)
        else:
            self.send_header("Content-Length", str(len(body) + (1000 if "short" in self.path else 0)))
            self.end_headers()
            self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *arguments: object) -> None:
        """Say nothing, so that only pytest prints."""


@pytest.fixture
def server() -> Iterator[str]:
    """The URL of a real HTTP server on this machine."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "says"), [("short.bin", r"ended after 1,000 of 2,000 bytes"), ("chunked.bin", "IncompleteRead")]
)
def test_a_download_that_ends_early_is_refused(cache: Path, server: str, path: str, says: str) -> None:
    """Python's reader sees no error in a broken connection. If no hash is known, the length must tell.

    Nothing stays behind that the next run could use.
    """
    with pytest.raises(UserError, match=says):
        catalog.from_url(f"{server}/{path}")
    assert not [found for found in cache.rglob("*") if found.is_file()]


def test_a_wrong_size_is_refused_without_a_hash_too(cache: Path, entry: Entry) -> None:
    """The catalogue may know a size but no hash."""
    with pytest.raises(UserError, match="ended after 7,000 of 7,001 bytes"):
        catalog.obtain(replace(entry, sha256=None, bytes=7001))


def test_two_urls_with_the_same_file_name_are_two_files(cache: Path, server: str) -> None:
    """Two releases often have the same file name. Each URL has its own file and is asked only once."""
    one, other = (catalog.from_url(f"{server}/{version}/firmware.bin?raw=true") for version in ("v1", "v2"))
    assert (one.name, other.name) == ("firmware.bin", "firmware.bin")
    assert one.read_bytes() != other.read_bytes()
    one.write_bytes(b"as it came")
    assert catalog.from_url(f"{server}/v1/firmware.bin?raw=true").read_bytes() == b"as it came"


def test_names_are_unique_and_files_pinned() -> None:
    """No two entries may have the same name, and everything that is downloaded needs a size and a hash."""
    entries = catalog.NETWORKS + catalog.FIRMWARE
    assert len({entry.name for entry in entries}) == len(entries)
    assert len({entry.url for entry in entries if entry.url}) == sum(bool(entry.url) for entry in entries)
    for entry in entries:
        if entry.path is None:
            assert entry.url.startswith("https://") and entry.bytes and entry.sha256 and len(entry.sha256) == 64
    assert catalog.find("maixpy-minimum", "firmware") and not catalog.find("maixpy-minimum")


@pytest.mark.weights
def test_a_shared_name_prefers_what_is_here(data_dir: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """posenet-075 is tfjs's network if that is at hand, and Coral's if only that is."""
    assert catalog.find("posenet-075").name == "posenet-075-tfjs"  # type: ignore[union-attr]
    monkeypatch.setenv("MAIX_POSENET_DATA", str(data_dir / "weights" / "coral"))
    assert catalog.find("posenet-075").name == "posenet-075-coral"  # type: ignore[union-attr]
    monkeypatch.setenv("MAIX_POSENET_DATA", str(data_dir))
    assert catalog.find("posenet-075").name == "posenet-075-tfjs"  # type: ignore[union-attr]


def test_scores_against_ghosts_belong_to_weights() -> None:
    """Our own networks have no hash in the catalogue, so the present file must be recognised by its content."""
    ours = catalog.find("people-k210")
    assert ours is not None and ours.path is not None
    assert catalog.appear_score(hashlib.sha256(ours.path.read_bytes()).hexdigest()) == ours.appear_score > 0
    assert catalog.appear_score(hashlib.sha256(b"somebody's own").hexdigest()) == 0
