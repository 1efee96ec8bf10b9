"""Code on the simulated board reaches nothing of this computer but the folders of /flash and /sd."""

from __future__ import annotations

import os
import struct
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scripted_network import devices
from sim.boards.board_files import CARD_BLOCKS, BoardFiles, Volume
from sim.boards.board_memory import SHARED_BYTES
from sim.boards.bridge import ANSWER, LONGEST_PAYLOAD_BYTES, REQUEST, Bridge
from sim.boards.devices import Devices
from sim.boards.vm import MicroPythonVm

TRY = """
import sys
def attempt(what, *a):
    try:
        print("DONE", repr(what(*a))[:60])
    except BaseException as e:
        print("refused", repr(e)[:60])
"""


@pytest.fixture
def places(tmp_path):
    """/flash, /sd, and beside them a secret of the host's."""
    for name in ("flash", "sd", "host"):
        (tmp_path / name).mkdir()
    (tmp_path / "host" / "secret.txt").write_text("CANARY")
    return tmp_path


def run(places, program: str) -> list[str]:
    """The lines that a program on the card prints. The secret must not be among them."""
    (places / "flash" / "main.py").write_text("")
    (places / "sd" / "main.py").write_text(TRY + program.replace("HOST", str(places / "host")))
    with MicroPythonVm(places / "flash", devices(lambda frame: []), places / "sd") as vm:
        said = vm.output()
        assert vm.poll() is not None, said
        assert vm.bridge.error is None
    assert "CANARY" not in said
    return said.splitlines()[1:]


HOST_FILES = """
def mounted(vfs):
    vfs.mount(vfs.VfsPosix("/"), "/x")
    return open("/xHOST/secret.txt").read()
def written(vfs):
    vfs.mount(vfs.VfsPosix("HOST"), "/y")
    return open("/y/new.txt", "w").write("x")
core = sys.modules["_core"]
attempt(mounted, core._vfs)
attempt(written, core._vfs)
attempt(lambda: list(core._vfs.VfsPosix("HOST").ilistdir("/")))
attempt(lambda: core._vfs.VfsPosix("HOST").open("/secret.txt", "r").read())
attempt(lambda: core._vfs.VfsPosix("HOST").stat("/secret.txt"))
attempt(lambda: core._vfs.VfsPosix("HOST").remove("/secret.txt"))
attempt(lambda: core._vfs.VfsPosix("HOST").rename("/secret.txt", "/moved.txt"))
attempt(lambda: core._vfs.VfsPosix("HOST").mkdir("/made"))
attempt(lambda: core._vfs.umount("/sd"))
for name in ("HOST/secret.txt", "/../host/secret.txt", "../host/secret.txt", "/sd/../../host/secret.txt",
             "/sd/../host/secret.txt", "/flash/../host/secret.txt", "/etc/passwd", "/proc/self/environ", "link",
             "linked/secret.txt", "/sd/linked/secret.txt", "pipe"):
    attempt(lambda: open(name).read())
    attempt(lambda: open(name, "w").write("x"))
    attempt(lambda: core._os.stat(name))
    attempt(lambda: core._os.remove(name))
    attempt(lambda: core._os.rename("main.py", name + "2"))
    attempt(lambda: core._os.mkdir(name + "3"))
attempt(lambda: [e[0] for e in core._os.ilistdir("linked")])
"""


def test_no_file_outside_the_volumes_is_reached(places):
    """The program tries to mount, open, list, remove and rename, by "..", by links and by MicroPython's file system."""
    host = places / "host"
    (places / "sd" / "link").symlink_to(host / "secret.txt")
    (places / "sd" / "linked").symlink_to(host)
    os.mkfifo(places / "sd" / "pipe")
    lines = run(places, HOST_FILES)
    assert len(lines) >= 9 + 12 * 6 + 1 and not any(line.startswith("Traceback") for line in lines)
    assert [path.name for path in host.iterdir()] == ["secret.txt"] and (host / "secret.txt").read_text() == "CANARY"
    assert sorted(path.name for path in places.iterdir()) == ["flash", "host", "sd"]
    assert not any(line.startswith("DONE") and "CANARY" in line for line in lines)


SYSTEM = """
import uctypes, uos
core, bridge = sys.modules["_core"], sys.modules["_bridge"]
os = core._os
attempt(os.system, "touch HOST/touched")
attempt(os.getenv, "BOARD_SECRET")
attempt(os.putenv, "A", "B")
def sockets():
    import socket
    s = socket.socket()
    s.connect(socket.getaddrinfo("127.0.0.1", PORT)[0][-1])
    s.write(b"x")
def threads():
    import _thread
    _thread.start_new_thread(print, ("ran",))
def foreign():
    import ffi
    return ffi.open("libc.so.6").func("i", "system", "s")("touch HOST/touched")
def memory():
    import machine
    return machine.mem8[0x1000]
def secrets():
    import requests
    return requests.get("http://127.0.0.1:PORT/").text
attempt(sockets)
attempt(threads)
attempt(foreign)
attempt(secrets)
for number in range(3, 60):
    attempt(lambda: open(number, "rb", buffering=0).seek(0, 1))
attempt(lambda: sys.modules["_bridge"].connect(0, 1, 0, 16))
"""


