"""The textbook port with which firmware/decoder.py is compared: the published algorithm in its most direct form.

It is plain MicroPython (and CPython): floats, nested loops over rows, columns and keypoints, one small function per
step of tfjs PoseNet's decodeSinglePose and decodeMultiplePoses, with vectors read between cells as libcoral does. As in
tfjs, all scores are computed first. The other heads are dequantized where they are read: as floats they would take 1.2
MB at 320x240, and the board's heap has 0.5. It has the same inputs and options as firmware/decoder.py; a pose is
(score, [(x, y, score), ...]).
"""

import math

LOCAL_MAXIMUM_RADIUS = 1


class Tensor:
    """A head's bytes (CHW), read as real values."""

    def __init__(self, data, head, height, width):
        self.data = data
        self.scale = head["scale"]
        self.zero_point = head["zero_point"]
        self.height = height
        self.width = width

    def get(self, channel, y, x):
        byte = self.data[(channel * self.height + y) * self.width + x]
        if isinstance(self.scale, list):
            return (byte - self.zero_point[channel]) * self.scale[channel]
        return (byte - self.zero_point) * self.scale


class ScoreTensor:
    """The heatmap as scores, all of them computed at once."""

    def __init__(self, data, head, height, width):
        self.height = height
        self.width = width
        self.scores = []
        for byte in data:
            logit = (byte - head["zero_point"]) * head["scale"]
            self.scores.append(1 / (1 + math.exp(-logit)))

    def get(self, channel, y, x):
        return self.scores[(channel * self.height + y) * self.width + x]


class LeanScoreTensor(Tensor):
    """The heatmap as scores, each computed where it is read."""

    def get(self, channel, y, x):
        byte = self.data[(channel * self.height + y) * self.width + x]
        return 1 / (1 + math.exp((self.zero_point - byte) * self.scale))


def squared_distance(y1, x1, y2, x2):
    dy = y2 - y1
    dx = x2 - x1
    return dy * dy + dx * dx


def clamp(value, low, high):
    if value < low:
        return low
    if value > high:
        return high
    return value


