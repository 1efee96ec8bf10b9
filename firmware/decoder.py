"""From the KPU's four output tensors to poses, in integers only.

The same file runs on the board (MicroPython 1.11) and on the host, with identical results.

Coordinates are (x, y) in 1/256 px of the network's input ("q8"): 0 is the centre of the first pixel, and of the
first cell; cell c lies at c * output_stride. Scores are sigmoid scores times 32768 ("q15").

The method is the fast greedy decoding of PersonLab (arXiv 1803.08225) as tfjs PoseNet does it, see docs/decoder.md.
"""

from array import array

try:
    from micropython import const
except ImportError:

    def const(value):
        return value


_BAND_CELLS = const(80)  # Cells whose greatest heatmap byte is kept together (see Decoder.multi).


def _per_channel(constants, channels):
    """One integer for all channels, or a list of one for each: as a list."""
    return list(constants) if isinstance(constants, (list, tuple)) else [constants] * channels


def _route(root, steps):
    """The steps that reach new keypoints from the root, in their order."""
    known = {root}
    route = []
    for step in steps:
        if step[0] in known and step[1] not in known:
            known.add(step[1])
            route.append(step)
    return route


class Decoder:
    """Decodes frame after frame with buffers made once.

    manifest: the dictionary of posenet.json. Its four heads are, in this order, heatmap, short_offset,
    displacement_fwd and displacement_bwd; each is given to single() and multi() as a contiguous buffer of uint8,
    CHW, of channels * map height * map width bytes.

    score_threshold_q15: a heatmap cell with at least this score may become the root of a pose.
    nms_radius_px: a root this near to the same keypoint of a pose already found is dropped; a keypoint this near
        to the same keypoint of a better pose adds nothing to the score of its pose. Pixels of the network's input.
    max_poses: multi() decodes no more than this many.
    refinement_steps: how often a keypoint reached along an edge is corrected by the short offset under it.
    min_pose_score_q15: poses with a smaller score are not returned.

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
        min_pose_score_q15=4915,
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
        self.refinement_steps = refinement_steps
        self.max_poses = max_poses
        self.min_pose_score_q15 = min_pose_score_q15
        self._width = width
        self._height = height
        self._cells = cells
        self._stride_q8 = manifest["output_stride"] << 8
        self._nms_q16 = (nms_radius_px << 8) ** 2
        self._head_bytes = tuple(head["channels"] * cells for head in heads)

        # Heatmap byte -> score; the least byte that may be a root. Byte 0, the floor of the heatmap, never is.
        self._scores = array("H", manifest["sigmoid_q15"])
        threshold = 1
        while threshold < 256 and self._scores[threshold] < score_threshold_q15:
            threshold += 1
        self._threshold = threshold

        # (b - zero_point) * mul_q16, rounded to q8, is (b * mul_q16 + add) >> 8.
        constants = []
        for head in heads[1:]:
            channels = head["channels"]
            muls = _per_channel(head["mul_q16"], channels)
            zeros = _per_channel(head["zero_point"], channels)
            constants.append([(muls[c], 128 - zeros[c] * muls[c]) for c in range(channels)])
        offset, forward, backward = constants
        # Per keypoint: where its two offset planes begin, and their constants, y then x.
        self._offset = [
            (k * cells, (keypoints + k) * cells) + offset[k] + offset[keypoints + k] for k in range(keypoints)
        ]
        # Per root keypoint the edges to follow, first up the tree, then down. Per edge: source and target keypoint,
        # which displacement head, where the edge's planes begin there, and their constants, y then x.
        count = len(edges)
        steps = []
        for e in range(count - 1, -1, -1):
            parent, child = edges[e]
            steps.append((child, parent, 3, e * cells, (count + e) * cells) + backward[e] + backward[count + e])
        for e in range(count):
            parent, child = edges[e]
            steps.append((parent, child, 2, e * cells, (count + e) * cells) + forward[e] + forward[count + e])
        self._routes = [_route(root, steps) for root in range(keypoints)]
        if [len(route) for route in self._routes] != [keypoints - 1] * keypoints:
            raise ValueError("posenet.json: the edges do not reach every keypoint")
        # Per keypoint of the pose in hand: the cell nearest to it.
        self._near = [0] * keypoints

        # The heatmap's working copy, and views of its planes and of the bands (whole rows) in them.
        self._work = work = bytearray(keypoints * cells)
        view = memoryview(work)
        rows = max(1, _BAND_CELLS // width)
        self._band_cells = band = rows * width
        self._planes = [view[k * cells : (k + 1) * cells] for k in range(keypoints)]
        self._bands = [
            [view[k * cells + b : k * cells + min(b + band, cells)] for b in range(0, cells, band)]
            for k in range(keypoints)
        ]
        self._band_tops = [[0] * len(self._bands[0]) for _ in range(keypoints)]
        self._tops = [0] * keypoints
        self._whole = [False] * keypoints
        self._zeros = [bytes(n) for n in range(width + 1)]
        self._bytes = bytes(range(256))
        self._poses = [array("i", [0] * (1 + 3 * keypoints)) for _ in range(max(1, max_poses))]

    def _load(self, heads):
        """The heads as memoryviews, the heatmap copied."""
        views = [memoryview(head) for head in heads]
        for view, size in zip(views, self._head_bytes):
            if len(view) != size:
                raise ValueError("a head has %d bytes, posenet.json says %d" % (len(view), size))
        self._work[:] = views[0]
        return views

    def single(self, heads):
        """The best cell of every keypoint, moved by its short offset: for a picture of one person.

        Returns a list of one pose, whose score is the mean of its keypoints' scores, or an empty list if that is
        below min_pose_score_q15.
        """
        offsets = self._load(heads)[1]
        planes = self._planes
        scores = self._scores
        tops = self._tops
        total = 0
        for k in range(self.keypoints):
            tops[k] = top = max(planes[k])
            total += scores[top]
        total //= self.keypoints
        if total < self.min_pose_score_q15:
            return []
        pose = self._poses[0]
        pose[0] = total
        width = self._width
        stride_q8 = self._stride_q8
        all_bytes = self._bytes
        i = 1
        for k in range(self.keypoints):
            top = tops[k]
            cell = bytes(planes[k]).find(all_bytes[top : top + 1])
            at_y, at_x, mul_y, add_y, mul_x, add_x = self._offset[k]
            pose[i] = cell % width * stride_q8 + ((offsets[at_x + cell] * mul_x + add_x) >> 8)
            pose[i + 1] = cell // width * stride_q8 + ((offsets[at_y + cell] * mul_y + add_y) >> 8)
            pose[i + 2] = scores[top]
            i += 3
        return [pose]

    def multi(self, heads):
        """All poses, at most max_poses, by falling score.

        Roots are the heatmap's local maxima (no greater byte among the 8 cells around), best first; of equal
        bytes the lower keypoint, then the lower cell. From a root the pose is followed along the edges.

        The queue of roots is never built. Per keypoint and band of rows only the greatest byte is kept. The best
        of all is the next candidate; then it is erased together with the cells that fall away from it, which
        cannot be local maxima.
        """
        views = self._load(heads)
        heat, offsets, _, _ = views
        threshold = self._threshold
        work = self._work
        tops = self._tops
        whole = self._whole
        band_tops = self._band_tops
        for k in range(self.keypoints):
            bands = self._bands[k]
            own = band_tops[k]
            for b in range(len(bands)):
                own[b] = max(bands[b])
            tops[k] = max(own)
            whole[k] = True

        width = self._width
        cells = self._cells
        right = width - 1
        stride_q8 = self._stride_q8
        nms_q16 = self._nms_q16
        band_cells = self._band_cells
        zeros = self._zeros
        all_bytes = self._bytes
        poses = self._poses
        found = 0
        while found < self.max_poses:
            top = max(tops)
            if top < threshold:
                break
            k = tops.index(top)
            own = band_tops[k]
            bands = self._bands[k]
            first = k * cells
            end = first + cells
            b = own.index(top)
            cell = b * band_cells + bytes(bands[b]).find(all_bytes[top : top + 1])
            x = cell % width
            root = first + cell

            # Erase it and what falls from it: in its row to both sides, then row by row upwards and downwards,
            # from the greatest of the three cells next to the last row's greatest.
            highest = lowest = root
            for step in (-width, width):
                at = root
                at_x = x
                byte = top
                while True:
                    begin = at
                    edge = at - at_x
                    last = byte
                    while begin > edge:
                        b = work[begin - 1]
                        if b < threshold or b >= last:
                            break
                        last = b
                        begin -= 1
                    stop = at + 1
                    edge += width
                    last = byte
                    while stop < edge:
                        b = work[stop]
                        if b < threshold or b >= last:
                            break
                        last = b
                        stop += 1
                    work[begin:stop] = zeros[stop - begin]
                    if step < 0:
                        highest = at
                    else:
                        lowest = at
                    at += step
                    if at < first or at >= end:
                        break
                    last = work[at]
                    move = 0
                    if at_x:
                        b = work[at - 1]
                        if b > last:
                            last = b
                            move = -1
                    if at_x < right:
                        b = work[at + 1]
                        if b > last:
                            last = b
                            move = 1
                    if last < threshold or last >= byte:
                        break
                    byte = last
                    at += move
                    at_x += move
            for b in range((highest - first) // band_cells, (lowest - first) // band_cells + 1):
                own[b] = max(bands[b])
            tops[k] = max(own)

            # The first candidate of a plane is its maximum; later ones may lie beside a greater cell erased.
            if whole[k]:
                whole[k] = False
            else:
                begin = root - 1 if x else root
                stop = root + 2 if x < right else root + 1
                if (
                    max(heat[begin:stop]) > top
                    or (cell >= width and max(heat[begin - width : stop - width]) > top)
                    or (root + width < end and max(heat[begin + width : stop + width]) > top)
                ):
                    continue

            at_y, at_x, mul_y, add_y, mul_x, add_x = self._offset[k]
            x = x * stride_q8 + ((offsets[at_x + cell] * mul_x + add_x) >> 8)
            y = cell // width * stride_q8 + ((offsets[at_y + cell] * mul_y + add_y) >> 8)
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
                pose[i + 2] = self._scores[top]
                self._follow(views, k, pose)
                pose[0] = self._score(pose, found)
                found += 1

        # list.sort keeps the order of equals in CPython only.
        result = []
        for p in range(found):
            pose = poses[p]
            if pose[0] >= self.min_pose_score_q15:
                i = len(result)
                while i and result[i - 1][0] < pose[0]:
                    i -= 1
                result.insert(i, pose)
        return result

    def _nearest(self, x, y):
        """The cell nearest to a point, halves towards greater coordinates; beyond the map its nearest edge."""
        stride_q8 = self._stride_q8
        column = (x + (stride_q8 >> 1)) // stride_q8
        row = (y + (stride_q8 >> 1)) // stride_q8
        return max(0, min(row, self._height - 1)) * self._width + max(0, min(column, self._width - 1))

    def _follow(self, views, root, pose):
        """Fill the pose in from its root keypoint, along the edges."""
        heat, offsets, _, _ = views
        offset = self._offset
        scores = self._scores
        width = self._width
        right = width - 1
        bottom = self._height - 1
        cells = self._cells
        stride_q8 = self._stride_q8
        half_q8 = stride_q8 >> 1
        refinement_steps = self.refinement_steps
        near = self._near
        i = 3 * root + 1
        near[root] = self._nearest(pose[i], pose[i + 1])
        for source, target, head, at_y, at_x, mul_y, add_y, mul_x, add_x in self._routes[root]:
            i = 3 * source + 1
            cell = near[source]
            plane = views[head]
            x = pose[i] + ((plane[at_x + cell] * mul_x + add_x) >> 8)
            y = pose[i + 1] + ((plane[at_y + cell] * mul_y + add_y) >> 8)
            at_y, at_x, mul_y, add_y, mul_x, add_x = offset[target]
            i = refinement_steps
            while True:
                # As _nearest, without the call.
                column = (x + half_q8) // stride_q8
                row = (y + half_q8) // stride_q8
                if not 0 <= column <= right:
                    column = 0 if column < 0 else right
                if not 0 <= row <= bottom:
                    row = 0 if row < 0 else bottom
                cell = row * width + column
                if not i:
                    break
                i -= 1
                x = column * stride_q8 + ((offsets[at_x + cell] * mul_x + add_x) >> 8)
                y = row * stride_q8 + ((offsets[at_y + cell] * mul_y + add_y) >> 8)
            near[target] = cell
            i = 3 * target + 1
            pose[i] = x
            pose[i + 1] = y
            pose[i + 2] = scores[heat[target * cells + cell]]

    def _score(self, pose, found):
        """Sum of the scores of keypoints that none of the first `found` poses claims, by the keypoints."""
        poses = self._poses
        nms_q16 = self._nms_q16
        total = 0
        for i in range(1, len(pose), 3):
            for p in range(found):
                other = poses[p]
                dx = other[i] - pose[i]
                dy = other[i + 1] - pose[i + 1]
                if dx * dx + dy * dy <= nms_q16:
                    break
            else:
                total += pose[i + 2]
        return total // self.keypoints
