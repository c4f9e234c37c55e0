"""Image files of every format as they come from outside: bombs, halves, unusual kinds, no files."""

import io
import json
import os
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from warm_python import python

from mmdet_r2.apis.images import find_images, image_source
from mmdet_r2.datasets import check
from mmdet_r2.datasets.image_contents import (
    DamagedImageError,
    UnreadableImageError,
    UnsupportedImageError,
    look_into,
)
from mmdet_r2.datasets.image_files import list_images, read_header
from mmdet_r2.datasets.transforms import LoadImageFromFile
from mmdet_r2.datasets.transforms.panoptic import read_segment_ids
from mmdet_r2.errors import DataError

H, W = 120, 200


def picture(height: int = H, width: int = W, seed: int = 0) -> np.ndarray:
    """A smooth BGR picture with some noise, as photos are."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(image + rng.integers(-20, 20, image.shape), 0, 255).astype(np.uint8)


def saved(image: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def tiff(pixels: np.ndarray, form: int, photometric: int = 1, order: str = '<') -> bytes:
    """An uncompressed TIFF of one strip, (H, W) or (H, W, C) of any type."""
    data = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    height, width = pixels.shape[:2]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    data += bytes(len(data) % 2)
    later, tags = b'', []
    rows = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [pixels.itemsize * 8] * channels),
        (259, 3, [1]), (262, 3, [photometric]), (273, 4, [8]), (277, 3, [channels]),
        (278, 4, [height]), (279, 4, [len(data)]), (339, 3, [form] * channels),
    ]  # fmt: skip
    for tag, kind, values in rows:
        raw = struct.pack(f'{order}{len(values)}{"HI"[kind - 3]}', *values)
        if len(raw) > 4:
            place = struct.pack(f'{order}I', 8 + len(data) + len(later))
            later, raw = later + raw + bytes(len(raw) % 2), place
        tags.append(struct.pack(f'{order}HHI', tag, kind, len(values)) + raw.ljust(4, b'\0'))
    start = struct.pack(f'{order}HI', 42, 8 + len(data) + len(later))
    magic = b'II' if order == '<' else b'MM'
    return (
        magic
        + start
        + data
        + later
        + struct.pack(f'{order}H', len(tags))
        + b''.join(tags)
        + (bytes(4))
    )


def load(path: Path, content: bytes, **arguments) -> np.ndarray:
    path.write_bytes(content)
    return LoadImageFromFile(**arguments)(dict(img_path=str(path)))['img']


def formats() -> dict[str, bytes]:
    """A sound file of every format that is read."""
    image = picture()
    grey = Image.fromarray(image[..., 0])
    return {
        'jpeg': saved(image, 'JPEG'),
        'jpeg progressive': saved(image, 'JPEG', progressive=True),
        'jpeg cmyk': saved(Image.fromarray(image).convert('CMYK'), 'JPEG'),
        'png': saved(image, 'PNG'),
        'png 16': cv2.imencode('.png', image.astype(np.uint16) * 257)[1].tobytes(),
        'png palette': saved(Image.fromarray(image).convert('P'), 'PNG'),
        'apng': saved(image, 'PNG', save_all=True, append_images=[Image.fromarray(image)]),
        'bmp': saved(image, 'BMP'),
        'gif': saved(image, 'GIF'),
        'webp': saved(image, 'WEBP'),
        'webp lossless': saved(image, 'WEBP', lossless=True),
        'webp alpha': saved(Image.fromarray(np.dstack([image, image[..., :1]])), 'WEBP'),
        'webp moving': saved(image, 'WEBP', save_all=True, append_images=[Image.fromarray(image)]),
        'tiff': saved(image, 'TIFF'),
        'tiff lzw': saved(image, 'TIFF', compression='tiff_lzw'),
        'tiff big-endian': tiff(picture()[..., 0].astype(np.uint16) * 257, 1, order='>'),
        'tiff pages': saved(image, 'TIFF', save_all=True, append_images=[grey]),
        'big tiff': saved(image, 'TIFF', big_tiff=True),
        'ppm': saved(image, 'PPM'),
        'pgm': saved(grey, 'PPM'),
        'pbm': saved(grey.convert('1'), 'PPM'),
        'ppm text': b'P3 # comment\n200\n120 255\n' + b'9 ' * (H * W * 3),
        'pam': cv2.imencode('.pam', image)[1].tobytes(),
        'sun': cv2.imencode('.ras', image)[1].tobytes(),
        'jpeg 2000': saved(image, 'JPEG2000'),
        'j2k': saved(image, 'JPEG2000', no_jp2=True),
        'avif': saved(image, 'AVIF'),
    }


@pytest.mark.parametrize('kind', formats())
def test_the_limit_of_pixels_holds_for_every_format(tmp_path, monkeypatch, kind) -> None:
    content = formats()[kind]
    found = look_into(content)
    assert (found.width, found.height, found.defect) == (W, H, '')
    path = tmp_path / 'a.png'  # the content decides, not the name
    assert load(path, content).shape == (H, W, 3)
    header = read_header(path) if kind != 'pam' else None
    assert header is None or header.size == (W, H)
    monkeypatch.setenv('MMDET_R2_MAX_PIXELS', str(W * H))
    assert load(path, content).shape == (H, W, 3)
    monkeypatch.setenv('MMDET_R2_MAX_PIXELS', str(W * H - 1))
    for read in (
        lambda: load(path, content),
        lambda: image_source(path, '').decode(),
        lambda: image_source(content, 'bytes').decode(),
        lambda: read_header(path),
        lambda: load(path, content, imdecode_backend='pillow') if kind not in ('pam',) else 1 / 0,
    ):
        with pytest.raises((UnsupportedImageError, ZeroDivisionError)) as error:
            read()
        if not isinstance(error.value, ZeroDivisionError):
            assert f'{W} x {H}' in str(error.value) and 'MMDET_R2_MAX_PIXELS' in str(error.value)


def test_the_limit_holds_for_maps_of_ids(tmp_path, monkeypatch) -> None:
    (tmp_path / 'a.png').write_bytes(formats()['png'])
    assert read_segment_ids(str(tmp_path / 'a.png')).shape == (H, W)
    monkeypatch.setenv('MMDET_R2_MAX_PIXELS', '1000')
    with pytest.raises(DataError, match=f'{W} x {H}'):
        read_segment_ids(str(tmp_path / 'a.png'))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))


def bombs(side: int = 20_000) -> dict[str, bytes]:
    """Small files whose headers claim 400 million pixels."""
    png = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    long = struct.pack('<HHHHB', side, side, 0, 0, 0)
    webp = 2**28 - 1
    jpeg = formats()['jpeg'].replace(struct.pack('>HH', H, W), struct.pack('>HH', side, side), 1)
    return {
        'hdr': b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n' % (side, side),
        'rgbe': b'#?RGBE\nFORMAT=32-bit_rle_rgbe\n\n-Y %d +X %d\n' % (side, side),
        'pfm': b'PF\n%d %d\n-1.0\n' % (side, side),
        'exr': b'\x76\x2f\x31\x01' + bytes(99),
        'png': b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', png)
        + chunk(b'IDAT', b'')
        + chunk(b'IEND', b''),
        'jpeg': jpeg,
        'gif': b'GIF89a' + long,
        'bmp': b'BM' + struct.pack('<IIIIiiHHI', 0, 0, 54, 40, side, -side, 1, 24, 0) + bytes(24),
        'ppm': b'P6\n%d %d\n255\n' % (side, side),
        'ppm digits': b'P6\n%s 9\n255\n' % (b'9' * 4000),
        'pbm': b'P4\n%d %d\n' % (side * 9, side),
        'pam': b'P7\nWIDTH %d\nHEIGHT %d\nDEPTH 3\nMAXVAL 255\nENDHDR\n' % (side, side),
        'sun': b'\x59\xa6\x6a\x95' + struct.pack('>IIIIIII', side, side, 24, 0, 1, 0, 0),
        'webp': b'RIFF\x20\0\0\0WEBPVP8L\x09\0\0\0\x2f' + struct.pack('<I', webp) + bytes(8),
        'webp canvas': b'RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0' + bytes(4) + b'\x1f\x4e\0\x1f\x4e\0',
        'tiff': tiff(np.zeros((2, 2), np.uint8), 1).replace(
            struct.pack('<HHII', 256, 4, 1, 2), struct.pack('<HHII', 256, 4, 1, 10**9)
        ),
        'jpeg 2000': formats()['jpeg 2000']
        .replace(struct.pack('>II', W, H), struct.pack('>II', side, side))
        .replace(struct.pack('>II', H, W), struct.pack('>II', side, side)),
    }


@pytest.mark.parametrize('kind', bombs())
def test_no_bomb_is_decoded(tmp_path, kind) -> None:
    path = tmp_path / 'a.jpg'
    path.write_bytes(bombs()[kind])
    code = f"""
