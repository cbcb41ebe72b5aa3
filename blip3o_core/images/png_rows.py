"""Whether a PNG holds all of its pixels.

Pillow takes a stream that ends properly, but early, for a whole one; the rows that it lacks become black.
"""

import struct
import zlib

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the kind of colour
# First column, first row, and the steps between them, of each pass over an interlaced image.
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PIECE = 2**20  # bytes that are unpacked at once


def lacks_rows(data: bytes, image) -> bool:
    """Whether rows are missing in the file `data` of the loaded `image`, which Pillow found to be a PNG."""
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", data[16:29])
    last = image.crop((0, image.height - 1, image.width, image.height)).tobytes()
    if not interlaced and any(last):  # what Pillow did not fill is 0
        return False
    bits, wanted = depth * _CHANNELS[kind], 0
    for left, top, right, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0:
            wanted += max(rows, 0) * (1 + (columns * bits + 7) // 8)
    return _unpacked_length(data) < wanted


def _unpacked_length(data: bytes) -> int:
    """Bytes of pixels in a PNG, without holding them."""
    unpacker, found, place = zlib.decompressobj(), 0, 8
    while place + 8 <= len(data):
        length, tag = struct.unpack(">I4s", data[place : place + 8])
        piece = data[place + 8 : place + 8 + length] if tag == b"IDAT" else b""
        while piece and not unpacker.eof:
            found += len(unpacker.decompress(piece, _PIECE))
            piece = unpacker.unconsumed_tail
        place += 12 + length
    return found + len(unpacker.flush())
