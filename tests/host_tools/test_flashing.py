"""The whole way on a simulated board: look, write, verify, copy and start, also with faults."""

import json
import os
import random
import zlib

import pytest

from common.errors import UserError
from common.flash_parts import FlashPart
from common.pose_lines import LONGEST_LINE_BYTES, LineSplitter, poses_in
from host_tools.flashing import Flasher, Ui, Wanted
from host_tools.repl import RawRepl, ReplError
from sim.boards.faults import Faults
from sim.boards.simulated import Mode, simulated_firmware
from sim.boards.simulated_session import SimulatedSession
from sim.parts.board_transport import BoardTransport
from sim.parts.isp_endpoint import FlashTiming
from tests.support.quiet_line import QuietLine
from tests.support.random_faults import random_faults

AT = 0x300000
KMODEL = random.Random(11).randbytes(70_000)
FILES = {
    "main.py": b"import part\nprint('main of', part.VERSION)\n",
    "part.py": b"VERSION = 1\n" + b"# padding\n" * 300,
    "posenet.json": b'{"format": 1}\n',
}
WANTED = Wanted([FlashPart("posenet.kmodel", AT, KMODEL)], FILES)
NEWER = Wanted([FlashPart("posenet.kmodel", AT, KMODEL[::-1])], {**FILES, "part.py": b"VERSION = 2\n"})


class Bench:
    """A session on a line inside this process; everything that was said is kept."""

    def __init__(self, folder, *faults, wiring="dan", with_maixpy=True, plan=None):
        self.session = SimulatedSession(
            folder / "board",
            faults=plan or Faults.parse(faults),
            wiring=wiring,
            timing=FlashTiming(),
            with_maixpy=with_maixpy,
        )
        self.line = BoardTransport(self.session.board)
        self.said = []
        self.board = self.session.board
        self.flash_dir = self.session.flash_dir

    def flasher(self, **options):
        ui = Ui(lambda text: self.said.append("* " + text), self.said.append)
        return Flasher(self.line, ui=ui, **options)

    def flash(self, wanted=WANTED, **options):
        return self.flasher(**options).run(wanted)

    def holds(self, wanted=WANTED):
        """Whether the flash and the files really hold what is wanted."""
        image = self.session.nor.image
        parts = all(bytes(image[part.address_bytes : part.end_bytes]) == part.data for part in wanted.flash_parts)
        return parts and all(
            (self.flash_dir / name).is_file() and (self.flash_dir / name).read_bytes() == data
            for name, data in wanted.files.items()
        )

    def hear(self, words):
        """Wait until the board says it, by the board's clock."""
        assert RawRepl(self.line).read_until(words, 60) is not None

    def repair(self):
        """Give the board a good cable and a good supply."""
        self.board.faults = Faults()
        self.board.endpoint.hook = None
        self.board.endpoint.chip_type = 1
        self.session.nor.pages_until_power_cut = None
        self.board.power_off()
        self.board.power_on(self.line.now())


@pytest.fixture
def bench(tmp_path):
    benches = []

    def make(*faults, **options):
        benches.append(Bench(tmp_path, *faults, **options))
        return benches[-1]

    yield make
    for made in benches:
        made.board.power_off()


def test_only_what_changed_is_written(bench):
    """The first run writes everything, the second nothing, and after a change exactly what changed."""
    board = bench()
    first = board.flash()
    assert first.written_parts == ["posenet.kmodel"] and sorted(first.written_files) == sorted(FILES)
    assert board.holds()
    again = board.flash()
    assert again.written_parts == [] and again.written_files == []
    newer = Wanted(WANTED.parts, {**FILES, "part.py": b"VERSION = 2\n"})
    upgrade = board.flash(newer)
    assert upgrade.written_parts == [] and upgrade.written_files == ["part.py"]
    assert board.holds(newer)
    assert not [path.name for path in board.flash_dir.iterdir() if path.name not in FILES]


def test_what_a_board_holds_is_asked_of_the_board(bench):
    """Nothing is remembered on the computer. A changed byte in the board's flash is found and written again."""
    board = bench()
    board.flash()
    board.session.nor.image[AT + 12345] ^= 1
    (board.flash_dir / "part.py").write_bytes(b"VERSION = 3\n")
    result = board.flash()
    assert result.written_parts == ["posenet.kmodel"] and result.written_files == ["part.py"]
    assert board.holds()


def test_main_runs_after_flashing(bench):
    """start() soft-reboots into main.py and passes on the lines that it prints."""
    board = bench()
    flasher = board.flasher()
    flasher.run(WANTED)
    lines = []

    def on_line(text):
        lines.append(text)
        return text.startswith("main of")

    flasher.start(on_line)
    assert lines[-1] == "main of 1"