def test_no_program_network_thread_or_secret_is_reached(places, monkeypatch):
    """The program tries system(), sockets, threads, foreign functions, the environment and all file descriptors."""
    import socket

    monkeypatch.setenv("BOARD_SECRET", "CANARY")
    with socket.create_server(("127.0.0.1", 0)) as server:
        lines = run(places, SYSTEM.replace("PORT", str(server.getsockname()[1])))
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()
    assert [path.name for path in (places / "host").iterdir()] == ["secret.txt"]
    # Only the pipes to this program and to its console are open.
    assert lines[-58:-1].count("refused OSError(29,)") == 2 and lines[-58:-1].count("refused OSError(9,)") == 55


MACHINE_CODE = """
import uctypes, gc
bridge = sys.modules["_bridge"]
# Native code would need executable memory. libc has some, so this writes over our own memory at random.
block = bytearray(4096)
at = uctypes.addressof(block)
print("begins")
view = uctypes.bytearray_at(at - (1 << 20), 4 << 20)
for i in range(0, len(view), 8):
    view[i] = 0xCC
print("survived")
"""


def test_writing_over_its_own_memory_hurts_only_itself(places):
    """uctypes reaches any address of its own process. At worst that process ends, while host and bridge continue."""
    lines = run(places, MACHINE_CODE)
    assert lines[0] == "begins"


