"""From the KPU's four output tensors to poses, in integers only.

The same file runs on the board (MicroPython 1.11) and on the host, with identical results.

Coordinates are (x, y) in 1/256 px of the network's input ("q8"): 0 is the centre of the first pixel, and of the first
cell; cell c lies at c * output_stride. Where the input shows a wider field squeezed in width (posenet.json has a
"field"), x is in 1/256 px of the field, so that people, distances and radii have their true proportions. Scores are
sigmoid scores times 32768 ("q15").

The method is the fast greedy decoding of PersonLab (arXiv 1803.08225) in the steps of tfjs PoseNet, with vectors read
between cells, see docs/decoder.md.
"""

import sys
from array import array

try:
    from uheapq import heapify, heappop
    from ustruct import pack_into
except ImportError:
    from heapq import heapify, heappop
    from struct import pack_into

# Four heatmap bytes are tested at once, as one word. Each byte in which the sum carries reaches n, here 0x60:
#
#     byte              3  2  1  0
#     word             41 73 60 12
#     word & _EVEN     40 72 60 12     Low bits are cleared, so that each can hold the carry of the byte below.
#     + _lift(n)       A0 A0 A0 A0     256 - n in every byte, n without its low bit.
#     = sum          0 E1 13 00 B2
#     & _CARRIES     0 01 01 00 00     Bytes 2 and 1 carried: the low bits of the bytes above them are set.
#
# Since n and the bytes lose their low bits, no byte >= n is missed, but for an odd n the byte n - 1 passes as well.
_EVEN = 0xFEFEFEFE
_TWOS = 0x02020202
_CARRIES = 0x101010100

# This number is greater than any coordinate, in 1/256 px.
_AWAY = 1 << 24

# single() divides each plane into this many parts, and searches one of them for the best word's place.
_PARTS = 4

_COPY_FROM = bytes if sys.implementation.name == "cpython" else memoryview  # the type that pack_into("s") takes


def _per_channel(constants, channels):
    """The constants as a list, one for each channel, also if they are one integer for all."""
    return list(constants) if isinstance(constants, (list, tuple)) else [constants] * channels


