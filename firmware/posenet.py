"""Human poses on the KPU, as a library for MaixPy programs.

    import sensor
    from posenet import PoseNet

    net = PoseNet()                      # reads posenet.json, checks and loads the kmodel
    net.setup_camera()
    while True:
        for pose in net.poses(sensor.snapshot()):
            if pose.left_wrist.seen and pose.left_wrist.y < pose.nose.y:
                print("left hand up")

Coordinates are pixels of the given picture, x to the right, y down. If the picture shows a wider field squeezed in
width (a network of 256x240), they are pixels of that field, so that people have their true shape. Scores are percent.
Everything is an integer. Pose objects are reused for the next picture: copy the numbers that you want to keep.
"""

import gc
import json
from array import array
from binascii import crc32

from decoder import Decoder
from maixpy_api import flash_reader, heap_free, open_model, pixels_at, reset_camera, sensor_writer, write_sensor
from micropython import const
from mount import squeeze, to_frame, to_upright
from sensor_view import i2c_address, squeezes, steps, view_registers, whole_registers
from utime import ticks_diff, ticks_ms, ticks_us

MANIFEST = "posenet.json"
_FORMATS = (2, 3)  # format 3 adds a field that is wider than the input
_BLOCK_BYTES = const(4096)  # flash_read needs twice this much heap while it runs
_SPARE_BYTES = const(262144)  # of the system heap that a second frame buffer must leave free


class ModelError(Exception):
    """posenet.json or the kmodel is missing or damaged, or they do not match. The text says what to do."""


class Keypoint:
    """One keypoint of a pose; it reads the pose's array, so it changes with the pose."""

    def __init__(self, pose, index, name):
        self._data = pose.data
        self._at = 1 + 3 * index
        self._pose = pose
        self.index = index
        self.name = name

    @property
    def x(self):
        """Pixels from the left, rounded."""
        return (self._data[self._at] + 128) >> 8

    @property
    def y(self):
        """Pixels from the top, rounded."""
        return (self._data[self._at + 1] + 128) >> 8

    @property
    def score(self):
        """Percent."""
        return self._data[self._at + 2] * 100 >> 15

    @property
    def seen(self):
        """Whether the score reaches the network's keypoint threshold."""
        return self._data[self._at + 2] >= self._pose.threshold_q15


class Pose:
    """One person: pose.nose, pose.left_wrist … pose.right_ankle are keypoints, pose.keypoints is a list of all.

    data: array('i') of [score_q15, x_q8, y_q8, score_q15 of the first keypoint, …], see decoder.py. Coordinates are
    those of the upright picture. frame: the same in coordinates of the camera's frame, for drawing; it is the same
    array if the camera is upright and nothing is squeezed. id: the person's number if a tracker runs, else the rank in
    this picture from 1 on. age: frames since the person was last found; above 0 only if people are looked at one by
    one, see PoseNet.setup_camera().
    """

    def __init__(self, names, threshold_q15):
        self.data = self.frame = array("i", [0] * (1 + 3 * len(names)))
        self.threshold_q15 = threshold_q15
        self.id = self.age = 0
        self.track = None  # belongs to the tracker
        self.keypoints = []
        for index, name in enumerate(names):
            keypoint = Keypoint(self, index, name)
            self.keypoints.append(keypoint)
            setattr(self, snake(name), keypoint)

    @property
    def score(self):
        """Percent."""
        return self.data[0] * 100 >> 15

    def box(self, data=None):
        """(x, y, w, h) around the keypoints seen, in pixels; None if none is. Give self.frame as data for the
        frame's."""
        left = top = 1 << 30
        right = bottom = -(1 << 30)
        if data is None:
            data = self.data
        for i in range(1, len(data), 3):
            if data[i + 2] >= self.threshold_q15:
                left = min(left, data[i])
                right = max(right, data[i])
                top = min(top, data[i + 1])
                bottom = max(bottom, data[i + 1])
        if right < left:
            return None
        return (left >> 8, top >> 8, (right >> 8) - (left >> 8) + 1, (bottom >> 8) - (top >> 8) + 1)


def snake(name):
    """leftWrist → left_wrist."""
    return "".join("_" + c.lower() if c.isupper() else c for c in name)


