"""Semantic maps made from panoptic PNGs, for pipelines whose boxes come from another file."""

import json
import multiprocessing
import os
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from mmdet_r2.datasets.coco_panoptic import CocoPanopticDataset
from mmdet_r2.datasets.transforms.panoptic import LoadPanopticAnnotations
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.files import path_inside, write_image
from mmdet_r2.progress import progress as shown
from mmdet_r2.structures.panoptic import VOID_LABEL

ORDERS = ('detectron2', 'mmdet')


def write_semantic_maps(
    ann_file: str | Path,
    png_dir: str | Path,
    out_dir: str | Path,
    order: str = 'detectron2',
    workers: int | None = None,
    progress: bool = False,
) -> tuple[str, ...]:
    """Write a map for every image of a panoptic data set; returns what label i stands for.

    A map is an 8-bit PNG of one channel with the image's name, for
    ``LoadAnnotations(with_seg=True)``; 255 is unlabelled. Crowds count as their class.

    Args:
        ann_file: a ``panoptic_*.json``; png_dir: the folder of its PNGs; out_dir: is made.
        order: 'detectron2': 0 is any thing, 1, 2, ... the kinds of stuff (the maps that detectron2
            calls "panoptic separated"); 'mmdet': things, then stuff, as
            :class:`LoadPanopticAnnotations` gives them. Each in the order of category ids.
        workers: processes; None is one per CPU core, 1 none but this one.
        progress: draw a bar on the terminal.

    Raises:
        DataError: an unusable annotation file or PNG, or ``out_dir`` is ``png_dir``.
        ConfigError: an unknown order.
    """
    if order not in ORDERS:
        raise ConfigError(f'order is {order!r}, expected one of {", ".join(ORDERS)}')
    out = Path(out_dir)
    if out.resolve() == Path(png_dir).resolve():
        raise DataError(f'{out} holds the panoptic PNGs: choose another folder for the maps')
    # Only the PNG is loaded; the data set checks the file and that no PNG is missing.
    load = LoadPanopticAnnotations(with_bbox=False, with_label=False, with_mask=False)
    dataset = CocoPanopticDataset(
        ann_file=str(ann_file),
        metainfo=_classes(ann_file),
        data_prefix=dict(img='', seg=str(png_dir)),
        pipeline=[load],
        test_mode=True,
        serialize_data=False,
    )
    things, stuff = (dataset.metainfo[key] for key in ('thing_classes', 'stuff_classes'))
    names = (*things, *stuff) if order == 'mmdet' else ('thing', *stuff)
    table = np.full(VOID_LABEL + 1, VOID_LABEL, dtype=np.uint8)
    table[: len(things) + len(stuff)] = range(len(things) + len(stuff))
    if order == 'detectron2':
        table[: len(things)] = 0
        table[len(things) : len(things) + len(stuff)] = range(1, 1 + len(stuff))

    images = [dataset.get_data_info(i) for i in range(len(dataset))]
    for image in images:  # before the first is written
        _map_file(out, image)
    write = partial(_write_map, load, table, out)
    workers = min(workers or os.cpu_count() or 1, len(images))
    if workers == 1:
        for image in shown(images, 'maps', show=progress):
            write(image)
        return names
    with multiprocessing.Pool(workers, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
        done = pool.imap_unordered(write, images, chunksize=8)
        for _ in shown(done, 'maps', len(images), show=progress):
            pass
    return names


def _classes(ann_file: str | Path) -> dict[str, tuple[str, ...]]:
    """``thing_classes`` and ``stuff_classes`` of a file, each in the order of category ids.

    Empty where the file is not what it should be: the data set has the words for that.
    """
    try:
        found = json.loads(Path(ann_file).read_bytes())['categories']
        found = sorted(found, key=lambda category: category['id'])
        return {
            'thing_classes': tuple(c['name'] for c in found if c['isthing']),
            'stuff_classes': tuple(c['name'] for c in found if not c['isthing']),
        }
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _map_file(folder: Path, image: dict) -> Path:
    return path_inside(folder, os.path.splitext(image['img_path'])[0] + '.png')


def _write_map(load: LoadPanopticAnnotations, table: np.ndarray, folder: Path, image: dict) -> None:
    labels = load(image)['gt_seg_map']
    write_image(_map_file(folder, image), cv2.LUT(labels, table))
