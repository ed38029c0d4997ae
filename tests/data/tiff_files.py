"""Writes TIFF files of the kinds that PIL and OpenCV do not write."""

import struct

import numpy as np

_FORMATS = {"u": 1, "i": 2, "f": 3}


def write_tiff(
    path, pixels, photometric=None, orientation=1, extra_samples=(), bits=None, planes=False
):
    """Writes an uncompressed TIFF with one strip, in the byte order of the array.

    Args:
        path: path of the file.
        pixels: [H, W] or [H, W, C].
        photometric: the tag PhotometricInterpretation; 0 means that the value 0 is white.
        orientation: the tag Orientation.
        extra_samples: the kinds of the channels beyond RGB: 0 unknown, 1 alpha (premultiplied),
            2 alpha.
        bits: 12 packs the values to 12 bits.
        planes: whether every channel has a strip of its own.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    order = ">" if pixels.dtype.byteorder == ">" else "<"
    strips = channels if planes else 1
    if planes:
        data = pixels.transpose(2, 0, 1).tobytes()
    else:
        data = _packed(pixels.reshape(height, -1)) if bits == 12 else pixels.tobytes()
    if photometric is None:
        photometric = 2 if channels >= 3 else 1
    tags = {
        256: ("I", [width]),
        257: ("I", [height]),
        258: ("H", [bits or pixels.dtype.itemsize * 8] * channels),
        259: ("H", [1]),
        262: ("H", [photometric]),
        # the positions of the pixels, filled in below
        273: ("I", [0] * strips),
        274: ("H", [orientation]),
        277: ("H", [channels]),
        278: ("I", [height]),
        279: ("I", [len(data) // strips] * strips),
        284: ("H", [2 if planes else 1]),
        338: ("H", list(extra_samples)),
        339: ("H", [_FORMATS[pixels.dtype.kind]] * channels),
    }
    tags = {tag: value for tag, value in tags.items() if value[1]}
    values_at = 8 + 2 + 12 * len(tags) + 4
    sizes = [struct.calcsize(kind) * len(values) for kind, values in tags.values()]
    pixels_at = values_at + sum(size for size in sizes if size > 4)
    tags[273] = ("I", [pixels_at + i * len(data) // strips for i in range(strips)])
    entries, long_values = b"", b""
    for tag, (kind, values) in tags.items():
        packed = struct.pack(order + kind * len(values), *values)
        if len(packed) > 4:
            long_values, packed = (
                long_values + packed,
                struct.pack(order + "I", values_at + len(long_values)),
            )
        type_number = {"H": 3, "I": 4}[kind]
        entries += struct.pack(order + "HHI", tag, type_number, len(values)) + packed.ljust(
            4, b"\0"
        )
    magic = b"MM\0*" if order == ">" else b"II*\0"
    header = magic + struct.pack(order + "IH", 8, len(tags))
    path.write_bytes(header + entries + b"\0" * 4 + long_values + data)


def _packed(pixels):
    """Packs pairs of 12-bit values to 3 bytes each; the number of values in a row is even."""
    first, second = pixels[:, ::2].astype(int), pixels[:, 1::2].astype(int)
    packed = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    return np.stack(packed, axis=-1).astype(np.uint8).tobytes()