def read_manifest(path=MANIFEST):
    """posenet.json as a dictionary; ModelError if it is missing or damaged."""
    try:
        with open(path) as file:
            manifest = json.load(file)
    except OSError:
        raise ModelError("No %s on the board. Run flash.py." % path)
    except ValueError:
        raise ModelError("%s is damaged. Run flash.py." % path)
    try:
        if manifest["format"] not in _FORMATS:
            raise ModelError(
                "%s has format %s, this program knows %d and %d. Run flash.py."
                % ((path, manifest["format"]) + _FORMATS)
            )
        for key in ("input", "mount", "map", "heads", "sigmoid_q15", "edges", "keypoints", "kmodel", "output_stride"):
            manifest[key]
    except (KeyError, TypeError):
        raise ModelError("%s is incomplete. Run flash.py." % path)
    return manifest


def _check_head(head, where):
    """ModelError unless a kmodel V3 begins with these 12 bytes; it says what they are instead."""
    if head[:4] == b"\x03\0\0\0":
        return
    if len(head) < 12 or head == b"\xff" * len(head):
        empty = "flash is empty there" if where[:2] == "0x" else "file holds none"
        raise _wrong("No kmodel at %s: the %s." % (where, empty), where)
    if head[:4] == b"LDMK":
        raise _wrong("kmodel at %s is V%d, MaixPy needs V3." % (where, head[4]), where)
    raise _wrong("No kmodel at %s: it begins with %s." % (where, head[:4]), where)


def _wrong(text, where):
    """A ModelError that says what to do about a kmodel in flash, or in a file, which flash.py does not write."""
    return ModelError(text + (" Run flash.py." if where[:2] == "0x" else " Copy the build's posenet.kmodel there."))