class Textbook:
    def __init__(self, manifest, score_threshold=0.5, nms_radius=20, max_poses=5, refinement_steps=2, min_score=0.15):
        self.heads = manifest["heads"]
        self.stride = manifest["output_stride"]
        self.height = manifest["map"]["height"]
        self.width = manifest["map"]["width"]
        self.keypoints = len(manifest["keypoints"])
        self.edges = manifest["edges"]
        self.score_threshold = score_threshold
        self.squared_nms_radius = nms_radius * nms_radius
        self.max_poses = max_poses
        self.refinement_steps = refinement_steps
        self.min_score = min_score

    def tensors(self, heads):
        """The heads as tensors of real values."""
        kinds = (ScoreTensor, Tensor, Tensor, Tensor)
        return [kinds[i](heads[i], self.heads[i], self.height, self.width) for i in range(4)]

    def image_coords(self, offsets, k, y, x):
        return (
            y * self.stride + offsets.get(k, y, x),
            x * self.stride + offsets.get(self.keypoints + k, y, x),
        )

    def single(self, heads):
        scores, offsets, _, _ = self.tensors(heads)
        total = 0
        pose = []
        for k in range(self.keypoints):
            best = -1
            for y in range(self.height):
                for x in range(self.width):
                    score = scores.get(k, y, x)
                    if score > best:
                        best = score
                        best_y = y
                        best_x = x
            y, x = self.image_coords(offsets, k, best_y, best_x)
            pose.append((x, y, best))
            total += best
        score = total / self.keypoints
        return [(score, pose)] if score >= self.min_score else []

    def is_local_maximum(self, scores, score, k, y, x):
        for y2 in range(max(y - LOCAL_MAXIMUM_RADIUS, 0), min(y + LOCAL_MAXIMUM_RADIUS + 1, self.height)):
            for x2 in range(max(x - LOCAL_MAXIMUM_RADIUS, 0), min(x + LOCAL_MAXIMUM_RADIUS + 1, self.width)):
                if scores.get(k, y2, x2) > score:
                    return False
        return True

    def build_queue(self, scores):
        queue = []
        for k in range(self.keypoints):
            for y in range(self.height):
                for x in range(self.width):
                    score = scores.get(k, y, x)
                    if score >= self.score_threshold and self.is_local_maximum(scores, score, k, y, x):
                        queue.append((score, -k, -y, -x))
        queue.sort(reverse=True)
        return queue

    def within_nms_radius(self, poses, k, y, x):
        for pose in poses:
            x2, y2, _ = pose[1][k]
            if squared_distance(y, x, y2, x2) <= self.squared_nms_radius:
                return True
        return False

    def nearest_cell(self, y, x):
        return (
            clamp(math.floor(y / self.stride + 0.5), 0, self.height - 1),
            clamp(math.floor(x / self.stride + 0.5), 0, self.width - 1),
        )

    def sample(self, tensor, channel, y, x):
        """A channel's value between the four cells around a point in pixels.

        Beyond the map the edge's value goes on.
        """
        y = clamp(y / self.stride, 0, self.height - 1)
        x = clamp(x / self.stride, 0, self.width - 1)
        top = math.floor(y)
        left = math.floor(x)
        bottom = min(top + 1, self.height - 1)
        right = min(left + 1, self.width - 1)
        dy = y - top
        dx = x - left
        above = tensor.get(channel, top, left) * (1 - dx) + tensor.get(channel, top, right) * dx
        below = tensor.get(channel, bottom, left) * (1 - dx) + tensor.get(channel, bottom, right) * dx
        return above * (1 - dy) + below * dy

    def traverse(self, edge, source, target, scores, offsets, displacements):
        x, y, _ = source
        dy = self.sample(displacements, edge, y, x)
        dx = self.sample(displacements, len(self.edges) + edge, y, x)
        y += dy
        x += dx
        for _ in range(self.refinement_steps):
            dy = self.sample(offsets, target, y, x)
            dx = self.sample(offsets, self.keypoints + target, y, x)
            y = clamp(y, 0, (self.height - 1) * self.stride) + dy
            x = clamp(x, 0, (self.width - 1) * self.stride) + dx
        cell_y, cell_x = self.nearest_cell(y, x)
        return x, y, scores.get(target, cell_y, cell_x)

    def decode_pose(self, score, k, y, x, tensors):
        scores, offsets, forward, backward = tensors
        pose = [None] * self.keypoints
        y, x = self.image_coords(offsets, k, y, x)
        pose[k] = (x, y, score)
        for edge in range(len(self.edges) - 1, -1, -1):
            target, source = self.edges[edge]
            if pose[source] and not pose[target]:
                pose[target] = self.traverse(edge, pose[source], target, scores, offsets, backward)
        for edge in range(len(self.edges)):
            source, target = self.edges[edge]
            if pose[source] and not pose[target]:
                pose[target] = self.traverse(edge, pose[source], target, scores, offsets, forward)
        return pose

    def instance_score(self, poses, pose):
        total = 0
        for k in range(self.keypoints):
            x, y, score = pose[k]
            if not self.within_nms_radius(poses, k, y, x):
                total += score
        return total / self.keypoints

    def multi(self, heads):
        tensors = self.tensors(heads)
        scores, offsets, _, _ = tensors
        poses = []  # type: list
        for score, k, y, x in self.build_queue(scores):
            if len(poses) == self.max_poses:
                break
            k, y, x = -k, -y, -x
            root_y, root_x = self.image_coords(offsets, k, y, x)
            if self.within_nms_radius(poses, k, root_y, root_x):
                continue
            pose = self.decode_pose(score, k, y, x, tensors)
            poses.append((self.instance_score(poses, pose), pose))
        poses.sort(key=lambda pose: -pose[0])
        return [pose for pose in poses if pose[0] >= self.min_score]


class LeanTextbook(Textbook):
    """The same decoder without computing scores that nothing reads, which is faster than tfjs's way."""

    def tensors(self, heads):
        kinds = (LeanScoreTensor, Tensor, Tensor, Tensor)
        return [kinds[i](heads[i], self.heads[i], self.height, self.width) for i in range(4)]
