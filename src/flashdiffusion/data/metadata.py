"""PNG and JPEG files without their metadata, for files whose metadata keeps the pixels from being read."""

import struct

_PNG = b"\x89PNG\r\n\x1a\n"
_KEPT = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}


def stripped(data: bytes) -> bytes:
    """Strip a PNG or JPEG file down to what its pixels need; other or damaged files are returned unchanged."""
    try:
        if data.startswith(_PNG):
            return _png(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
    except struct.error:
        pass
    return data


def _png(data: bytes) -> bytes:
    kept, at = [_PNG], len(_PNG)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind in _KEPT:
            kept.append(data[at : at + 12 + length])
        at += 12 + length
    return b"".join(kept)


def _jpeg(data: bytes) -> bytes:
    """Drop comments and application segments, except Adobe's, which gives the colour transform."""
    kept, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack_from(">xBH", data, at)
        if marker == 0xDA:  # the scan: compressed pixels to the end
            break
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker == 0xEE:
            kept.append(data[at : at + 2 + length])
        at += 2 + length
    return b"".join([*kept, data[at:]])
