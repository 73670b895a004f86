"""Geometries for harness.c, the same in every run: one a line, its numbers in the order of `read_case`."""

import random

# Too large for one task: long rows, many tiles, many rows, many channels.
LARGE = [
    "1 3 210 9 3 210 17  3 1 1 1  0 3 0 15 1",
    "2 29 34 16 29 34 17  3 1 1 1  1 2 0 6 2",
    "1 33 130 5 17 65 20  3 2 1 1  1 3 0 5 0",
    "1 40 41 6 36 37 7  5 1 2 2  0 2 0 8 1",
    "1 12 13 130 6 6 33  2 2 0 1  1 2 0 0 2",
    "1 5 6 20 5 6 290  1 1 0 1  0 4 0 3 1",
]
# The most multiplications of a case. Plain loops under a sanitizer do about 10^8 a second.
MOST_PRODUCTS = 400_000


def lines(count=250, seed=0):
    """The large ones, then `count` random ones."""
    draw = random.Random(seed)
    yield from LARGE
    made = 0
    while made < count:
        line = _drawn(draw)
        if line:
            made += 1
            yield line


def _drawn(draw):
    """A line, or None if the numbers are no convolution or take too long."""
    kernel_size, stride, padding, dilation = (draw.randint(*ends) for ends in ((1, 5), (1, 3), (0, 3), (1, 3)))
    if draw.random() < 0.3:
        kernel_size, stride, padding, dilation = 3, 1, 1, 1
    n, height, width = draw.randint(1, 3), _side(draw), _side(draw)
    c_in, c_out = _channels(draw), _channels(draw)
    span = dilation * (kernel_size - 1) + 1
    rows, columns = ((side + 2 * padding - span) // stride + 1 for side in (height, width))
    if min(rows, columns) < 1 or n * rows * columns * kernel_size**2 * c_in * c_out > MOST_PRODUCTS:
        return None
    # The output may be smaller than full size: with output padding, an adjoint has pixels that no tap reaches.
    most = (max(stride, dilation) - 1) // stride
    rows, columns = (max(1, side - draw.randint(0, most)) for side in (rows, columns))
    numbers = [n, height, width, c_in, rows, columns, c_out, kernel_size, stride, padding, dilation]
    # half, threads, limit, fused and guard.
    numbers += [
        draw.randint(0, 1),
        draw.randint(1, 4),
        draw.randint(0, 5),
        draw.randint(0, 15),
        draw.randint(0, 2),
    ]
    return " ".join(map(str, numbers))


def _side(draw):
    return draw.randint(1, 6) if draw.random() < 0.5 else draw.randint(1, 20)


def _channels(draw):
    """A few; near a multiple of a vector; or any number."""
    kind = draw.random()
    if kind < 0.4:
        return draw.randint(1, 5)
    return max(1, 8 * draw.randint(1, 9) + draw.randint(-1, 1)) if kind < 0.8 else draw.randint(1, 140)


if __name__ == "__main__":
    print("\n".join(lines()))
