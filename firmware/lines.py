"""One JSON line per frame for other devices or programs: on a UART, or on the REPL's line.

    {"seq":12,"ms":3456,"latency":118,"poses":[{"id":1,"score":87,"keypoints":[[160,42,98],…17]}]}

seq numbers the pictures taken from the camera, including those that are dropped. ms: the board's clock. latency: the
longest possible time from light to LCD of the picture shown before this one, in ms.
keypoints are [x px, y px, score percent] in the order of posenet.json. With a CRC the line ends in '*' and eight
hex digits: CRC-32 (as in zip) of everything before the '*'. The line ends in LF.
"""

from binascii import crc32


def format_line(seq, now_ms, poses, latency_ms, crc=False):
    """The line as str, without its end."""
    parts = []
    for pose in poses:
        data = pose.data
        points = ",".join(
            [
                "[%d,%d,%d]" % ((data[i] + 128) >> 8, (data[i + 1] + 128) >> 8, data[i + 2] * 100 >> 15)
                for i in range(1, len(data), 3)
            ]
        )
        parts.append('{"id":%d,"score":%d,"keypoints":[%s]}' % (pose.id, pose.score, points))
    line = '{"seq":%d,"ms":%d,"latency":%d,"poses":[%s]}' % (seq, now_ms, latency_ms, ",".join(parts))
    return "%s*%08x" % (line, crc32(line.encode()) & 0xFFFFFFFF) if crc else line


class UartLines:
    """Lines on UART1; options may replace any of boards.UART. With "changes" only when people come or go."""

    def __init__(self, options):
        import boards
        from fpioa_manager import fm
        from machine import UART

        line = boards.UART.copy()
        line.update(options)
        fm.register(line["tx"], fm.fpioa.UART1_TX, force=True)
        fm.register(line["rx"], fm.fpioa.UART1_RX, force=True)
        self._uart = UART(UART.UART1, line["baud"])
        self._crc = line["crc"]
        self._changes = line["changes"]
        self._ids = None

    def send(self, seq, now_ms, poses, latency_ms):
        """Send this frame's line; with "changes" only if it must be sent."""
        if self._changes:
            ids = [pose.id for pose in poses]
            if ids == self._ids:
                return
            self._ids = ids
        self._uart.write(format_line(seq, now_ms, poses, latency_ms, self._crc) + "\n")
