"""Numbers of a data set: objects per class and per size, and how well anchors cover them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mmdet_r2.datasets.check.content import sound_images
from mmdet_r2.datasets.check.subject import Subject

# COCO's size classes: sides of a square of that area.
_SMALL, _MEDIUM = 32, 96
_SIDES = (0, 8, 16, 32, 64, 96, 128, 256, 512, math.inf)


@dataclass
class Statistics:
    """Counts of a data set; crowds are not counted.

    Args:
        per_class: objects by class name, all classes.
        sides: (n,) square roots of the objects' areas in pixels.
        boxes: (n, 4) width and height of object and image.
    """

    num_images: int
    num_empty: int
    num_crowds: int
    per_class: dict[str, int]
    sides: np.ndarray = field(repr=False)
    boxes: np.ndarray = field(repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Objects that COCO calls small, medium and large."""
        counts = np.histogram(self.sides, (0, _SMALL, _MEDIUM, np.inf))[0].tolist()
        return dict(zip(('small', 'medium', 'large'), counts))

    @property
    def histogram(self) -> list[tuple[str, int]]:
        """Objects by side of a square of their area."""
        counts = np.histogram(self.sides, _SIDES)[0].tolist()
        names = [f'{a} to {b}' for a, b in pairwise(_SIDES[:-1])] + [f'{_SIDES[-2]} and up']
        return list(zip(names, counts))

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return dict(
            images=self.num_images,
            images_without_objects=self.num_empty,
            objects=len(self.sides),
            crowds=self.num_crowds,
            per_class=self.per_class,
            sizes=self.sizes,
            sides=dict(self.histogram),
        )


def statistics(subject: Subject) -> Statistics:
    """Counts of all usable boxes."""
    coco = subject.coco
    names = {c['id']: c['name'] for c in coco.categories}
    wanted = set(names.values()) if subject.classes is None else set(subject.classes)
    per_class = Counter({name: 0 for name in (subject.classes or names.values())})
    boxes, sides, crowds = [], [], 0
    num_images = len(sound_images(subject.content))
    num_filled = 0
    for image in coco.images:
        objects = [a for a in image.objects if names[a['category_id']] in wanted]
        num_filled += bool(objects)
        for annotation in objects:
            if annotation.get('iscrowd'):
                crowds += 1
                continue
            per_class[names[annotation['category_id']]] += 1
            _, _, w, h = annotation['bbox']
            boxes.append((w, h, image.width, image.height))
            sides.append(math.sqrt(annotation.get('area') or w * h))
    return Statistics(
        num_images=num_images,
        num_empty=num_images - num_filled,
        num_crowds=crowds,
        per_class=dict(per_class),
        sides=np.array(sides),
        boxes=np.array(boxes).reshape(-1, 4),
    )


def bars(rows: Sequence[tuple[str, int]], width: int = 40) -> list[str]:
    """A text line for each (name, count), with a bar."""
    longest = max((len(name) for name, _ in rows), default=0)
    most = max((count for _, count in rows), default=0) or 1
    digits = len(str(most))
    return [
        f'{name:<{longest}}  {count:>{digits}}  {"#" * math.ceil(width * count / most)}'.rstrip()
        for name, count in rows
    ]


def anchor_coverage(boxes: np.ndarray, config: Mapping) -> np.ndarray | None:
    """(n,) IoU of each object with the anchor most like it in shape, both on one point.

    At the first image scale of the training pipeline. None where the config's region proposals have
    no anchors of scales, ratios and strides.

    Args:
        boxes: (n, 4) width and height of object and image.
    """
    model = config.get('model') or {}
    generator = (model.get('rpn_head') or {}).get('anchor_generator') or {}
    if not {'scales', 'ratios', 'strides'} <= set(generator):
        return None
    loader = (config.get('train_dataloader') or {}).get('dataset') or {}
    limits = _first_scale(loader)
    shapes = np.array([
        (stride * scale / math.sqrt(ratio), stride * scale * math.sqrt(ratio))
        for stride in np.ravel(generator['strides'])
        for scale in generator['scales']
        for ratio in generator['ratios']
    ])  # fmt: skip
    sides = boxes[:, :2]
    if limits is not None:
        image = boxes[:, 2:]
        factor = np.minimum(max(limits) / image.max(axis=1), min(limits) / image.min(axis=1))
        sides = sides * factor[:, None]
    common = np.minimum(sides[:, None], shapes[None]).prod(axis=2)  # (n, anchors)
    union = sides.prod(axis=1)[:, None] + shapes.prod(axis=1)[None] - common
    return (common / union).max(axis=1)


def _first_scale(node: Any) -> tuple[float, float] | None:
    """The first ``scale`` (or of ``scales``) of two numbers in a pipeline."""
    if isinstance(node, Mapping):
        for key in ('scale', 'scales', 'img_scale'):
            value = node.get(key)
            while isinstance(value, (list, tuple)) and value and not _is_pair(value):
                value = value[0]
            if value is not None and _is_pair(value):
                return value[0], value[1]
        node = list(node.values())
    for value in node if isinstance(node, (list, tuple)) else ():
        if (found := _first_scale(value)) is not None:
            return found
    return None


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(v, (int, float)) and v > 1 for v in value)
    )


def draw(found: Statistics, path: Path, title: str) -> None:
    """Write a PNG with the histograms of classes and sizes."""
    from matplotlib.figure import Figure  # slow to import; no pyplot, no display

    rows = sorted(found.per_class.items(), key=lambda row: -row[1])
    figure = Figure(figsize=(12, max(4.0, 0.18 * len(rows) + 1)), layout='constrained')
    classes, sizes = figure.subplots(1, 2)
    classes.barh([name for name, _ in rows], [count for _, count in rows])
    classes.invert_yaxis()
    classes.margins(y=0.01)
    classes.tick_params(axis='y', labelsize=8)
    classes.set_xlabel('objects')
    edges = np.geomspace(1, max(2.0, found.sides.max(initial=2)), 50)
    sizes.hist(found.sides, edges)
    sizes.set_xscale('log')
    for side in (_SMALL, _MEDIUM):
        sizes.axvline(side, color='grey', linestyle='--')
    sizes.set_xlabel("side of a square of the object's area, pixels (lines: COCO's size classes)")
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