import resource
from mmdet_r2.apis.images import image_source
from mmdet_r2.datasets.image_contents import UnreadableImageError
from mmdet_r2.datasets.transforms import LoadImageFromFile
from mmdet_r2.datasets.image_files import read_header
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for backend in ('cv2', 'pillow'):
    try:
        LoadImageFromFile(imdecode_backend=backend)(dict(img_path={str(path)!r}))
    except UnreadableImageError as error:
        print(error)
try:
    read_header({str(path)!r})
except UnreadableImageError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000)
"""
    done = subprocess.run([python(), '-c', code], capture_output=True, text=True, timeout=100)
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and lines[-1] == 'True', done.stdout + done.stderr
    assert all(str(path) in line for line in lines[:-1])


def cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 5] + content[len(content) * 3 // 5 :]


def holed(content: bytes) -> bytes:
    start, stop = len(content) * 2 // 5, len(content) * 3 // 5
    return content[:start] + bytes(stop - start) + content[stop:]


def jpegs() -> dict[str, bytes]:
    image = picture(400, 600)
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        'plain': saved(image, 'JPEG'),
        'fine': saved(image, 'JPEG', quality=97, subsampling=0),
        'optimised': saved(image, 'JPEG', optimize=True),
        'grey': saved(Image.fromarray(image[..., 0]), 'JPEG'),
        'restarts': saved(image, 'JPEG', restart_marker_blocks=20),
        'turned': saved(image, 'JPEG', exif=turned.tobytes()),
    }


@pytest.mark.parametrize('kind', jpegs())
def test_a_jpeg_whose_middle_is_missing_is_not_taken_for_whole(tmp_path, kind) -> None:
    content = jpegs()[kind]
    for backend in ('cv2', 'pillow'):
        for flag in ('color', 'grayscale'):
            options = dict(imdecode_backend=backend, color_type=flag)
            assert load(tmp_path / 'a.jpg', content, **options).shape[:2] in (
                (400, 600),
                (600, 400),
            )
            assert load(tmp_path / 'a.jpg', content + bytes(2**16), **options).size
            for damage in (cut, holed):
                with pytest.raises(DamagedImageError, match=r'a\.jpg') as error:
                    load(tmp_path / 'a.jpg', damage(content), **options)
                assert '\n' not in str(error.value)


def test_sound_pictures_with_grey_corners_and_flat_areas_are_whole(tmp_path) -> None:
    box = np.full((333, 501, 3), 128, np.uint8)
    box[50:200, 40:300] = picture(150, 260)
    flat = [np.full((900, 1300, 3), level, np.uint8) for level in (0, 128, 255)]
    for image in (box, box[::-1], *flat):
        for options in (
            {},
            dict(optimize=True),
            dict(progressive=True),
            dict(subsampling=0, quality=100),
            dict(restart_marker_rows=1),
        ):
            content = saved(image, 'JPEG', **options)
            for more in (b'', b'\xff\xd9', bytes(50_000)):
                assert load(tmp_path / 'a.jpg', content + more).shape == image.shape


@pytest.mark.parametrize('kind', formats())
def test_a_cut_file_of_any_format_is_not_taken_for_whole(tmp_path, kind) -> None:
    if kind == 'jpeg progressive':
        pytest.skip('cannot be told while it is loaded; check_dataset.py does')
    content = formats()[kind]
    damaged = [content[: len(content) * part // 10] for part in (1, 3, 6, 9)]
    if kind not in ('apng', 'tiff pages', 'webp moving', 'jpeg cmyk'):
        damaged.append(cut(content))
    for part in damaged:
        if kind in ('apng', 'tiff pages', 'webp moving') and len(part) > len(content) // 2:
            continue  # the first picture is whole
        with pytest.raises(UnreadableImageError, match=r'a\.img'):
            load(tmp_path / 'a.img', part)


def unread() -> dict[str, tuple[bytes, str]]:
    """Sound images of kinds that are not read, and a word of what is said of them."""
    floats = np.random.default_rng(0).random((H, W)).astype(np.float32)
    colours = np.dstack([floats] * 3)
    five = np.dstack([picture(), picture()[..., :2]])
    pil = Image.fromarray(picture())
    return {
        'float TIFF': (tiff(floats, 3), '32-bit float'),
        'float colour TIFF': (tiff(colours, 3, 2), '32-bit float'),
        'half TIFF': (tiff(floats.astype(np.float16), 3), '16-bit float'),
        'double TIFF': (tiff(floats.astype(np.float64), 3, order='>'), '64-bit float'),
        'complex TIFF': (tiff(floats.astype(np.complex64), 6), 'complex'),
        'int TIFF': (tiff(floats.astype(np.uint32), 1), '32-bit'),
        'signed TIFF': (tiff(floats.astype(np.int32), 2), '32-bit signed'),
        'channels TIFF': (tiff(five, 1, 2), '5 channels'),
        'zstd TIFF': (saved(pil, 'TIFF', compression='zstd'), 'Zstandard'),
        'HDR': (cv2.imencode('.hdr', colours)[1].tobytes(), 'Radiance'),
        'PFM': (cv2.imencode('.pfm', colours)[1].tobytes(), 'PFM'),
        'ICO': (saved(pil, 'ICO'), 'icon'),
        'JPEG XL': (b'\xff\x0a' + bytes(99), 'JPEG XL'),
        'HEIC': (b'\0\0\0\x18ftypheic\0\0\0\0mif1heic' + bytes(99), 'HEIC'),
        'PSD': (b'8BPS\0\1' + bytes(99), 'Photoshop'),
        'PDF': (b'%PDF-1.4\n' + bytes(99), 'PDF'),
        'SVG': (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', 'SVG'),
        'DICOM': (bytes(128) + b'DICM' + bytes(99), 'DICOM'),
        'CMYK JPEG 2000': (saved(pil.convert('CMYK'), 'JPEG2000'), 'JPEG 2000'),
        'LFS': (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'git lfs pull'),
    }


@pytest.mark.parametrize('kind', unread())
def test_sound_images_that_are_not_read_are_said_to_be_so(tmp_path, kind) -> None:
    content, word = unread()[kind]
    with pytest.raises(UnsupportedImageError) as error:
        load(tmp_path / 'a.tif', content)
    text = str(error.value)
    assert 'a.tif' in text and word in text and 'corrupt' not in text and '\n' not in text
    if kind != 'CMYK JPEG 2000' and 'channels' not in kind and 'zstd' not in kind:
        with pytest.raises(UnsupportedImageError, match=word):
            read_header(tmp_path / 'a.tif')


def test_a_check_keeps_images_that_are_not_read(tmp_path) -> None:
    images = {name: unread()[name][0] for name in ('float TIFF', 'HEIC', 'LFS')}
    twelve = picture().astype(np.uint16) * 16
    images['dark'] = cv2.imencode('.png', twelve)[1].tobytes()
    images['half'] = cut(jpegs()['plain'])
    content = dict(
        images=[
            dict(id=i, file_name=name, width=W, height=H) for i, name in enumerate(images, start=1)
        ],
        categories=[dict(id=1, name='c')],
        annotations=[
            dict(id=i, image_id=i, category_id=1, bbox=[9, 9, 30, 30], area=900, iscrowd=0)
            for i in range(1, len(images) + 1)
        ],
    )
    for name, data in images.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / 'ann.json').write_text(json.dumps(content))
    subject = check.load_subject(tmp_path / 'ann.json', tmp_path, 'train')
    found = check.check_subjects([subject], workers=1)[subject.name]
    kinds = {f.file: f.kind for f in found if f.kind.startswith('file-')}
    assert kinds == {
        'float TIFF': 'file-unsupported',
        'HEIC': 'file-unsupported',
        'LFS': 'file-unsupported',
        'dark': 'file-dark',
        'half': 'file-damaged',
    }
    fixed, _ = check.fix_content(subject)
    kept = [image['file_name'] for image in fixed.content['images']]
    assert kept == ['float TIFF', 'HEIC', 'LFS', 'dark']
    assert len(fixed.content['annotations']) == 4


@pytest.mark.parametrize('bits', [10, 12, 14])
def test_images_that_use_few_of_16_bits_are_named_once(tmp_path, monkeypatch, bits) -> None:
    said: list[str] = []
    monkeypatch.setattr(
        'mmdet_r2.datasets.transforms.loading.print_log', lambda text, **_kwargs: said.append(text)
    )
    image = picture().astype(np.uint16) << bits - 8
    for name in ('a.png', 'b.png', 'c.tiff'):
        load(tmp_path / name, cv2.imencode(name[1:], image)[1].tobytes())
    assert len(said) == 1 and str(tmp_path / 'a.png') in said[0] and f' {bits} ' in said[0]
    said.clear()
    (tmp_path / 'full').mkdir()
    load(tmp_path / 'full' / 'a.png', cv2.imencode('.png', image << 16 - bits)[1].tobytes())
    load(tmp_path / 'full' / 'b.png', cv2.imencode('.png', picture() // 16)[1].tobytes())
    assert not said


def test_other_suffixes_of_a_folder_are_counted(tmp_path, monkeypatch) -> None:
    for name in ('a.jpg', 'b.jfif', 'c.JFIF', 'd.gif', 'e.heic', 'notes.txt', '.hidden.gif'):
        (tmp_path / name).write_bytes(formats()['jpeg'])
    texts: list[str] = []
    monkeypatch.setattr(
        'mmdet_r2.datasets.image_files.print_log', lambda text, **_kwargs: texts.append(text)
    )
    for search in (find_images, list_images):
        texts.clear()
        assert [os.path.basename(name) for name in search(tmp_path)] == ['a.jpg']
        (text,) = texts
        for part in ('2 .jfif', "'b.jfif'", '1 .gif', '1 .heic', str(tmp_path)):
            assert part in text
        assert 'txt' not in text and 'hidden' not in text


def test_an_image_that_is_no_file_stops_nothing(tmp_path) -> None:
    os.mkfifo(tmp_path / 'pipe.jpg')
    (tmp_path / 'zero.jpg').symlink_to('/dev/zero')
    (tmp_path / 'folder.jpg').mkdir()
    code = """