def _constants(head, wider, narrow):
    """(mul, add) of each channel: (byte * mul + add) >> 8 is (byte - zero_point) * mul_q16, rounded to q8.

    The values of the x channels are multiplied by wider / narrow.
    """
    channels = head["channels"]
    muls = _per_channel(head["mul_q16"], channels)
    for c in range(channels // 2, channels):
        muls[c] = (2 * muls[c] * wider + narrow) // (2 * narrow)
    zeros = _per_channel(head["zero_point"], channels)
    return [(muls[c], 128 - zeros[c] * muls[c]) for c in range(channels)]


def _plane_pair(constants, index, cells, whole):
    """Where the y plane and the x plane of vector `index` begin in their head, then mul and add of y and of x.

    Between cells a byte is a weighted sum of four, whose weights add up to `whole`; so add is multiplied by it.
    """
    x_index = len(constants) // 2 + index
    (mul_y, add_y), (mul_x, add_x) = constants[index], constants[x_index]
    return index * cells, x_index * cells, mul_y, add_y * whole, mul_x, add_x * whole


def _offset_tables(constants, keypoints, cells):
    """For each keypoint, where its two offset planes begin, and their values by byte, y then x.

    Most often all planes have the same constants, and share one table.
    """
    tables = {(mul, add): [(byte * mul + add) >> 8 for byte in range(256)] for mul, add in set(constants)}
    return [
        (k * cells, (keypoints + k) * cells, tables[constants[k]], tables[constants[keypoints + k]])
        for k in range(keypoints)
    ]


def _routes(edges, keypoints, forward, backward, cells, whole):
    """For each root keypoint, the edges to follow, first up the tree, then down.

    A step is: source and target keypoint, which head holds the displacement, and its _plane_pair.
    """
    steps = []
    for e in range(len(edges) - 1, -1, -1):
        parent, child = edges[e]
        steps.append((child, parent, 3) + _plane_pair(backward, e, cells, whole))
    for e in range(len(edges)):
        parent, child = edges[e]
        steps.append((parent, child, 2) + _plane_pair(forward, e, cells, whole))
    routes = [_route(root, steps) for root in range(keypoints)]
    if [len(route) for route in routes] != [keypoints - 1] * keypoints:
        raise ValueError("posenet.json: the edges do not reach every keypoint")
    return routes


def _route(root, steps):
    """The steps that reach new keypoints from the root, in their order."""
    known = {root}
    route = []
    for step in steps:
        if step[0] in known and step[1] not in known:
            known.add(step[1])
            route.append(step)
    return route


def _least_byte(scores, least_q15):
    """The smallest byte with at least this score, 256 if there is none. Byte 0, the background, never counts."""
    byte = 1
    while byte < 256 and scores[byte] < least_q15:
        byte += 1
    return byte


def _bits_at_or_above(byte):
    """A word that has a bit in common with every word that holds a byte >= the given one, and with few others."""
    power = 1
    while power * 2 <= byte:
        power *= 2
    return (256 - power) * 0x01010101


def _lift(byte):
    """The number to add to the four even bytes of a word, to see whether one may be >= the given byte."""
    return (128 - (byte >> 1)) * _TWOS


class Decoder:
    """Decodes frame after frame with buffers that are made once.

    manifest: the dictionary of posenet.json. Its four heads are, in this order, heatmap, short_offset,
    displacement_fwd and displacement_bwd; each is given to single() and multi() as bytes, a bytearray or a memoryview
    of uint8: CHW, channels * map height * map width of them.

    score_threshold_q15: a heatmap cell with at least this score may become the root of a pose.
    nms_radius_px: a root this near to the same keypoint of a pose already found is dropped; a keypoint this near
        to the same keypoint of a better pose adds nothing to the score of its pose. Pixels of the field.
    max_poses: multi() decodes no more than this many.
    refinement_steps: how often a keypoint reached along an edge is corrected by the short offset under it.
    min_pose_score_q15: poses with a smaller score are not returned. A pose's score is the mean of its five best
        keypoints that no better pose claims.
    min_keypoints: poses with fewer keypoints of at least score_threshold_q15 are not returned: a lamp or a towel that
        looks like a person rarely has more than two or three.

    A pose is array('i') of 1 + 3 * keypoints integers: pose_score_q15, then x_q8, y_q8, score_q15 of each keypoint.
    Poses are valid until the next call, which uses their memory again.

    ValueError if the manifest is for other tensors than these, or a head has another length than it says.
    """

    def __init__(
        self,
        manifest,
        score_threshold_q15=16384,
        nms_radius_px=20,
        max_poses=5,
        refinement_steps=2,
        min_pose_score_q15=13107,
        min_keypoints=4,
    ):
        width = manifest["map"]["width"]
        height = manifest["map"]["height"]
        cells = width * height
        keypoints = len(manifest["keypoints"])
        edges = manifest["edges"]
        heads = manifest["heads"]
        if [head["channels"] for head in heads] != [keypoints, 2 * keypoints, 2 * len(edges), 2 * len(edges)]:
            raise ValueError("posenet.json: the heads' channels do not fit keypoints and edges")

        self.keypoints = keypoints
        self._ranked = min(5, keypoints)
        self.refinement_steps = refinement_steps
        self.max_poses = max_poses
        self.min_pose_score_q15 = min_pose_score_q15
        self.min_keypoints = min(min_keypoints, keypoints)
        self.score_threshold_q15 = score_threshold_q15
        self._width = width
        self._height = height
        self._cells = cells
        # People are `wider` / `narrow` times as wide in the field as in the input.
        field = manifest.get("field")
        wider, narrow = (field["width"], manifest["input"]["width"]) if field else (1, 1)
        self._down_q8 = down_q8 = manifest["output_stride"] << 8  # from a cell to the one below
        self._across_q8 = across_q8 = down_q8 * wider // narrow
        self._nms_q16 = (nms_radius_px << 8) ** 2
        self._head_bytes = tuple(head["channels"] * cells for head in heads)

        # Heatmap byte -> score, and the least bytes that may be a root, or make a pose good enough by itself.
        self._scores = scores = array("H", manifest["sigmoid_q15"])
        self._threshold = _least_byte(scores, score_threshold_q15)
        self._least_pose_byte = _least_byte(scores, min_pose_score_q15)

        offset, forward, backward = [_constants(head, wider, narrow) for head in heads[1:]]
        self._offset = _offset_tables(offset, keypoints, cells)
        whole = across_q8 * down_q8
        self._refinements = [_plane_pair(offset, k, cells, whole) for k in range(keypoints)]
        self._routes = _routes(edges, keypoints, forward, backward, cells, whole)

        # The two tests of a word for a byte greater than this one, by _bits_at_or_above and by _lift. They are the
        # same for an odd byte and the one above.
        pairs = [(_bits_at_or_above(byte), _lift(byte)) for byte in range(0, 257, 2)]
        self._tests = [pairs[(byte + 1) >> 1] for byte in range(256)]
        self._make_words()
        # Every frame fills these lists again: emptied by del, they keep their memory and leave no garbage.
        self._hot = []
        self._heap = []
        self._unclaimed = []
        self._low_planes = []
        self._poses = [array("i", [0] * (1 + 3 * keypoints)) for _ in range(max(1, max_poses))]

    def _make_words(self):
        """Make room for the heatmap as words of four cells, with each plane padded to whole words, and the views of
        it."""
        keypoints = self.keypoints
        cells = self._cells
        plane_words = (cells + 3) // 4
        self._plane_cells = 4 * plane_words
        self._words = array("I", [0] * (keypoints * plane_words))
        self._copied = "%ds" % (cells if cells % 4 else keypoints * cells)
        # For each keypoint, single() reads where its numbers in the pose begin, its plane's first cell, the words in
        # parts, each with its first cell in the plane, and the offsets.
        self._planes = []
        words = memoryview(self._words)
        size = (plane_words + _PARTS - 1) // _PARTS
        for k in range(keypoints):
            plane = words[k * plane_words : (k + 1) * plane_words]
            parts = [(plane[at : at + size], 4 * at) for at in range(0, plane_words, size)]
            self._planes.append((3 * k + 1, k * cells, parts) + self._offset[k])

    def _load(self, heads):
        """Check the heads' sizes, and copy the heatmap into the words."""
        i = 0
        for size in self._head_bytes:
            if len(heads[i]) != size:
                raise ValueError("a head has %d bytes, but posenet.json says %d" % (len(heads[i]), size))
            i += 1
        heat = _COPY_FROM(heads[0])
        cells = self._cells
        plane_cells = self._plane_cells
        if cells == plane_cells:
            pack_into(self._copied, self._words, 0, heat)
        else:
            for k in range(self.keypoints):
                pack_into(self._copied, self._words, k * plane_cells, heat[k * cells : (k + 1) * cells])

    def single(self, heads):
        """The best cell of every keypoint, moved by its short offset: for a picture of one person.

        Of equal bytes the first cell counts. Returns a list of one pose, whose score is the mean of its five best
        keypoints' scores, or an empty list if that is below min_pose_score_q15 or too few keypoints are sure.
        """
        self._load(heads)
        heat, offsets, _, _ = heads
        cells = self._cells
        width = self._width
        across_q8 = self._across_q8
        down_q8 = self._down_q8
        scores = self._scores
        pose = self._poses[0]
        even = _EVEN
        carries = _CARRIES
        tests = self._tests
        greatest = max
        # Bytes below this one are not distinguished at first: without any higher byte there is no pose to return.
        least = self._least_pose_byte
        planes = self._planes
        low_planes = self._low_planes
        del low_planes[:]
        found = []
        cell = below = 0
        while True:
            for plane in planes:
                i, first, parts, at_y, at_x, offset_y, offset_x = plane
                # Only words that hold a byte above the greatest seen, `top`, are examined. At first `top` is the
                # plane's value at the place of the keypoint before, or below the place of the one before that, where an
                # arm or a leg usually continues.
                top = (greatest(heat[first + cell], heat[first + below], least) if found else least) - 1
                bits, lift = tests[top]
                best = 0
                for part in parts:
                    for word in part[0]:
                        if word & bits and (word & even) + lift & carries:
                            byte = greatest(word & 255, word >> 8 & 255, word >> 16 & 255, word >> 24)
                            if byte > top:
                                top = byte
                                bits, lift = tests[top]
                                best = word
                                best_part = part
                if best:
                    below = (cell + width) % cells
                    words, cell = best_part
                    for word in words:
                        if word == best:
                            break
                        cell += 4
                    while best & 255 != top:
                        best >>= 8
                        cell += 1
                elif least > 1:
                    low_planes.append(plane)
                    continue
                else:
                    cell = 0
                pose[i] = cell % width * across_q8 + offset_x[offsets[at_x + cell]]
                pose[i + 1] = cell // width * down_q8 + offset_y[offsets[at_y + cell]]
                pose[i + 2] = top = scores[top]
                found.append(top)
            # Would it be a pose even if the bytes of the low planes were just below `least`?
            if not low_planes or least == 1:
                break
            if self._best_mean(found + [scores[least - 1]] * len(low_planes)) < self.min_pose_score_q15:
                return []
            planes = low_planes
            least = 1
        pose[0] = self._best_mean(found)
        return [pose] if pose[0] >= self.min_pose_score_q15 and self._has_enough(pose) else []

    def _cells_above_threshold(self):
        """The cells whose byte may be a root, in order, counted through all planes."""
        threshold = self._threshold
        bits, lift = self._tests[threshold - 1]
        even = _EVEN
        carries = _CARRIES
        hot = self._hot
        del hot[:]
        cell = -4
        for word in self._words:
            cell += 4
            if word & bits and (word & even) + lift & carries:
                if word & 255 >= threshold:
                    hot.append(cell)
                if word >> 8 & 255 >= threshold:
                    hot.append(cell + 1)
                if word >> 16 & 255 >= threshold:
                    hot.append(cell + 2)
                if word >> 24 >= threshold:
                    hot.append(cell + 3)
        padding = self._plane_cells - self._cells
        if padding:
            for i, cell in enumerate(hot):
                hot[i] = cell - cell // self._plane_cells * padding
        return hot

    def _roots(self, heat):
        """The heatmap's local maxima at or above the threshold, as a heap whose smallest number is the best.

        A local maximum has no greater byte among the 8 cells around it. A number is (255 - byte) * cells of the
        whole heatmap + cell: of equal bytes the lower keypoint comes first, then the lower cell.
        """
        roots = self._heap
        del roots[:]
        cells = self._cells
        width = self._width
        right = width - 1
        total = len(heat)
        for cell in self._cells_above_threshold():
            x = cell % width
            byte = heat[cell]
            if x and heat[cell - 1] > byte or x < right and heat[cell + 1] > byte:
                continue
            first = cell // cells * cells
            near = cell - width
            if near >= first and (
                heat[near] > byte or x and heat[near - 1] > byte or x < right and heat[near + 1] > byte
            ):
                continue
            near = cell + width
            if near < first + cells and (
                heat[near] > byte or x and heat[near - 1] > byte or x < right and heat[near + 1] > byte
            ):
                continue
            roots.append((255 - byte) * total + cell)
        heapify(roots)
        return roots

    def multi(self, heads):
        """All poses, at most max_poses, by falling score.

        From every local maximum of the heatmap, best first, that no pose found before has near its own keypoint, a
        pose is followed along the edges.
        """
        self._load(heads)
        heat, offsets, _, _ = heads
        heat_cells = len(heat)
        cells = self._cells
        width = self._width
        nms_q16 = self._nms_q16
        poses = self._poses
        found = 0
        roots = self._roots(heat)
        while roots and found < self.max_poses:
            cell = heappop(roots) % heat_cells
            k = cell // cells
            cell %= cells
            at_y, at_x, offset_y, offset_x = self._offset[k]
            x = cell % width * self._across_q8 + offset_x[offsets[at_x + cell]]
            y = cell // width * self._down_q8 + offset_y[offsets[at_y + cell]]
            i = 3 * k + 1
            for p in range(found):
                pose = poses[p]
                dx = pose[i] - x
                dy = pose[i + 1] - y
                if dx * dx + dy * dy <= nms_q16:
                    break
            else:
                pose = poses[found]
                pose[i] = x
                pose[i + 1] = y
                pose[i + 2] = self._scores[heat[k * cells + cell]]
                self._follow(heads, k, pose)
                pose[0] = self._score(pose, found)
                found += 1

        # This is an insertion sort, because only CPython's list.sort keeps the order of equal elements.
        result = []
        for p in range(found):
            pose = poses[p]
            if pose[0] >= self.min_pose_score_q15 and self._has_enough(pose):
                i = len(result)
                while i and result[i - 1][0] < pose[0]:
                    i -= 1
                result.insert(i, pose)
        return result

    def _follow(self, heads, root, pose):
        """Fill the pose in from its root keypoint, along the edges.

        Displacements and short offsets are interpolated between the four cells around a point; beyond the map they are
        those of its edge.
        """
        heat, offsets, _, _ = heads
        refinements = self._refinements
        scores = self._scores
        cells = self._cells
        width = self._width
        across_q8 = self._across_q8
        down_q8 = self._down_q8
        right_q8 = (width - 1) * across_q8
        bottom_q8 = (self._height - 1) * down_q8
        # The sum of the four cells' weights, and the divisor that removes it and the factor 256 again.
        whole = across_q8 * down_q8
        scale = whole << 8
        away = _AWAY
        refinement_steps = self.refinement_steps
        for source, target, head, at_y, at_x, mul_y, add_y, mul_x, add_x in self._routes[root]:
            i = 3 * source + 1
            x = pose[i]
            y = pose[i + 1]
            plane = heads[head]
            step = 0
            while True:
                u = 0 if x < 0 else right_q8 if x > right_q8 else x
                v = 0 if y < 0 else bottom_q8 if y > bottom_q8 else y
                if step:
                    x = u
                    y = v
                column = u // across_q8
                row = v // down_q8
                u -= column * across_q8
                v -= row * down_q8
                # The cells; on the last column or row the next one has no weight, and is not read.
                here = row * width + column
                beside = here + 1 if u else here
                below = here + width if v else here
                across = below + beside - here
                # Their weights.
                w_across = u * v
                w_beside = u * down_q8 - w_across
                w_below = v * across_q8 - w_across
                w_here = whole - w_beside - v * across_q8
                byte = plane[at_x + here] * w_here + plane[at_x + beside] * w_beside
                byte += plane[at_x + below] * w_below + plane[at_x + across] * w_across
                x += (byte * mul_x + add_x) // scale
                byte = plane[at_y + here] * w_here + plane[at_y + beside] * w_beside
                byte += plane[at_y + below] * w_below + plane[at_y + across] * w_across
                y += (byte * mul_y + add_y) // scale
                if step == refinement_steps:
                    break
                step += 1
                plane = offsets
                at_y, at_x, mul_y, add_y, mul_x, add_x = refinements[target]
            i = 3 * target + 1
            # This takes two steps: where words have 32 bits these are long integers, and MicroPython 1.10 stores
            # negative ones wrongly in an array.
            pose[i] = x + away
            pose[i] -= away
            pose[i + 1] = y + away
            pose[i + 1] -= away
            # The score is the nearest cell's.
            x = x + (across_q8 >> 1) if x > 0 else 0
            y = y + (down_q8 >> 1) if y > 0 else 0
            column = (x if x < right_q8 else right_q8) // across_q8
            row = (y if y < bottom_q8 else bottom_q8) // down_q8
            pose[i + 2] = scores[heat[target * cells + row * width + column]]

    def _has_enough(self, pose):
        """Whether enough of the pose's keypoints are sure for it to be a person."""
        missing = self.min_keypoints
        threshold = self.score_threshold_q15
        i = 3
        while missing > 0 and i < len(pose):
            if pose[i] >= threshold:
                missing -= 1
            i += 3
        return missing <= 0

    def _score(self, pose, found):
        """The pose's score, from the keypoints that none of the first `found` poses claims."""
        poses = self._poses
        nms_q16 = self._nms_q16
        unclaimed = self._unclaimed
        del unclaimed[:]
        for i in range(1, len(pose), 3):
            for p in range(found):
                other = poses[p]
                dx = other[i] - pose[i]
                dy = other[i + 1] - pose[i + 1]
                if dx * dx + dy * dy <= nms_q16:
                    break
            else:
                unclaimed.append(pose[i + 2])
        return self._best_mean(unclaimed)

    def _best_mean(self, scores):
        """Mean of the best five scores, or of as many as there are keypoints; missing ones count as 0. Sorts the list.

        A person half behind a table shows few keypoints, all of them well. The mean over all keypoints ranks such a
        person below a shadow that resembles a whole one a little; the best five do not.
        """
        scores.sort()
        return sum(scores[-self._ranked :]) // self._ranked