def check_flash(kmodel, progress=None):
    """Compare the kmodel in flash with posenet.json: version, then CRC-32. ModelError if they differ.

    Returns False if this MaixPy build cannot read its flash; then check_loaded() can tell after the model is loaded.
    """
    flash_read = flash_reader()
    if flash_read is None:
        return False
    address = kmodel["flash_address"]
    where = "0x%x" % address
    _check_head(flash_read(address, 12), where)
    left = kmodel["bytes"]
    crc = 0
    while left:
        count = min(left, _BLOCK_BYTES)
        crc = crc32(flash_read(address, count), crc)
        address += count
        left -= count
        if progress and not address & 0xFFFF:
            progress(100 - left * 100 // kmodel["bytes"])
    _check_crc(crc, kmodel, where)
    return True


def check_loaded(model, kmodel):
    """Compare a kmodel that the KPU library has loaded with posenet.json. ModelError if they differ.

    Returns False if the kmodel cannot be found in memory, so that nothing is known.
    """
    loaded = model.loaded()
    if loaded is None:
        return False
    where = "0x%x" % kmodel["flash_address"]
    _check_size(len(loaded), kmodel, where)
    _check_crc(crc32(loaded), kmodel, where)
    return True


def check_file(path, kmodel):
    """Compare a kmodel in a file, and its length, with posenet.json. ModelError if they differ."""
    block = bytearray(_BLOCK_BYTES)
    view = memoryview(block)
    size = crc = 0
    try:
        with open(path, "rb") as file:
            while True:
                count = file.readinto(block)
                if not count:
                    break
                if not size:
                    _check_head(bytes(view[:12]), path)
                size += count
                crc = crc32(view[:count], crc)
    except OSError:
        raise ModelError("No kmodel file %s. Is the SD card in?" % path)
    _check_size(size, kmodel, path)
    _check_crc(crc, kmodel, path)


def _check_size(size, kmodel, where):
    if size != kmodel["bytes"]:
        raise _wrong("Wrong kmodel at %s: %d bytes, posenet.json says %d." % (where, size, kmodel["bytes"]), where)


def _check_crc(crc, kmodel, where):
    crc &= 0xFFFFFFFF
    if crc != kmodel["crc32"]:
        raise _wrong("Wrong kmodel at %s: CRC %08x, posenet.json says %08x." % (where, crc, kmodel["crc32"]), where)


def check_heap(kmodel):
    """ModelError if the system heap has no room for the network: KPU.load of MaixPy 0.6.2 would hang for good."""
    free = heap_free()
    needed = kmodel["bytes"] + kmodel["main_mem_bytes"] + 1024
    if 0 < free < needed:
        raise ModelError(
            "MaixPy's system heap has %d bytes free, but the network needs %d. flash.py --reset-heap helps if another "
            "project has taken them." % (free, needed)
        )


def start_camera(w, h, mirror=None, flip=None, choice=0, double=None, reserve_bytes=0, field_w=None):
    """Start the camera with frames of exactly w x h that show as much as the sensor can in that size.

    field_w: show a field of field_w x h squeezed in width, if the sensor can scale width and height independently.
    mirror, flip: None leaves the sensor driver's choice. double: two frame buffers, so that the camera fills one while
    the program works on the other; None: if the system heap has room for them and reserve_bytes more.

    Returns True if there are two buffers. Then a snapshot returns the first picture that the camera took after the
    previous snapshot, so after a pause the first one is old.
    """
    import sensor

    if w > 320 or h > 240 or w % 8 or h % 8:
        raise ModelError("Network %dx%d: the camera gives up to 320x240, multiples of 8." % (w, h))
    size = (160, 120) if w <= 160 and h <= 120 else (320, 240)
    frame_bytes = 5 * size[0] * size[1]  # RGB565, and a byte each of R, G, B for the KPU
    if double is None:
        double = heap_free() >= 2 * frame_bytes + _SPARE_BYTES + reserve_bytes
    while True:
        reset_camera(choice, double)
        sensor.set_pixformat(sensor.RGB565)
        try:
            sensor.set_framesize(sensor.QQVGA if size[0] == 160 else sensor.QVGA)
            break
        except OSError:
            if not double:
                raise
            double = False  # the heap is too fragmented
    if (w, h) != size:
        sensor.set_windowing((w, h))
    if mirror is not None:
        sensor.set_hmirror(mirror)
    if flip is not None:
        sensor.set_vflip(flip)
    if (w, h) != size:
        write_sensor(whole_registers(sensor.get_id(), w, h, field_w or w))
    sensor.run(1)
    # Builds without double buffering accept the argument but use one buffer. The two snapshots also discard pictures
    # that were taken before the sensor's registers were written.
    return bool(double) and pixels_at(sensor.snapshot()) != pixels_at(sensor.snapshot())


class PoseNet:
    """A network on the KPU with its decoder.

    manifest: path of posenet.json. model: path of the kmodel, or None for the place in flash that the manifest
    names. single: one person, the best cell of every keypoint. threshold: percent that a keypoint must reach to begin a
    pose and to count as seen. tracker: an object with an update() like that of tracker.Tracker. progress: called with
    percent while the kmodel is checked; check=False skips the check.

    forward_us, decode_us: times of the last picture. framing: see setup_camera(); None if the view is always the whole
    field. frames_lost: pictures dropped because the view may have changed while they were taken.
    """

    def __init__(
        self,
        manifest=MANIFEST,
        model=None,
        single=False,
        max_poses=5,
        threshold=50,
        nms_radius_px=20,
        tracker=None,
        check=True,
        progress=None,
    ):
        self._model = None
        facts = read_manifest(manifest)
        self.name = facts["network"]
        self.width = facts["input"]["width"]
        self.height = facts["input"]["height"]
        self.names = facts["keypoints"]
        self.edges = [tuple(edge) for edge in facts["edges"]]
        kmodel = facts["kmodel"]
        self.checked = ""  # how the kmodel was compared with posenet.json
        if check:
            self._check_stored(model, kmodel, progress)
        threshold_q15 = threshold * 32768 // 100
        self._manifest = manifest
        self._single = single
        self._options = threshold_q15, nms_radius_px, max_poses
        self.field_width = self._built_width = facts.get("field", facts["input"])["width"]
        self._make_decoder(facts)
        self._outputs = [(head["output"], head["bytes"]) for head in facts["heads"]]
        self._poses = [Pose(self.names, threshold_q15) for _ in range(1 if single else max_poses)]
        self.mount = facts["mount"]
        self.framing = None
        self._parted = False
        self.frames_lost = 0
        self._double = False
        self._coming = False  # the next snapshot but one is the first to show the wanted view
        self._snapped_ms = 0
        self._taken_ms = None  # since when the camera may have taken the last snapshot()
        self._whole_ms = 0  # this long after a snapshot the next picture is complete in the other buffer
        if self.mount or self.field_width != self.width:
            self._part_frames()
        self._found = []
        self.tracker = tracker
        if tracker:
            tracker.appear_q15 = facts.get("appear_score_q15", 0)
        check_heap(kmodel)
        del facts
        gc.collect()
        self._load(model or kmodel["flash_address"], kmodel, check)
        self._heads = None
        self.forward_us = self.decode_us = 0

    def _check_stored(self, path, kmodel, progress):
        """Compare the kmodel, in a file or in flash, with posenet.json before it is loaded."""
        if path:
            check_file(path, kmodel)
            self.checked = "in its file"
        elif check_flash(kmodel, progress):
            self.checked = "in flash"

    def _load(self, source, kmodel, check):
        """Load the kmodel, and compare it with posenet.json now if that was not possible before."""
        try:
            self._model = open_model(source, kmodel["bytes"])
        except ValueError as error:
            raise ModelError("kmodel not loaded: %s" % error.args[0].replace("[MAIXPY]kpu: ", ""))
        if check and not self.checked:
            try:
                if check_loaded(self._model, kmodel):
                    self.checked = "in memory"
            except ModelError:
                self.deinit()
                raise

    @property
    def field(self):
        """(width, height) of the upright picture that coordinates refer to."""
        return (self.height, self.field_width) if self.mount % 180 else (self.field_width, self.height)

    def _make_decoder(self, facts):
        self._decoder = decoder = Decoder(facts, *self._options)
        self._decode = decoder.single if self._single else decoder.multi

    def _set_field_width(self, width):
        """Set the width of the field that pictures show: what the network was built for, or its input's width."""
        if width == self.field_width:
            return
        self.field_width = width
        self._decoder = self._decode = None
        gc.collect()
        facts = read_manifest(self._manifest)
        if width == self.width:
            facts.pop("field", None)
        self._make_decoder(facts)

    def _part_frames(self):
        """Give each pose a second array, for its coordinates in the camera's frame."""
        self._parted = True
        for pose in self._poses:
            if pose.frame is pose.data:
                pose.frame = array("i", pose.data)

    def setup_camera(self, mirror=None, flip=None, choice=0, double=None, framing=False):
        """Start the camera with frames of exactly the network's size, see start_camera().

        A network built for a squeezed field gets it if the sensor can scale width and height independently. Otherwise
        it gets the middle of the field, not squeezed, and coordinates are the picture's own.
        framing: let the sensor's view follow the people (framing.py), if the sensor can show a part of its field:
        "auto" for one view that holds everybody, "each" to look at people one by one, which needs a tracker. Then take
        pictures with this object's snapshot().
        """
        import sensor

        built = self._built_width
        self._double = double = start_camera(self.width, self.height, mirror, flip, choice, double, field_w=built)
        self._set_field_width(built if squeezes(sensor) else self.width)
        self._coming = False
        self.framing = None
        self.frames_lost = 0
        if framing:
            self._chip = sensor.get_id()
            found = steps(self._chip, self.width, self.height, self.field_width)
            self._write = sensor_writer(i2c_address(self._chip)) if found else None
            if self._write:
                from framing import Framing

                units, least, halving = found
                each = framing == "each" and self.tracker is not None
                self.framing = Framing(self.field_width, self.height, units, least, each=each, halving=halving)
                self._part_frames()
                self._scratch = array("i", self._poses[0].data)
                self._view_before = self.framing.whole
                self._written = ()
                self._show(self.framing.whole)
                sensor.snapshot()
                sensor.snapshot()
                start = ticks_ms()
                sensor.snapshot()
                sensor.snapshot()
                # After a snapshot it takes at most one period until the next frame begins, and one until it ends.
                self._whole_ms = 5 * ticks_diff(ticks_ms(), start) // 4
        return double

    def _show(self, view):
        """Write the registers of a view, but none that has its value already: MaixPy may take 10 ms for each."""
        pairs = view_registers(self._chip, self.width, self.height, view, self.framing.units, self.field_width)
        registers = [register for register, _ in pairs]
        for pair in pairs:
            # The first selects the bank; one that is written twice begins a change and ends it.
            if pair == pairs[0] or registers.count(pair[0]) > 1 or pair not in self._written:
                self._write(*pair)
        self._written = pairs

    def snapshot(self):
        """The next picture that shows a single view, which is framing.view.

        The registers are written here, between two pictures. With two buffers the next picture may already be in the
        other one. If it was complete before the registers changed, it shows the old view and is used; otherwise it may
        be torn and is dropped.
        """
        import sensor

        framing = self.framing
        if framing:
            if self._coming:
                self._coming = False
                framing.view = framing.wanted
            elif framing.wanted != framing.view:
                waiting = self._double and ticks_diff(ticks_ms(), self._snapped_ms) >= self._whole_ms
                self._show(framing.wanted)
                if waiting:
                    self._coming = True
                else:
                    framing.view = framing.wanted
                    if self._double:
                        sensor.snapshot()
                        self._snapped_ms = ticks_ms()
                        self.frames_lost += 1
        before = self._snapped_ms
        img = sensor.snapshot()
        self._snapped_ms = ticks_ms()
        self._taken_ms = before if self._double else self._snapped_ms
        return img

    def _part_of_field(self, found):
        """Convert poses from the view to the field; when looking at people one by one, keep only whole ones."""
        framing = self.framing
        for pose in found:
            framing.to_field(pose.data)
            if framing.each:
                pose.frame[:] = pose.data
        if framing.each:
            framing.keep_whole_people(found)

    def _cuts_off(self, data):
        """Whether the view shows a person (upright coordinates of the field) only in part or not at all."""
        to_frame(data, self._scratch, self.mount, self.field_width, self.height)
        return self.framing.cuts_off(self._scratch)

    def _add_away(self, found):
        """Add the people whose place the view does not show, where they were last found."""
        away = self.tracker.away
        for pose in self._poses:
            if away and pose not in found:
                track = away.pop(0)
                pose.data[:] = track.data
                pose.id = track.id
                pose.age = track.away
                found.append(pose)

    def _place(self, found, now_ms, newcomers):
        """Give the poses their coordinates in the frame, and choose the next view."""
        framing = self.framing
        for pose in found:
            to_frame(pose.data, pose.frame, self.mount, self.field_width, self.height)
        if framing:
            framing.update(found, now_ms, newcomers)
            for pose in found:
                framing.to_view(pose.frame)
        if self.field_width != self.width:
            for pose in found:
                squeeze(pose.frame, self.width, self.field_width)

    def poses(self, img):
        """The people in a picture of the network's size, best first, in a list that the next call reuses.

        img is a snapshot, or any image after img.pix_to_ai(). MaixPy raises ValueError, and prints a line, if its size
        or kind is wrong.
        """
        start = ticks_us()
        self._model.run(img)
        if self._heads is None:
            self._heads = []
            views = self._model.heads([output for output, _ in self._outputs], img)
            for head, (output, size) in zip(views, self._outputs):
                if len(head) < size:
                    raise ModelError(
                        "Output %d has %d bytes, posenet.json says %d. Run flash.py." % (output, len(head), size)
                    )
                self._heads.append(head[:size])
        middle = ticks_us()
        found = self._found
        del found[:]
        for raw in self._decode(self._heads):
            pose = self._poses[len(found)]
            pose.data[:] = raw
            pose.age = 0
            found.append(pose)
            pose.id = len(found)
        each = other_view = False
        if self.framing:
            each = self.framing.each
            other_view = self.framing.view != self._view_before
            self._view_before = self.framing.view
            self._part_of_field(found)
        if self.mount:
            for pose in found:
                to_upright(pose.data, self.mount, self.field_width, self.height)
        # With two buffers this picture is as old as the time between two snapshots, which is not always the same.
        now_ms = ticks_ms() if self._taken_ms is None else self._taken_ms
        self._taken_ms = None
        count = len(found)
        newcomers = False
        if self.tracker:
            self.tracker.update(found, now_ms, self._cuts_off if each else None, other_view)
            newcomers = len(found) < count
            if each:
                self._add_away(found)
        if self._parted:
            self._place(found, now_ms, newcomers)
        end = ticks_us()
        self.forward_us = ticks_diff(middle, start)
        self.decode_us = ticks_diff(end, middle)
        return found

    def deinit(self):
        """Give the model's memory back."""
        if self._model is not None:
            self._heads = None
            self._model.deinit()
            self._model = None