@pytest.mark.parametrize("number", [2, 56, 57, 59, 41, 257, 101, 310, 9, 10, 16, 157, 321, 425, 0x40000002, 435])
def test_the_kernel_refuses_by_itself(number):
    """open, clone, fork, execve, socket, ptrace and so on, and code in memory, are asked of the kernel directly."""
    import subprocess
    import sys

    program = """
import ctypes, sys
sys.path.insert(0, "")
from sim.boards.sandbox import lock_in
call = ctypes.CDLL(None, use_errno=True).syscall
lock_in()
answer = call(int(sys.argv[1]), 0, 4096, 7, 0x22, -1, 0)
print(answer, ctypes.get_errno())
"""
    done = subprocess.run([sys.executable, "-c", program, str(number)], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["-1", "25" if number == 16 else "1"], done.stderr


FILES = """
import uos, json
with open("/sd/a.txt", "w") as f:
    f.write("one\\ntwo \\xe4\\nthree")
with open("/sd/a.txt") as f:
    print(f.read(5), repr(f.readline()), f.read(1), f.tell(), repr(f.readline()), repr(f.read()), repr(f.read()))
print([line for line in open("/sd/a.txt")], open("/sd/a.txt").readlines() == list(open("/sd/a.txt")))
with open("/sd/a.txt", "rb") as f:
    print(f.seek(-5, 2), f.read(), f.seek(0), f.read(3), f.seek(1, 1), f.read(3), f.tell(), f.readline(2), f.readline())
with open("/sd/a.txt", "r+b") as f:
    f.seek(4); f.write(b"TWO"); print(f.read(3)); f.seek(0); print(f.readline(), f.read())
with open("/sd/a.txt", "a") as f:
    print(f.write("!"))
with open("/sd/b.json", "w") as f:
    json.dump({"k": list(range(400))}, f)
with open("/sd/b.json") as f:
    print(len(json.load(f)["k"]))
view = bytearray(7)
with open("/sd/b.json", "rb") as f:
    sizes = []
    while True:
        n = f.readinto(view)
        if not n: break
        sizes.append(n)
print(set(sizes[:-1]), sum(sizes) == uos.stat("/sd/b.json")[6])
uos.mkdir("/sd/d"); uos.chdir("/sd/d"); print(uos.getcwd(), uos.listdir())
open("c.txt", "w").close()
print(uos.listdir(), uos.listdir(".."), uos.stat("/sd/d")[0] == 0x4000)
uos.rename("c.txt", "/sd/e.txt"); uos.chdir("/sd"); uos.rmdir("d"); print(sorted(uos.listdir()))
for wrong in (lambda: open("none"), lambda: open("/sd/none/x", "w"), lambda: uos.remove("none"),
              lambda: open("a.txt", "q"), lambda: f.read(), lambda: open("a.txt", "w").read(),
              lambda: open("a.txt").write("x"), lambda: uos.chdir("x")):
    attempt(wrong)
print(uos.statvfs("/sd")[:3], uos.listdir("/"))
"""


def test_files_behave_as_files(places):
    """What programs do with files, in text and in bytes, must work over the bridge as it did without it."""
    lines = run(places, FILES)
    assert lines[:9] == [
        "one", "t 'wo \\xe4\\n' t 12 'hree' '' ''",
        "['one\\n', 'two \\xe4\\n', 'three'] True",
        "11 b'three' 0 b'one' 4 b'two' 7 b' \\xc3' b'\\xa4\\n'",
        "b' \\xc3\\xa4'", "b'one\\n' b'TWO \\xc3\\xa4\\nthree'", "1", "400", "{7} True",
    ]  # fmt: skip
    assert lines[9] == "/sd/d []" and lines[10].startswith("['c.txt']") and lines[10].endswith("True")
    assert lines[11] == "['a.txt', 'b.json', 'e.txt', 'main.py']"
    assert [line[:12] for line in lines[12:20]] == ["refused OSEr"] * 8 and "(2,)" in lines[12]
    assert lines[20].startswith(f"(4096, 4096, {CARD_BLOCKS})") and "'flash'" in lines[20] and "'sd'" in lines[20]


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["..", ".", "", "a", "b", "link", "up", "a/b", "\0", "ä", "x" * 300]), max_size=8))
def test_no_name_leads_out_of_a_volume(parts):
    """Whatever the parts of a path are, what is opened, listed or removed lies inside the volume."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        outside, root = Path(folder) / "outside", Path(folder) / "root"
        (root / "a").mkdir(parents=True)
        outside.mkdir()
        (outside / "b").write_text("CANARY")
        (root / "link").symlink_to(outside)
        (root / "up").symlink_to("..")
        volume = Volume(root, False, Devices())
        for name in ("/".join(parts), "/" + "/".join(parts)):
            for use in (lambda n: volume.open(n, "r")[0].read(), lambda n: volume.open(n, "w")[0].write(b"x"),
                        volume.list, volume.stat, volume.make_folder, volume.remove, volume.remove_folder,
                        lambda n: volume.rename("a", n)):  # fmt: skip
                try:
                    found = use(name)
                except OSError:
                    continue
                assert found != b"CANARY" and ("b", 0o100000) not in (found if isinstance(found, list) else [])
        assert (outside / "b").read_text() == "CANARY"
        assert sorted(path.name for path in Path(folder).iterdir()) == ["outside", "root"]
        assert [path.name for path in outside.iterdir()] == ["b"]


MEMORY = bytearray(SHARED_BYTES)


def a_bridge() -> Bridge:
    """A bridge whose memory all examples share."""
    return Bridge(devices(lambda frame: []), memoryview(MEMORY), lambda why: None, BoardFiles([]))


OPERATIONS = sorted(set(a_bridge()._operations) - {"reset"})
NUMBER = st.sampled_from([0, 1, 2, 3, 4, 8, 64, 240, 320, -1, 65536, 1 << 20, (1 << 31) - 1, -(1 << 31)])


@given(
    st.sampled_from([*OPERATIONS, "__init__", "serve", "x"]), st.booleans(),
    st.lists(NUMBER | st.integers(-(1 << 31), (1 << 31) - 1), min_size=12, max_size=12), st.binary(max_size=300),
)  # fmt: skip
def test_the_bridge_survives_any_request(name, quiet, numbers, payload):
    """A program may write anything into the bridge's pipe. It gets an answer, and the host continues."""
    bridge = a_bridge()
    bridge.devices.camera = None
    answer = bridge._answer(("!" if quiet else "") + name, numbers, payload)
    if quiet:
        assert answer is None
    else:
        assert answer is not None
        status, length, *_ = ANSWER.unpack_from(answer)
        assert 0 <= status <= 6 and len(answer) == ANSWER.size + length


def test_garbage_in_the_pipe_ends_the_board_alone():
    """A length of four gigabytes, or a name that is no text, ends the bridge's thread at most, without an exception."""
    for garbage in (REQUEST.pack(b"fs_read", LONGEST_PAYLOAD_BYTES + 1, *[0] * 12), b"\xff" * 640):
        bridge = Bridge(devices(lambda frame: []), memoryview(bytearray(SHARED_BYTES)), lambda why: None)
        (requests, out), (into, answers) = os.pipe(), os.pipe()
        thread = threading.Thread(target=bridge.serve, args=(os.fdopen(requests, "rb", 0), os.fdopen(answers, "wb", 0)))
        thread.start()
        os.write(out, garbage)
        os.close(out)
        thread.join(120)
        os.close(into)
        assert not thread.is_alive() and bridge.error is None


def test_an_impossible_operation_is_reported_to_the_program():
    """The program learns of it at once, or with the next answer if the operation has none of its own."""
    bridge = Bridge(devices(lambda frame: []), memoryview(bytearray(SHARED_BYTES)), lambda why: None)
    assert bridge._answer("!rect", [1 << 30] * 12, b"") is None
    status, length = struct.unpack_from("<iI", bridge._answer("heap_free", [0] * 12, b"") or b"")
    assert status == 3 and length > 0
    status, _ = struct.unpack_from("<iI", bridge._answer("heap_free", [0] * 12, b"") or b"")
    assert status == 0 and bridge.memory.bytes.size == SHARED_BYTES
