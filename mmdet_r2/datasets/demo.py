"""Generated data in COCO's layout: textured shapes, to train and test without a download.

``generate`` writes ``annotations/instances_{train,val}.json``, ``train/*.jpg`` and ``val/*.jpg``,
maps of things and stuff as ``stuffthingmaps/{train,val}/*.png``, and both as segments in
``annotations/panoptic_{train,val}.json`` and ``annotations/panoptic_{train,val}/*.png``. It is
meant to be a small but honest detection problem: classes differ by shape alone (colour, texture,
size, rotation and ground are drawn independently of the class), objects overlap, are cut by the
image border, small or partly hidden, grounds carry lines and blobs that look like edges of objects,
and there are crowds and empty images as in COCO. The kinds of ground differ by texture alone.

How an image comes to be: ``draw_scene`` chooses shapes, stacks them, drops those that are mostly
hidden, and paints. Everything else follows from the scene's id map (which object owns a pixel) and
ground map (which kind of ground lies beneath): annotations, stuff maps and segments are readers of
both.

Every image has a random generator of its own, made of (seed, split, index): the same seed gives the
same bytes, and asking for more images leaves the earlier ones as they were.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmdet_r2.datasets.metainfo import palette_for
from mmdet_r2.errors import DataError

CLASSES = ('circle', 'triangle', 'square', 'ring', 'cross')
# Kinds of ground, the "stuff"; the names are those of the textures they are painted with.
GROUNDS = ('gradient', 'noise', 'stripes', 'checks')
# Label i of a stuff map is MAP_CLASSES[i], or UNLABELLED: as in COCO, things first, with the labels
# that they have as objects.
MAP_CLASSES = (*CLASSES, *GROUNDS)
# Category ids of MAP_CLASSES in the panoptic annotations: with a gap between the two, as in COCO.
PANOPTIC_IDS = (*range(1, len(CLASSES) + 1), *range(11, 11 + len(GROUNDS)))
UNLABELLED = 255
# Part of the stamp: raise it when the same parameters give other pictures or annotations.
VERSION = 4
STAMP = 'demo_data.json'
SPLITS = ('train', 'val')
MOST_IMAGES = 1_000_000  # as file names have six digits
STUFF_FOLDER = 'stuffthingmaps'  # COCO-Stuff's name

Array = NDArray[Any]
Rng = np.random.Generator

_OBJECT_TEXTURES = ('solid', 'gradient', 'stripes', 'checks', 'noise', 'dots')
_MIN_VISIBLE = 0.5  # share of an object inside the image that must not be covered by others
_MIN_PIXELS = 24  # and as many pixels at least


@dataclass
class Thing:
    """One annotated object, or one crowd, of a scene.

    Attributes:
        label: index into CLASSES.
        mask: (H, W) bool, the whole silhouette inside the image, whatever lies in front of it.
        crowd: a group of many small shapes of one class.
    """

    label: int
    mask: Array
    crowd: bool = False


@dataclass
class Scene:
    """A painted image and the maps that all annotations are made of.

    Attributes:
        image: (H, W, 3) uint8 BGR.
        ids: (H, W) int32; 0 is ground, k > 0 is visible pixels of ``things[k - 1]``.
        ground: (H, W) uint8, index into GROUNDS, also beneath the objects.
        things: back to front; each has visible pixels.
    """

    image: Array
    ids: Array
    ground: Array
    things: list[Thing]


# Shapes -----------------------------------------------------------------------------------------


def outline(label: int) -> list[Array]:
    """Contours (n, 2) of class ``label``, upright, in the unit circle; a second one is a hole."""
    name = CLASSES[label]
    if name == 'circle':
        return [_regular(40)]
    if name == 'triangle':
        return [_regular(3)]
    if name == 'square':
        return [_regular(4, first=-45)]
    if name == 'ring':
        return [_regular(40), _regular(40) * 0.55]
    a, b = 0.31, 0.95  # cross: half the width and half the length of its arms
    corners = [(a, b), (a, a), (b, a), (b, -a), (a, -a), (a, -b)]
    return [np.array(corners + [(-x, -y) for x, y in corners])]


def _regular(n: int, first: float = -90) -> Array:
    """Corners (n, 2) of a regular polygon, the first at ``first`` degrees: -90 is up."""
    angle = np.arange(n) * (2 * np.pi / n) + np.radians(first)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def shape_mask(
    rng: Rng, label: int, centre: tuple[float, float], radius: float, shape: tuple[int, int]
) -> Array:
    """(H, W) bool silhouette of a shape, slightly turned and stretched at random.

    ``centre`` is (x, y); it and ``radius`` are in pixels.
    """
    # Upright give or take, as most things are: a class has a right way up.
    angle = rng.uniform(-1, 1) * np.pi / 6
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = rng.uniform(0.75, 1.0, 2)
    mask = np.zeros(shape, np.uint8)
    contours = [(c * stretch) @ turn.T * radius + centre for c in outline(label)]
    # Coordinates with 4 fractional bits; several contours in one call fill by the even-odd rule:
    # the ring's hole.
    cv2.fillPoly(mask, [np.round(c * 16).astype(np.int32) for c in contours], 1, shift=4)
    return mask.astype(bool)


# Textures ---------------------------------------------------------------------------------------


def texture(rng: Rng, kind: str, shape: tuple[int, int], base: Array, contrast: float) -> Array:
    """(h, w, 3) float32 that stays within ``contrast`` grey levels of the colour ``base``."""
    h, w = shape
    y, x = np.mgrid[:h, :w].astype(np.float32)
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    along = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    across = y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))
    period = rng.uniform(6, 14)
    cells = (max(2, h // int(period)), max(2, w // int(period)))
    coarse = rng.standard_normal(cells, dtype=np.float32)
    if kind == 'gradient':
        value = 2 * (along - along.min()) / max(float(np.ptp(along)), 1.0) - 1
    elif kind == 'stripes':
        value = np.sign(np.sin(along * (2 * np.pi / period) + phase))
    elif kind == 'checks':
        value = np.sign(
            np.sin(along * (2 * np.pi / period) + phase) * np.sin(across * (2 * np.pi / period))
        )
    elif kind == 'dots':
        wave = np.sin(along * (2 * np.pi / period) + phase) * np.sin(across * (2 * np.pi / period))
        value = np.where(wave > 0.35, 1.0, -0.3)
    elif kind == 'noise':
        value = np.clip(cv2.resize(coarse, (w, h), interpolation=cv2.INTER_LINEAR) * 0.6, -1, 1)
    else:  # solid
        value = np.zeros(shape)
    # The second colour differs in hue as well as in brightness.
    direction = rng.uniform(0.4, 1.0, 3) * rng.choice([-1, 1], 3, p=[0.25, 0.75])
    return base.astype(np.float32) + value[..., None].astype(np.float32) * (
        direction * contrast
    ).astype(np.float32)


def _ground(rng: Rng, shape: tuple[int, int]) -> tuple[Array, Array]:
    """(H, W, 3) float32 picture and (H, W) uint8 kind of a ground of one or two regions."""
    h, w = shape
    kinds = np.full(shape, rng.integers(len(GROUNDS)), np.uint8)
    if rng.random() < 0.6:  # a wavy border between two regions
        y, x = np.mgrid[:h, :w].astype(np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        across = (x - w * rng.uniform(0.3, 0.7)) * np.cos(angle) + (
            y - h * rng.uniform(0.3, 0.7)
        ) * np.sin(angle)
        along = (y * np.cos(angle) - x * np.sin(angle)) * (
            2 * np.pi / (max(shape) * rng.uniform(0.4, 1.2))
        )
        kinds[across + np.sin(along) * max(shape) * 0.06 > 0] = rng.integers(len(GROUNDS))
    image = np.empty((h, w, 3), np.float32)
    for kind in np.unique(kinds):
        base = rng.uniform(40, 215, 3)
        picture = texture(rng, GROUNDS[kind], shape, base, contrast=rng.uniform(6, 26))
        image[kinds == kind] = picture[kinds == kind]
    return image, kinds


def _clutter(rng: Rng, image: Array) -> None:
    """Draw lines, arcs and soft blobs that belong to no class, in place."""
    h, w = image.shape[:2]
    side = max(h, w)
    for _ in range(rng.integers(0, 4)):
        colour = rng.uniform(20, 235, 3).tolist()
        a, b = (rng.uniform(-0.1, 1.1, 2) * (w, h) for _ in range(2))
        thick = int(rng.integers(1, 3))
        if rng.random() < 0.6:
            cv2.line(
                image, a.astype(int).tolist(), b.astype(int).tolist(), colour, thick, cv2.LINE_AA
            )
        else:
            axes = (rng.uniform(0.1, 0.5, 2) * side).astype(int).tolist()
            start = rng.uniform(0, 360)
            cv2.ellipse(image, a.astype(int).tolist(), axes, rng.uniform(0, 180), start,
                        start + rng.uniform(30, 150), colour, thick, cv2.LINE_AA)  # fmt: skip
    for _ in range(rng.integers(0, 3)):
        x, y = rng.uniform(0, 1, 2) * (w, h)
        radius = rng.uniform(0.05, 0.2) * side
        grid_y, grid_x = np.mgrid[:h, :w].astype(np.float32)
        soft = np.exp(-((grid_x - x) ** 2 + (grid_y - y) ** 2) / np.float32(radius**2))
        image += soft[..., None] * rng.uniform(-45, 45, 3).astype(np.float32)


def _paint(rng: Rng, image: Array, mask: Array) -> None:
    """Paint ``mask`` with a texture whose colour stands out from what is there, in place."""
    ys, xs = np.nonzero(mask)
    window = (slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1))
    part, inside = image[window], mask[window]
    behind = part[inside].mean(axis=0)
    for _ in range(8):
        base = rng.uniform(20, 235, 3)
        if np.linalg.norm(base - behind) > 100:
            break
    kind = str(rng.choice(_OBJECT_TEXTURES))
    painted = texture(rng, kind, inside.shape, base, contrast=rng.uniform(10, 36))
    part[inside] = painted[inside]
    if rng.random() < 0.3:  # a thin rim, darker or lighter
        rim = inside & ~cv2.erode(
            inside.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0
        ).astype(bool)
        part[rim] += rng.choice([-50, 50])


# Scenes -----------------------------------------------------------------------------------------


def draw_scene(
    rng: Rng, shape: tuple[int, int], max_objects: int = 6, crowd: bool = False
) -> Scene:
    """A random scene of ``shape`` (height, width): at most ``max_objects`` objects, and a crowd.

    ``max_objects=0`` and no crowd gives an image without annotations.
    """
    h, w = shape
    side = min(h, w)
    things = []
    if crowd:
        things.append(_crowd(rng, shape))
    for _ in range(rng.integers(1, max_objects + 1) if max_objects else 0):
        radius = side * float(np.exp(rng.uniform(np.log(0.08), np.log(0.26))))
        centre = (
            float(rng.uniform(0.3 * radius, w - 0.3 * radius)),
            float(rng.uniform(0.3 * radius, h - 0.3 * radius)),
        )
        label = int(rng.integers(len(CLASSES)))
        things.append(Thing(label, shape_mask(rng, label, centre, radius, shape)))
    things = _drop_hidden(things, shape)

    image, ground = _ground(rng, shape)
    _clutter(rng, image)
    for thing in things:
        _paint(rng, image, thing.mask)
    ids = stack(things, shape)
    # What a camera adds: slight blur, sometimes more, uneven light, noise.
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    image *= np.float32(rng.uniform(0.8, 1.15))
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(rng.uniform(1, 7))
    return Scene(np.clip(image, 0, 255).astype(np.uint8), ids, ground, things)


def _crowd(rng: Rng, shape: tuple[int, int]) -> Thing:
    """Eight to sixteen small shapes of one class, close together; annotated as one crowd."""
    h, w = shape
    side = min(h, w)
    label = int(rng.integers(len(CLASSES)))
    middle = rng.uniform(0.25, 0.75, 2) * (w, h)
    mask = np.zeros(shape, bool)
    for _ in range(rng.integers(8, 17)):
        x, y = middle + rng.normal(0, 0.1, 2) * side
        mask |= shape_mask(
            rng, label, (float(x), float(y)), side * float(rng.uniform(0.025, 0.045)), shape
        )
    return Thing(label, mask, crowd=True)


def _drop_hidden(things: list[Thing], shape: tuple[int, int]) -> list[Thing]:
    """Those of ``things`` (back to front) of which enough can be seen.

    From the front backwards, so that an object is judged against those only that really stay in
    front of it. Dropped ones are not painted either: nothing in the picture is without annotation.
    """
    covered = np.zeros(shape, bool)
    kept = []
    for thing in reversed(things):
        total = int(thing.mask.sum())
        visible = int((thing.mask & ~covered).sum())
        if visible >= max(_MIN_PIXELS, _MIN_VISIBLE * total):
            kept.append(thing)
            covered |= thing.mask
    return kept[::-1]


def stack(things: list[Thing], shape: tuple[int, int]) -> Array:
    """(H, W) int32 id map: k where ``things[k - 1]`` (back to front) is visible, 0 elsewhere."""
    ids = np.zeros(shape, np.int32)
    for k, thing in enumerate(things, start=1):
        ids[thing.mask] = k
    return ids


# Annotations ------------------------------------------------------------------------------------


def rle(mask: Array) -> dict[str, Any]:
    """Uncompressed COCO run lengths of (H, W) bool: column by column, beginning with the zeros."""
    flat = mask.flatten(order='F').astype(np.int8)
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {'size': list(mask.shape), 'counts': counts}


def polygons(mask: Array) -> list[list[float]] | None:
    """Outlines [x1, y1, x2, y2, ...] of (H, W) bool in pixels.

    None if there is a hole, which polygons cannot say. A pixel covers [x, x + 1): outlines run a
    quarter pixel inside the edges of the border pixels, so that rasterising them at pixel centres
    gives the mask back (but for corners that the simplification cuts).
    """
    # Twice the size: contours through border pixels then lie 0.25 pixels inside the true edge
    # instead of 0.5.
    big = np.repeat(np.repeat(mask.astype(np.uint8), 2, axis=0), 2, axis=1)
    contours, hierarchy = cv2.findContours(big, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    if any(parent >= 0 for *_, parent in hierarchy[0]):
        return None
    result: list[list[float]] = []
    for contour in contours:
        simple = cv2.approxPolyDP(contour, 0.6, True)  # 0.3 pixels
        points = simple if len(simple) >= 3 else contour
        result.append(((points.reshape(-1) + 0.5) / 2).tolist())
    return result


def annotate(scene: Scene, rng: Rng, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """COCO annotations of a scene: boxes, areas and outlines of what is visible.

    Crowds, objects with holes and a random quarter of the rest are RLE, the others polygons.
    """
    result: list[dict[str, Any]] = []
    for k, thing in enumerate(scene.things, start=1):
        visible = scene.ids == k
        ys, xs = np.nonzero(visible)
        x, y = int(xs.min()), int(ys.min())
        as_rle = thing.crowd or rng.random() < 0.25
        outlines = None if as_rle else polygons(visible)
        result.append({
            'id': first_id + len(result),
            'image_id': image_id,
            'category_id': thing.label + 1,
            'bbox': [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y],
            'area': len(xs),
            'iscrowd': int(thing.crowd),
            'segmentation': rle(visible) if outlines is None else outlines,
        })  # fmt: skip
    return result


def stuff_map(scene: Scene) -> Array:
    """(H, W) uint8 labels of a scene, indices into MAP_CLASSES.

    Visible pixels of an object or a crowd have the object's label, the others their ground's. The
    border between two grounds, one pixel on either side, is UNLABELLED: what an annotator leaves
    out.
    """
    labels = scene.ground + np.uint8(len(CLASSES))
    around = np.ones((3, 3), np.uint8)
    labels[cv2.dilate(scene.ground, around) != cv2.erode(scene.ground, around)] = UNLABELLED
    of_id = np.array([0, *(thing.label for thing in scene.things)], np.uint8)
    objects = scene.ids > 0
    labels[objects] = of_id[scene.ids[objects]]
    return labels


def segments(scene: Scene) -> tuple[Array, list[dict[str, Any]]]:
    """(H, W) int32 map of segment ids, 0 unlabelled, and their ``segments_info`` in COCO's format.

    Every visible object, every crowd and every kind of ground is a segment; pixels are those of
    :func:`stuff_map`.
    """
    labels = stuff_map(scene)
    ids = np.zeros(labels.shape, np.int32)
    info: list[dict[str, Any]] = []

    def add(mask: Array, label: int, crowd: bool) -> None:
        # All three bytes of a colour are used, and the ids of an image do not follow an order.
        number = PANOPTIC_IDS[label] * 2**20 + (1 + len(info)) * 10007 % 2**16
        ids[mask] = number
        ys, xs = np.nonzero(mask)
        x, y = int(xs.min()), int(ys.min())
        info.append({
            'id': number,
            'category_id': PANOPTIC_IDS[label],
            'iscrowd': int(crowd),
            'bbox': [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y],
            'area': len(xs),
        })  # fmt: skip

    for k, thing in enumerate(scene.things, start=1):
        add(scene.ids == k, thing.label, thing.crowd)
    for label in range(len(CLASSES), len(MAP_CLASSES)):
        if (mask := (labels == label) & (scene.ids == 0)).any():
            add(mask, label, crowd=False)
    return ids, info


# The data set -----------------------------------------------------------------------------------


def generate(
    out_dir: str | Path,
    *,
    num_train: int = 2000,
    num_val: int = 200,
    size: int | tuple[int, int] = 128,
    seed: int = 0,
    max_objects: int = 8,
    empty_fraction: float = 0.03,
    crowd_fraction: float = 0.05,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write a generated data set in COCO's layout and return its folder.

    If the folder already holds a complete set of the same parameters, nothing is done; a generated
    set of other parameters is replaced.

    Args:
        out_dir: gets ``annotations/instances_{train,val}.json``, ``train/`` and ``val/`` (JPEG),
            ``stuffthingmaps/{train,val}/`` (PNG; see :func:`stuff_map`), and
            ``annotations/panoptic_{train,val}.json`` with the PNGs in a folder of the same name
            (see :func:`segments`).
        num_train: images of the training split; num_val: of the held-out split.
        size: side of the square images in pixels, or (width, height).
        seed: the same seed gives the same bytes (with the same version of OpenCV).
        max_objects: an image has 1 to this many objects before hidden ones are dropped.
        empty_fraction: share of images without objects.
        crowd_fraction: share of images with a crowd among their objects.
        progress: called with a line of text now and then, e.g. ``print``.

    Raises:
        DataError: a parameter is out of range, or the folder holds files that were not generated.
    """
    width, height = (size, size) if isinstance(size, int) else size
    if min(width, height) < 32 or max(width, height) > 2**14:
        raise DataError(f'size={size}: generated images have sides of 32 to 16384 pixels')
    if seed < 0:
        raise DataError(f'seed={seed}: expected a whole number from 0')
    if num_train < 0 or num_val < 0 or max_objects < 1:
        raise DataError(
            f'num_train={num_train}, num_val={num_val}, max_objects={max_objects}: too small'
        )
    if max(num_train, num_val) > MOST_IMAGES:
        raise DataError(
            f'num_train={num_train}, num_val={num_val}: at most {MOST_IMAGES:,} images are made'
        )
    if not (0 <= empty_fraction <= 1 and 0 <= crowd_fraction <= 1):
        raise DataError(
            f'empty_fraction={empty_fraction} and crowd_fraction={crowd_fraction} must lie in 0..1'
        )
    parameters = {
        'version': VERSION,
        'num_train': num_train,
        'num_val': num_val,
        'size': [width, height],
        'seed': seed,
        'max_objects': max_objects,
        'empty_fraction': empty_fraction,
        'crowd_fraction': crowd_fraction,
    }
    root = Path(out_dir)
    if _is_there(root, parameters):
        if progress:
            progress(f'{root} is already there: {num_train} training and {num_val} held-out images')
        return root
    _clear(root)

    start = time.monotonic()
    for split, count in zip(SPLITS, (num_train, num_val), strict=True):
        _write_split(
            root,
            split,
            count,
            (height, width),
            seed,
            max_objects,
            empty_fraction,
            crowd_fraction,
            progress,
        )
    # Last, so that an interrupted run is never taken for a complete data set.
    (root / STAMP).write_text(json.dumps(parameters))
    (root / (STAMP + '.part')).unlink()
    if progress:
        seconds = time.monotonic() - start
        progress(f'{root}: {num_train} training, {num_val} held-out images ({seconds:.1f} s)')
    return root