import sys
from mmdet_r2.apis.images import image_source
from mmdet_r2.datasets.image_files import read_header
from mmdet_r2.datasets.transforms import LoadImageFromFile
from mmdet_r2.datasets.transforms.panoptic import read_segment_ids
from mmdet_r2.errors import DataError
for name in sys.argv[1:]:
    for read in (
        lambda: LoadImageFromFile()(dict(img_path=name)),
        lambda: LoadImageFromFile(backend_args=dict(backend='local'))(dict(img_path=name)),
        lambda: image_source(name, '').decode(),
        lambda: read_header(name),
        lambda: read_segment_ids(name),
    ):
        try:
            read()
        except DataError as error:
            assert name in str(error), error
            print('refused')
"""
    names = ['pipe.jpg', 'zero.jpg', 'folder.jpg', '/dev/zero', '/dev/tty']
    done = subprocess.run(
        [sys.executable, '-c', code, *names],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34)),
    )
    assert done.stdout.split() == ['refused'] * 25, done.stderr


def test_mutated_headers_give_an_error_or_an_image(tmp_path) -> None:
    """What the bytes of a header say is never believed further than the limit."""
    rng = np.random.default_rng(0)
    for content in formats().values():
        for _ in range(200):
            data = bytearray(content[:2000])
            for place in rng.integers(0, 100, rng.integers(1, 6)):
                data[place % len(data)] = rng.integers(0, 256)
            found = look_into(bytes(data[: rng.integers(1, len(data) + 1)]))
            assert found.width >= 0 and found.height >= 0


def test_places_that_no_image_can_be_at(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('x' * 5000, 'a\0b', '/dev/zero', '', 's3://bucket/a.jpg'):
        with pytest.raises(DataError):
            find_images(name or 'none')
        with pytest.raises(UnreadableImageError):
            LoadImageFromFile()(dict(img_path=name))