def test_exception_in_main_is_named(bench):
    """A main.py that stops with an exception must not look like a board that does not answer."""
    board = bench()
    flasher = board.flasher()
    flasher.run(Wanted([], {"main.py": b"1/0\n"}))
    with pytest.raises(UserError, match="ZeroDivisionError"):
        flasher.start(lambda line: False)


@pytest.mark.parametrize("wiring", ["dan", "kd233", "goD"])
def test_each_wiring_is_found_by_trying(bench, wiring):
    """Users do not know how their board's reset is wired."""
    board = bench(wiring=wiring)
    assert board.flash().written_parts
    assert board.holds()


@pytest.mark.parametrize(
    "faults",
    [("busy-main",), ("ide-mode",), ("banner-noise",), ("noise=3e-6",), ("baud-limit=1000000",), ("baud-stuck",),
     ("power-cut@100", "power-back=3"), ("nak=E7@D4:1", "nak=E2@D4:2"), ("silent@D4:1", "slow=5@D4:2"),
     ("drop@30000", "flip@40000", "dup@50000"), ("drop@100<", "flip@333<")],
)  # fmt: skip
def test_awkward_boards_are_flashed(bench, faults):
    """Whatever can be overcome is overcome without the user."""
    board = bench(*faults)
    board.flash()
    assert board.holds()


@pytest.mark.parametrize(
    ("fault", "cause", "remedy"),
    [
        ("dead", "does not answer", "cable"),
        ("wrong-chip", "flash was not found", "boards"),
        ("old-maixpy", "is too old", "--firmware"),
        ("no-kpu", "without the KPU", "--firmware"),
        ("full-flash", "bytes free", "--erase files"),
        ("power-cut@50", "does not answer", "cable"),
    ],
)
def test_hopeless_boards_are_explained(bench, fault, cause, remedy):
    """One line names cause and remedy, and once the fault is gone the next run repairs the board."""
    board = bench(fault)
    with pytest.raises(UserError) as caught:
        board.flash()
    text = str(caught.value)
    assert cause in text and remedy in text and "\n" not in text and len(text) < 320
    if fault == "full-flash":
        (board.flash_dir / "filler.bin").unlink()
    board.repair()
    board.flash()
    assert board.holds()


def test_blank_board_needs_a_firmware(bench):
    """A chip without MaixPy is told from a dead one, and the same run can give it a MaixPy."""
    board = bench(with_maixpy=False)
    with pytest.raises(UserError, match="no MaixPy runs on it.*--firmware"):
        board.flash()
    wanted = Wanted(WANTED.parts, FILES, FlashPart("maixpy.bin", 0, simulated_firmware("0.6.2")))
    result = board.flash(wanted)
    assert result.written_parts == ["maixpy.bin", "posenet.kmodel"]
    assert board.holds(wanted)


def test_firmware_reaching_into_the_kmodel_is_refused(bench):
    """A full MaixPy can be longer than 3 MiB, and the kmodel must not be written into it."""
    board = bench()
    low = Wanted([FlashPart("posenet.kmodel", 0, KMODEL)])
    with pytest.raises(UserError, match="would overwrite MaixPy"):
        board.flash(low)
    assert board.session.nor.image[: len(simulated_firmware())] == simulated_firmware()


def test_verification_finds_what_the_loader_cannot(bench, monkeypatch):
    """One flipped bit (E2 → E0) turns a refusal into an approval. Only reading back can see that, and it must."""
    board = bench("nak=E2@D4:1")
    emit = board.board._emit
    board.board._emit = lambda data, at_s: emit(data.replace(b"\xd4\xe2", b"\xd4\xe0"), at_s)
    set_baud = board.line.set_baud
    rates: list[int] = []

    def note_rate(baud: int) -> None:
        rates.append(baud)
        set_baud(baud)

    monkeypatch.setattr(board.line, "set_baud", note_rate)
    result = board.flash()
    assert board.holds()
    assert any("reads back wrong" in line for line in board.said)
    assert result.retries == 1
    # Damage that went unnoticed once can do so again, so the second try uses a slower line.
    assert [rate for rate in rates if rate != 115_200] == [1_500_000, 750_000] and result.baud == 750_000


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 8))])
def test_power_cut_while_copying_scripts_leaves_a_board_that_starts(bench, seed):
    """The supply fails at any moment of an upgrade. The board then runs the old version or the new one, complete."""
    board = bench()
    board.flash()
    rng = random.Random(seed)
    writes = rng.randint(1, 45)
    count = 0
    original = board.board.receive

    def cut(data, now_s=None):
        nonlocal count
        original(data, now_s)
        if data == b"\x04" and board.board.mode is Mode.MAIXPY:
            count += 1
            if count == writes:
                board.line.read(rng.random() * 0.01)
                board.board.power_off()

    board.board.receive = cut
    newer = Wanted(
        WANTED.parts, {"main.py": FILES["main.py"] + b"#\n", "part.py": b"VERSION = 2\n", "x.py": b"x = 2\n"}
    )
    flasher = board.flasher()
    try:
        flasher.run(newer)
    except UserError as error:
        assert "\n" not in str(error)
    board.board.receive = original
    board.board.power_off()
    board.board.power_on(board.line.now())
    heard = b""
    deadline = board.line.now() + 60
    while b"main of" not in heard.replace(b"main of\n", b"") and board.line.now() < deadline:
        heard += board.line.read(0.1)
    board.line.sleep(0.05)
    heard += board.line.read(0.2)
    assert b"main of 1" in heard or b"main of 2" in heard, heard
    board.flash(newer)
    assert board.holds(newer)


