"""What the bytes of an image file say before they are decoded: format, size, and whether all are
there.

Decoders believe the content, not the file's name, and take memory for the size that its header
states. So no more is decoded than a known format of a size that was read here first.
"""

import contextlib
import io
import os
import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmdet_r2.errors import ConfigError, DataError

LIMIT_VARIABLE = 'MMDET_R2_MAX_PIXELS'
#: A file of some kB can claim any size; decoding takes three bytes for each pixel.
MAX_PIXELS = 200_000_000
#: Bytes of one image file.
MAX_IMAGE_BYTES = 2**31 - 1

_PNG = b'\x89PNG\r\n\x1a\n'
_CONVERT = 'which are not read: convert the image to 8 or 16 bits per sample'
_SAVE = 'which is not read: save the image as PNG or JPEG'
# Formats that nothing here decodes, or only into numbers that are no 8-bit colours.
_UNREAD = (
    (b'#?RADIANCE', f'Radiance HDR, floating-point samples, {_CONVERT}'),
    (b'#?RGBE', f'Radiance HDR, floating-point samples, {_CONVERT}'),
    (b'PF', f'PFM, floating-point samples, {_CONVERT}'),
    (b'Pf', f'PFM, floating-point samples, {_CONVERT}'),
    (b'\x76\x2f\x31\x01', f'OpenEXR, floating-point samples, {_CONVERT}'),
    (b'\xff\x0a', f'JPEG XL, {_SAVE}'),
    (b'\0\0\0\x0cJXL ', f'JPEG XL, {_SAVE}'),
    (b'8BPS', f'a Photoshop file, {_SAVE}'),
    (b'%PDF', f'a PDF, {_SAVE}'),
    (b'%!PS', f'PostScript, {_SAVE}'),
    (b'\0\0\1\0', f'a Windows icon, {_SAVE}'),
    (b'DDS ', f'a DDS texture, {_SAVE}'),
    (b'\x01\xda', f'an SGI image, {_SAVE}'),
    (b'qoif', f'QOI, {_SAVE}'),
    (b'SIMPLE  =', f'FITS, {_SAVE}'),
    (b'\x89HDF', f'HDF5, {_SAVE}'),
    (b'FUJIFILM', f'a raw file of a camera, {_SAVE}'),
    (b'version https://git-lfs', "a Git LFS pointer instead of the image: run 'git lfs pull'"),
)
_HEIF = (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1')
_SOFS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame, of all processes
_TIFF_COMPRESSIONS = {34925: 'LZMA', 50000: 'Zstandard', 50001: 'WebP', 50002: 'JPEG XL'}
_ZEROS = bytes(64)


class UnreadableImageError(DataError):
    """A missing, empty, truncated or undecodable image file; the message names it."""


class DamagedImageError(UnreadableImageError):
    """An image of which the decoder made up a part."""


class UnsupportedImageError(UnreadableImageError):
    """An image that may well be sound, but is of a kind that is not read, or too large."""


class Contents(NamedTuple):
    """What the bytes of an image file are.

    Attributes:
        kind: 'JPEG', 'PNG', ...; '' if unknown.
        width, height: in pixels as stored; 0 if not stated.
        bits: per sample.
        defect: what is visibly wrong with them, '' if nothing.
        unread: why a sound image of this kind is not read, '' if it is: the end of a sentence.
        scan: where the pixels of a JPEG of one scan begin; 0 for other files.
    """

    kind: str = ''
    width: int = 0
    height: int = 0
    bits: int = 8
    defect: str = ''
    unread: str = ''
    scan: int = 0


def max_pixels() -> int:
    """How many pixels an image file may have: ``$MMDET_R2_MAX_PIXELS``, else :data:`MAX_PIXELS`.

    Raises:
        ConfigError: the variable is no number.
    """
    text = os.environ.get(LIMIT_VARIABLE)
    if not text:
        return MAX_PIXELS
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        raise ConfigError(f'{LIMIT_VARIABLE}={text}: expected a number of pixels') from None


def too_large(width: int, height: int) -> str:
    """That these are more pixels than are let through, '' if they are not: ends a sentence."""
    limit = max_pixels()
    if width * height <= limit:
        return ''
    return (
        f'{width} x {height} pixels are more than the limit of {limit}, which guards against files '
        f'that blow up memory; set {LIMIT_VARIABLE} to raise it'
    )


def look_into(content: bytes) -> Contents:
    """Format, size and visible defects of an image file, from its bytes; nothing is decoded."""
    if not content:
        return Contents(defect='the file is empty')
    if content[:2] == b'\xff\xd8':
        return _jpeg(content)
    if content[:8] == _PNG:
        return _png(content)
    try:
        for found in (_tiff, _webp, _bmp, _gif, _netpbm, _jpeg2000, _sun, _iso_media):
            contents = found(content)
            if contents is not None:
                return contents
    except (struct.error, ValueError, IndexError, OverflowError):
        return Contents(defect='truncated image header')
    return Contents(unread=_unread(content))


def _jpeg(content: bytes) -> Contents:
    """Some decoders fill what is missing of a JPEG with grey and call that success, so its end is
    looked for. An entropy-coded segment cannot contain the end marker, an embedded preview does:
    the search begins behind the last byte of the headers.
    """
    position, length, sof, frame = 2, len(content), 0, b''
    while position + 4 <= length and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == 0xDA:  # start of scan
            if len(frame) < 6:
                return Contents('JPEG', defect='corrupt JPEG header')
            bits, height, width = struct.unpack('>BHH', frame[:5])
            whole = content.rfind(b'\xff\xd9', position) >= 0
            defect = '' if whole else 'truncated JPEG'
            unread = '' if bits == 8 else f'a JPEG of {bits} bits per sample, {_CONVERT}'
            if sof == 0xC3:
                unread = f'a lossless JPEG, {_SAVE}'
            # one scan of all components, coded in Huffman's way
            single = sof in (0xC0, 0xC1) and content[position + 4 : position + 5] == frame[5:6]
            return Contents('JPEG', width, height, bits, defect, unread, position * single)
        size = int.from_bytes(content[position + 2 : position + 4], 'big')
        if marker in _SOFS and not sof:
            sof, frame = marker, content[position + 4 : position + 2 + size]
        position += 2 + size
    defect = 'truncated JPEG' if position + 4 > length else 'corrupt JPEG header'
    return Contents('JPEG', defect=defect)


def _png(content: bytes) -> Contents:
    if content[12:16] != b'IHDR' or len(content) < 33:
        return Contents('PNG', defect='corrupt PNG header')
    width, height, bits = struct.unpack('>IIB', content[16:25])
    defect = '' if content.rfind(b'IEND') >= 0 else 'truncated PNG'
    return Contents('PNG', width, height, bits, defect)


def _tiff(content: bytes) -> Contents | None:
    order = {b'II': '<', b'MM': '>'}.get(content[:2])
    if order is None:
        return None
    (version,) = struct.unpack_from(f'{order}H', content, 2)
    if version not in (42, 43):
        return None
    if version == 43:  # BigTIFF
        (start,) = struct.unpack_from(f'{order}Q', content, 8)
        (count,) = struct.unpack_from(f'{order}Q', content, start)
        start, step, wide = start + 8, 20, 'Q'
    else:
        (start,) = struct.unpack_from(f'{order}I', content, 4)
        (count,) = struct.unpack_from(f'{order}H', content, start)
        start, step, wide = start + 2, 12, 'I'
    tags: dict[int, int] = {}
    codes = {1: 'B', 3: 'H', 4: 'I', 16: 'Q'}
    for at in range(start, start + step * min(count, 1000), step):
        tag, kind, number = struct.unpack_from(f'{order}HH{wide}', content, at)
        if tag in (256, 257, 258, 259, 262, 277, 339) and kind in codes and number:
            value = at + step - (8 if wide == 'Q' else 4)
            if number * struct.calcsize(codes[kind]) > (8 if wide == 'Q' else 4):
                (value,) = struct.unpack_from(f'{order}{wide}', content, value)
            (tags[tag],) = struct.unpack_from(f'{order}{codes[kind]}', content, value)
    bits, samples = tags.get(258, 1), tags.get(277, 1)
    kind = {1: 'unsigned', 2: 'signed', 3: 'float'}.get(tags.get(339, 1), 'complex')
    unread = ''
    if tags.get(259) in _TIFF_COMPRESSIONS:
        unread = f'a TIFF compressed by {_TIFF_COMPRESSIONS[tags[259]]}, {_SAVE}'
    elif samples > 4 or samples < 1:
        unread = f'a TIFF of {samples} channels, which is not read: save three of them'
    elif kind in ('float', 'complex') or bits not in (1, 2, 4, 8, 16):
        unread = f'a TIFF of {bits}-bit {kind} samples, {_CONVERT}'
    elif samples == 2 or tags.get(262, 1) > 6:
        unread = f'a TIFF of unusual colours (photometric {tags.get(262)}), {_SAVE}'
    return Contents('TIFF', tags.get(256, 0), tags.get(257, 0), bits, unread=unread)


def _webp(content: bytes) -> Contents | None:
    if content[:4] != b'RIFF' or content[8:12] != b'WEBP':
        return None
    (size,) = struct.unpack_from('<I', content, 4)
    defect = 'truncated WebP' if size + 8 > len(content) + 1 else ''
    part = content[12:16]
    width = height = 0
    if part == b'VP8X':
        width = int.from_bytes(content[24:27], 'little') + 1
        height = int.from_bytes(content[27:30], 'little') + 1
    elif part == b'VP8L':
        (packed,) = struct.unpack_from('<I', content, 21)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif part == b'VP8 ':
        width, height = (side & 0x3FFF for side in struct.unpack_from('<HH', content, 26))
    return Contents('WebP', width, height, defect=defect)


def _bmp(content: bytes) -> Contents | None:
    if content[:2] != b'BM':
        return None
    (header,) = struct.unpack_from('<I', content, 14)
    if header == 12:
        width, height = struct.unpack_from('<HH', content, 18)
        return Contents('BMP', width, height)
    width, height, _, depth, compression = struct.unpack_from('<iiHHI', content, 18)
    width, height = abs(width), abs(height)
    (offset,) = struct.unpack_from('<I', content, 10)
    needed = offset + (width * depth + 31) // 32 * 4 * height if compression in (0, 3) else 0
    defect = 'truncated BMP' if needed > len(content) else ''
    return Contents('BMP', width, height, defect=defect)


def _gif(content: bytes) -> Contents | None:
    if content[:6] not in (b'GIF87a', b'GIF89a'):
        return None
    return Contents('GIF', *struct.unpack_from('<HH', content, 6))


_COMMENTS = re.compile(rb'#[^\n\r]*')


def _netpbm(content: bytes) -> Contents | None:
    if not re.match(rb'P[1-7][\s#]', content):
        return None
    head = _COMMENTS.sub(b' ', content[:4096])
    if content[1:2] == b'7':
        found = dict(re.findall(rb'(WIDTH|HEIGHT|MAXVAL)\s+(\d{1,9})', head))
        numbers = [found.get(key, b'0') for key in (b'WIDTH', b'HEIGHT', b'MAXVAL')]
    else:
        numbers = re.findall(rb'\d+', head[2:])[:3]
        if content[1:2] in b'14':
            numbers = [*numbers[:2], b'1']
    width, height, top = (int(number[:10]) for number in numbers)
    return Contents('PNM', width, height, 16 if top > 255 else 8)


def _jpeg2000(content: bytes) -> Contents | None:
    if content[:4] != b'\xff\x4f\xff\x51' and content[:12] != b'\0\0\0\x0cjP  \r\n\x87\n':
        return None
    sizes = []
    at = content.find(b'\xff\x4f\xff\x51')  # the box may say another size; the stream is decoded
    while at >= 0 and len(sizes) < 100:
        x1, y1, x0, y0 = struct.unpack_from('>IIII', content, at + 8)
        sizes.append((max(0, x1 - x0), max(0, y1 - y0)))
        at = content.find(b'\xff\x4f\xff\x51', at + 4)
    if not sizes:
        return Contents('JPEG 2000', defect='truncated JPEG 2000')
    width, height = max(sizes, key=lambda size: size[0] * size[1])
    return Contents('JPEG 2000', width, height, unread=f'a JPEG 2000 of a kind {_SAVE}')


def _sun(content: bytes) -> Contents | None:
    if content[:4] != b'\x59\xa6\x6a\x95':
        return None
    return Contents('Sun raster', *struct.unpack_from('>II', content, 4))


def _iso_media(content: bytes) -> Contents | None:
    """AVIF; HEIC is told apart."""
    if content[4:8] != b'ftyp':
        return None
    brand = content[8:12]
    brands = content[8 : max(12, min(64, int.from_bytes(content[:4], 'big')))]
    if b'avif' not in brands and b'avis' not in brands:
        heif = brand in _HEIF
        return Contents(unread=f'{"HEIC" if heif else "a video or raw file"}, {_SAVE}')
    width = height = 0
    for found in re.finditer(rb'ispe\0\0\0\0(.{8})', content[: 2**16], re.DOTALL):
        sides = struct.unpack('>II', found.group(1))
        width, height = max(width, sides[0]), max(height, sides[1])
    if not width:
        return Contents('AVIF', defect='truncated AVIF')
    return Contents('AVIF', width, height, unread=f'an AVIF of a kind {_SAVE}')


def pillow_size(content: bytes) -> tuple[int, int]:
    """Width and height that Pillow reads from the header of a file of any format, (0, 0) if none.

    ``PIL.Image.open`` has a limit of its own, and warns of half of it; this is what it does before.
    """
    Image.init()
    for kind in Image.ID:
        factory, accept = Image.OPEN[kind]
        if accept is None:
            continue  # without a signature, it would read a size into anything
        with contextlib.suppress(Exception):  # a broken header; the decoder says so better
            if accept(content[:16]) is True:
                return factory(io.BytesIO(content), '').size
    return 0, 0


def _unread(content: bytes) -> str:
    for magic, reason in _UNREAD:
        if content.startswith(magic):
            return reason
    if content[128:132] == b'DICM':
        return f'DICOM, {_SAVE}'
    start = content[:1000].lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    if start.startswith((b'<svg', b'<?xml')) and b'<svg' in content[:4000]:
        return f'SVG, a drawing, {_SAVE}'
    return ''


def filled_up(content: bytes, scan: int, image: np.ndarray) -> str:
    """What of a JPEG's pixels was made up by the decoder, '' if nothing is known to be.

    libjpeg decodes a JPEG whose middle is missing, fills the rest with grey, and says so to the
    terminal only; zeros, of which a disk that failed makes whole blocks, are codes to it. Where an
    image ends in that grey, or has many zeros, its data are counted by a second decoder. That sees
    what is missing of files of one scan; the quality of progressive ones shows nothing.

    Args:
        content: of the file.
        scan: see :class:`Contents`.
        image: as it was decoded, (H, W, 3) or (H, W), turned by EXIF or not.
    """
    corners = (image[-1, -1], image[0, 0], image[0, -1], image[-1, 0])
    grey = any((corner == 128).all() for corner in corners)
    if scan == 0 or not (grey or content.find(_ZEROS, scan) >= 0):
        return ''
    end = content.rfind(b'\xff\xd9', scan)
    try:
        # Without its end, but with some bytes for the decoder to look ahead to: what it cannot
        # finish, it asks more bytes for.
        used = max(_decoded_bytes(content[:end] + b'\xaa' * 24))
    except (OSError, SyntaxError, ValueError):
        return 'truncated JPEG: data are missing in its middle'
    if used < end - 2**14:
        return 'corrupt JPEG: data in its middle are not those of an image'
    return ''


def unused_bits(found: Contents, image: np.ndarray) -> str:
    """That an image of more than 8 bits per sample is nearly black, '' if it is not: the end of a
    sentence.

    Args:
        image: as it was decoded, to 8 bits; of others nothing is said.
    """
    if found.bits <= 8 or image.dtype != np.uint8 or not image.size:
        return ''
    most = int(image.max())
    if not 0 < most < 64:  # 2**14 / 2**8
        return '' if most else 'has 16 bits per sample, of which no more than 8 are used: black'
    return (
        f'has 16 bits per sample, of which {most.bit_length() + 8} are used, so that it is nearly '
        f'black (at most {most} of 255): multiply its values to use all bits'
    )


def _decoded_bytes(content: bytes) -> Iterator[int]:
    """Bytes fed into Pillow's decoder until it had all rows.

    Raises:
        OSError: it had not, with all bytes.
    """
    with Image.open(io.BytesIO(content)) as image:
        name, extents, _, args = image.tile[0][:4]
        image.load_prepare()
        decoder = Image._getdecoder(image.mode, name, args, image.decoderconfig)  # type: ignore[attr-defined]
        decoder.setimage(image.im, extents)
        left = b''
        for start in range(0, len(content), 2**12):
            left += content[start : start + 2**12]
            done, _ = decoder.decode(left)
            yield start
            if done < 0:
                return
            left = left[done:]
    raise OSError('truncated')
