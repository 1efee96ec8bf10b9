"""Coordinates of a camera that is mounted on its side or upside down.

The network of such a board is turned when it is built, so it works on the camera's frames as they come. Programs want
to know where a person is in the upright picture. `mount` says by how many degrees the camera is turned clockwise, seen
from behind it.

        upright            frame at mount 90
        +-----> x          +-----> x'       x' = y
        |  a b             |  b d           y' = width - 1 - x
        v  c d             v  a c
        y                  y'
"""


def to_upright(data, mount, width, height):
    """Change a pose, array('i') as in decoder.py, from the frame's coordinates to the upright picture's, in place.

    width, height: of the frame in pixels.
    """
    right = (width - 1) << 8
    bottom = (height - 1) << 8
    for i in range(1, len(data), 3):
        x = data[i]
        y = data[i + 1]
        if mount == 90:
            data[i] = bottom - y
            data[i + 1] = x
        elif mount == 180:
            data[i] = right - x
            data[i + 1] = bottom - y
        elif mount == 270:
            data[i] = y
            data[i + 1] = right - x


def to_frame(data, out, mount, width, height):
    """The inverse: a pose in the upright picture's coordinates, written to `out` in the frame's."""
    right = (width - 1) << 8
    bottom = (height - 1) << 8
    out[:] = data
    for i in range(1, len(data), 3):
        x = data[i]
        y = data[i + 1]
        if mount == 90:
            out[i] = y
            out[i + 1] = bottom - x
        elif mount == 180:
            out[i] = right - x
            out[i + 1] = bottom - y
        elif mount == 270:
            out[i] = right - y
            out[i + 1] = x


def squeeze(data, width, field_width):
    """Change a pose's x from the field's pixels to those of a picture that shows the field squeezed to `width`."""
    for i in range(1, len(data), 3):
        data[i] = data[i] * width // field_width
