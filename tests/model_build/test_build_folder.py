"""A build folder that is being replaced when the process is killed."""

import subprocess
import sys
from pathlib import Path

import pytest

from model_build.build_folder import BuildFolder

ROOT = Path(__file__).resolve().parents[2]
FILES = ("posenet.kmodel", "posenet.tflite", "posenet.json")
# Ends the process before the Nth step that changes a name in the folder. Like SIGKILL, it cleans up nothing.
KILLED = """
import os, shutil, sys
from pathlib import Path
from model_build.build_folder import BuildFolder
left = int(sys.argv[2])
def counted(function):
    def call(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return function(*arguments, **options)
    return call
os.rename, os.replace, shutil.rmtree = counted(os.rename), counted(os.replace), counted(shutil.rmtree)
BuildFolder(Path(sys.argv[1])).write({name: b"new" for name in sys.argv[3:]})
"""


def contents(folder: Path) -> set[bytes]:
    return {(folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("was_there", [True, False])
def test_killed_at_any_moment_the_folder_is_the_old_or_the_new_one(tmp_path: Path, was_there: bool) -> None:
    """A build that took a minute must not be lost because the next one was stopped in its last millisecond."""
    seen = set()
    for step in range(20):
        path = tmp_path / str(step) / "out"
        folder = BuildFolder(path)
        if was_there:
            folder.write(dict.fromkeys(FILES, b"old"))
        done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(step), *FILES], cwd=ROOT, check=False)
        assert done.returncode in (0, 9)
        assert folder.is_complete() or not was_there, step
        if folder.is_complete():
            state = contents(path)
            assert state in ({b"old"}, {b"new"}), (step, state)
            seen |= state
        folder.write(dict.fromkeys(FILES, b"newer"))
        assert contents(path) == {b"newer"}
        left = [entry.name for entry in path.parent.iterdir() if entry.name != "out"]
        assert all(name.startswith(".out.") and name not in (".out.new", ".out.old") for name in left), left
        if done.returncode == 0:
            break
    assert done.returncode == 0 and b"new" in seen