def _is_there(root: Path, parameters: dict[str, Any]) -> bool:
    try:
        return json.loads((root / STAMP).read_text()) == parameters
    except (OSError, ValueError):
        return False


def _clear(root: Path) -> None:
    """Make room for a generated set, deleting nothing but an earlier one."""
    mark = root / (STAMP + '.part')
    ours = (root / STAMP).exists() or mark.exists()
    for name in ('annotations', STUFF_FOLDER, *SPLITS):
        if (root / name).exists():
            if not ours:
                raise DataError(
                    f'{root / name} exists and was not generated here: choose another out_dir'
                )
            shutil.rmtree(root / name)
    root.mkdir(parents=True, exist_ok=True)
    mark.touch()  # tells a later run that what an interrupted one left is ours
    (root / STAMP).unlink(missing_ok=True)


def _write_split(
    root: Path,
    split: str,
    count: int,
    shape: tuple[int, int],
    seed: int,
    max_objects: int,
    empty_fraction: float,
    crowd_fraction: float,
    progress: Callable[[str], None] | None,
) -> None:
    folder, map_folder = root / split, root / STUFF_FOLDER / split
    id_folder = root / 'annotations' / f'panoptic_{split}'
    folder.mkdir()
    map_folder.mkdir(parents=True)
    id_folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    panoptic: list[dict[str, Any]] = []
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        empty, crowd = rng.random() < empty_fraction, rng.random() < crowd_fraction
        scene = draw_scene(rng, shape, 0 if empty else max_objects, crowd and not empty)
        name = f'{index:06d}.jpg'
        ids, info = segments(scene)
        png = f'{index:06d}.png'
        _write_image(folder / name, scene.image, cv2.IMWRITE_JPEG_QUALITY, 95)
        _write_image(map_folder / png, stuff_map(scene))
        colours = ids.astype('<u4').view(np.uint8).reshape(*shape, 4)  # red is the lowest byte
        _write_image(id_folder / png, np.ascontiguousarray(colours[..., 2::-1]))
        panoptic.append({'image_id': index + 1, 'file_name': png, 'segments_info': info})
        images.append({'id': index + 1, 'file_name': name, 'height': shape[0], 'width': shape[1]})
        found += annotate(scene, rng, index + 1, len(found) + 1)
        if progress and (index + 1) % 500 == 0:
            progress(f'{split}: {index + 1} of {count} images')
    head = {
        'info': {'description': f'generated shapes, {split} split', 'version': str(VERSION)},
        'licenses': [],
        'images': images,
    }
    categories = [
        {'id': i, 'name': name, 'supercategory': 'shape'} for i, name in enumerate(CLASSES, start=1)
    ]
    content = {**head, 'annotations': found, 'categories': categories}
    (root / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
    palette = palette_for(MAP_CLASSES)
    categories = [
        {
            'id': PANOPTIC_IDS[i],
            'name': name,
            'supercategory': 'shape' if i < len(CLASSES) else 'ground',
            'isthing': int(i < len(CLASSES)),
            'color': palette[i],
        }
        for i, name in enumerate(MAP_CLASSES)
    ]
    content = {**head, 'annotations': panoptic, 'categories': categories}
    (root / 'annotations' / f'panoptic_{split}.json').write_text(json.dumps(content))


def _write_image(path: Path, image: Array, *options: int) -> None:
    done, data = cv2.imencode(path.suffix, image, options)
    assert done
    path.write_bytes(data.tobytes())