def test_a_users_boot_py_is_left_alone(bench):
    """Somebody's boot.py contains their own settings and must survive an update."""
    board = bench()
    (board.flash_dir / "boot.py").write_bytes(b"mine = 1\n")
    board.flash()
    assert (board.flash_dir / "boot.py").read_bytes() == b"mine = 1\n"
    assert [path.name for path in board.flash_dir.glob("boot*")] == ["boot.py"]


def test_a_watchdog_that_runs_on_does_no_harm(bench):
    """A stopped program no longer feeds its watchdog, which must not reset the board while files are copied."""
    board = bench()
    (board.flash_dir / "main.py").write_bytes(
        b"from machine import WDT\nw = WDT(id=0, timeout=2000)\nw = WDT(id=1, timeout=2000)\nprint('both run')\n"
        b"import utime\nwhile 1:\n w.feed()\n WDT(id=0, timeout=2000).feed()\n utime.sleep_ms(20)\n"
    )
    board.hear(b"both run")
    resets, begun_s = board.board.resets, board.line.now()
    board.flash(Wanted([], {**FILES, "large.py": random.Random(2).randbytes(40_000)}))
    assert board.line.now() - begun_s > 4, "the line alone takes so long"
    assert board.board.resets == resets
    assert board.holds(Wanted([], FILES))


def test_files_that_a_stopped_program_holds_open_do_not_stop_the_copying(bench):
    """SPIFFS has two open files at most. A stopped program that holds both leaves none to copy with."""
    board = bench()
    (board.flash_dir / "main.py").write_bytes(
        b"import utime\nfiles = [open('main.py'), open('main.py')]\nprint('open')\nwhile 1:\n utime.sleep_ms(20)\n"
    )
    board.hear(b"open")
    board.flash(Wanted([], FILES))
    assert board.holds(Wanted([], FILES))
    assert any("left files open" in line for line in board.said), board.said


@pytest.mark.parametrize("at_percent", [0, 40, 95])
def test_a_reset_in_mid_file_is_no_full_file_system(bench, at_percent):
    """Copying continues where it was and names the reset. Nobody is told to erase anything."""
    board = bench()
    wanted = Wanted([], {**FILES, "large.py": random.Random(3).randbytes(30_000)})
    resets: list[int] = []

    def progress(what, done, total):
        if not resets and what == "copying" and 100 * done >= at_percent * total:
            resets.append(done)
            board.board.press_reset(board.line.now())

    flasher = board.flasher()
    flasher.ui.progress = progress
    flasher.run(wanted)
    assert board.holds(wanted) and resets
    assert any("was reset" in line for line in board.said), board.said
    assert not any("erase" in line for line in board.said)


@pytest.mark.parametrize("answer", ["[" * 3000, "<module>", "f(", "1" * 5000, "3"], ids=lambda text: text[:8])
def test_a_whole_answer_without_sense_is_an_error_of_the_board(answer, monkeypatch):
    """An answer can arrive whole and still be no value or one of another kind: the board is out of step."""
    repl = RawRepl(QuietLine())

    def execute(source, timeout_s=0):
        number = source[len("_q(") :].partition(",")[0]
        return f"<# {number} {len(answer)} {zlib.crc32(answer.encode())} {answer} #>"

    monkeypatch.setattr(repl, "_execute", execute)
    with pytest.raises(ReplError):
        repl.info()
    with pytest.raises(ReplError):
        repl.file_states(["main.py"])


def test_files_go_to_the_sd_card_if_there_is_one(tmp_path):
    """With an SD card MaixPy runs main.py only from /sd, so the scripts belong there."""
    (tmp_path / "sd").mkdir()
    session = SimulatedSession(tmp_path / "board", sd_dir=tmp_path / "sd")
    line = BoardTransport(session.board)
    try:
        Flasher(line).run(Wanted([], FILES))
        assert (tmp_path / "sd" / "main.py").read_bytes() == FILES["main.py"]
        assert not (session.flash_dir / "part.py").exists()
    finally:
        session.board.power_off()


def test_flash_crc_is_the_boards_own_reading(bench):
    """The board computes the CRC-32 in pieces. It must equal zlib's for odd lengths and addresses too."""
    board = bench()
    board.session.nor.image[AT : AT + len(KMODEL)] = KMODEL
    repl = RawRepl(board.line)
    assert repl.enter_after_reset()
    for start, length in ((0, len(KMODEL)), (1, 1), (4095, 8193), (0, 8192)):
        assert repl.flash_crc32(AT + start, length) == zlib.crc32(KMODEL[start : start + length])


def test_names_as_long_as_the_file_system_allows_can_be_copied(bench):
    """MaixPy allows 126 bytes, of which ".new" takes four until a new version replaces the old one."""
    repl = RawRepl(bench().line)
    assert repl.enter_after_reset()
    assert repl.install({"n" * 122: b"1"}, repl.info()) == ["n" * 122]
    with pytest.raises(UserError, match="at most 126 bytes"):
        repl.install({"n" * 123: b"1"}, repl.info())


def test_an_answer_of_another_kind_is_said(bench, monkeypatch):
    """A board that answers one number where two were asked for is out of step. That is one line and no traceback."""
    flasher = Flasher(bench().line)
    monkeypatch.setattr(flasher.repl, "ask", lambda source, timeout_s=5.0: 7)
    monkeypatch.setattr(flasher, "reach_repl", lambda: True)
    with pytest.raises(UserError, match="stopped answering while looking at its heap .an answer of another kind"):
        flasher.check_heap(1)


def test_lines_do_not_depend_on_how_their_bytes_arrive():
    """A driver cuts the bytes anywhere. Endless bytes without a line end must not fill the memory."""
    text = "eins\r\nzwei ü\n\nrest"
    for size in (1, 2, 5, 100):
        splitter, data = LineSplitter(), text.encode()
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert [line for piece in pieces for line in splitter.lines(piece)] == ["eins", "zwei ü", ""]
        assert splitter.rest == b"rest"
    assert splitter.lines(b"x" * 20_000) == [] and len(splitter.rest) == LONGEST_LINE_BYTES


def test_pose_lines_are_told_from_other_lines():
    """The first pose line decides that everything went well, and noise must not look like one."""
    pose = {"id": 1, "score": 50, "keypoints": [[1, 2, 99]]}
    assert poses_in(json.dumps({"seq": 1, "ms": 2, "poses": [pose]}, separators=(",", ":"))) == [pose]
    assert poses_in('{"seq":1,"ms":2,"poses":[]}') == []
    for line in ("", "posenet: starts", "{", '{"poses": 3}', "[]", '{"seq":1}', "{'poses': []}"):
        assert poses_in(line) is None


# -- campaign ------------------------------------------------------------------------------------------------


def campaign_run(folder, seed):
    """Flash under random faults and return what happened.

    Afterwards the board holds everything, or flash.py said that it does not and the next run repairs it.
    """
    rng = random.Random(seed)
    kmodel = rng.randbytes(rng.randint(20_000, 150_000))
    files = {"main.py": b"print('main', %d)\n" % seed, "part.py": rng.randbytes(rng.randint(1, 3000)).hex().encode()}
    wanted = Wanted([FlashPart("posenet.kmodel", AT, kmodel)], files)
    plan = random_faults(rng, len(kmodel) // 256)
    bench = Bench(folder, wiring=rng.choice(("dan", "kd233", "goD")), plan=plan)
    try:
        try:
            bench.flash(wanted)
            outcome = "done"
            assert bench.holds(wanted), f"seed {seed}: silent corruption"
        except UserError as error:
            assert "\n" not in str(error)
            outcome = "said so"
        if outcome == "said so":
            bench.repair()
            bench.flash(wanted)
            assert bench.holds(wanted), f"seed {seed}: not repaired"
        return outcome
    finally:
        bench.board.power_off()


@pytest.mark.parametrize("group", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_random_faults(tmp_path, group):
    """A few runs with random faults at random moments, of which none may end in unnoticed damage."""
    for seed in range(group * 4, group * 4 + 4):
        campaign_run(tmp_path / str(seed), seed)


@pytest.mark.slow
@pytest.mark.parametrize("group", range(10))
def test_no_fault_of_a_campaign_goes_unnoticed(tmp_path, group):
    """FAULT_RUNS runs (100 by default) without unnoticed damage; most faults are overcome without the user."""
    runs = int(os.environ.get("FAULT_RUNS", "100")) // 10
    outcomes = []
    for number in range(runs):
        folder = tmp_path / str(number)
        outcomes.append(campaign_run(folder, 10_000 + group * 1000 + number))
        for path in folder.rglob("*"):
            if path.is_file():
                path.unlink()
    assert outcomes.count("done") > 0.7 * runs
