"""The one place that knows the programs that evaluate: hotcoco, and pycocotools beside it.

Both are given the same columns, with images, classes and objects numbered from 1, so that ids of
any kind and size are as good as any other.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import hotcoco
import numpy as np
from numpy.typing import ArrayLike
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BACKENDS = ('hotcoco', 'pycocotools')
IOU_THRS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MAX_DETS = (1, 10, 100)
AREAS: dict[str, tuple[float, float]] = {
    'all': (0, 1e10),
    'small': (0, 1024),
    'medium': (1024, 9216),
    'large': (9216, 1e10),
}
MISTAKES = {
    'class': 'Cls',
    'localization': 'Loc',
    'both': 'Both',
    'duplicate': 'Dupe',
    'background': 'Bkg',
    'missed': 'Miss',
}
"""Kinds of mistakes, and what hotcoco calls them."""

RIGHT, WRONG, IGNORED = 1, 0, -1
"""Verdicts on a detection: it has found an object; it has not; it counts neither way."""


@dataclass(init=False)
class Objects:
    """Objects of a data set, annotated or found.

    Attributes:
        image: (n,) index of the image.
        label: (n,) index of the class.
        boxes: (n, 4) x, y, width, height.
        area: (n,) decides on small, medium or large; of the box by default.
        scores: (n,) of detections.
        crowd: (n,) bool, of annotations; None for none.
        masks: n segmentations of COCO's; only needed where masks are compared.
    """

    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    area: np.ndarray
    scores: np.ndarray | None
    crowd: np.ndarray
    masks: list | None

    def __init__(
        self,
        image: ArrayLike,
        label: ArrayLike,
        boxes: ArrayLike,
        area: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        crowd: ArrayLike | None = None,
        masks: list | None = None,
    ) -> None:
        self.image = np.asarray(image, np.int64)
        self.label = np.asarray(label, np.int64)
        self.boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        if area is None:
            area = self.boxes[:, 2] * self.boxes[:, 3]
        self.area = np.asarray(area, np.float64)
        self.scores = None if scores is None else np.asarray(scores, np.float64)
        self.crowd = np.zeros(len(self), bool) if crowd is None else np.asarray(crowd, bool)
        self.masks = masks

    def __len__(self) -> int:
        return len(self.image)

    def select(self, index: np.ndarray) -> 'Objects':
        """Those of a mask (n,) bool, or of indices in their order."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        return Objects(
            self.image[index],
            self.label[index],
            self.boxes[index],
            self.area[index],
            None if self.scores is None else self.scores[index],
            self.crowd[index],
            None if self.masks is None else [self.masks[i] for i in index.tolist()],
        )


def joined(images: Sequence[Objects]) -> Objects:
    """The objects of one image after another."""

    def column(name: str) -> Any:
        parts = [getattr(objects, name) for objects in images]
        return None if any(part is None for part in parts) else np.concatenate(parts)

    masks = [objects.masks for objects in images]
    return Objects(
        image=np.repeat(np.arange(len(images)), [len(objects) for objects in images]),
        **{name: column(name) for name in ('label', 'boxes', 'area', 'scores', 'crowd')},
        masks=None if None in masks else [mask for part in masks for mask in part or ()],
    )


@dataclass
class CocoData:
    """What was annotated and found in a data set.

    Attributes:
        sizes: (m, 2) height and width of the images; the order decides between equal scores.
        num_classes: labels are below it.
        truth: annotated.
        found: detected.
        iou_type: 'bbox' or 'segm': which overlap counts.
    """

    sizes: Sequence[tuple[int, int]]
    num_classes: int
    truth: Objects
    found: Objects
    iou_type: str = 'bbox'

    def without_classes(self) -> 'CocoData':
        """All objects of one class; of equal scores those of lower labels lead."""

        def of_one(part: Objects) -> Objects:
            part = part.select(np.argsort(part.label, kind='stable'))
            return replace(part, label=np.zeros_like(part.label))

        return replace(self, num_classes=1, truth=of_one(self.truth), found=of_one(self.found))

    def frame(self) -> dict[str, list[dict]]:
        """Images and categories in the form of COCO's files."""
        return dict(
            images=[dict(id=i, height=h, width=w) for i, (h, w) in enumerate(self.sizes, start=1)],
            categories=[dict(id=k + 1, name=str(k)) for k in range(self.num_classes)],
        )


@dataclass
class Evaluation:
    """COCO's evaluation of a data set.

    Attributes:
        data: what is compared.
        iou_thrs: (T,).
        max_dets: detections per image and class, ascending.
        areas: names of sizes and their limits.
        backend: of BACKENDS, what computes ``precision`` and ``recall``; all else is hotcoco's.
    """

    data: CocoData
    iou_thrs: np.ndarray = field(default_factory=lambda: IOU_THRS)
    max_dets: Sequence[int] = MAX_DETS
    areas: dict[str, tuple[float, float]] = field(default_factory=lambda: AREAS)
    backend: str = 'hotcoco'
    _verdicts: dict[float, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, init=False)

    @property
    def precision(self) -> np.ndarray:
        """(T, 101, K, A, M): by IoU, recall, class, size, detections; -1 without objects."""
        return self._arrays[0]

    @property
    def recall(self) -> np.ndarray:
        """(T, K, A, M); -1 without objects."""
        return self._arrays[1]

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        if self.backend == 'pycocotools':
            return self._by_pycocotools()
        self._evaluated.accumulate()
        found = self._evaluated.eval
        del found['scores']  # as large as precision, and nobody asks for them
        return np.asarray(found['precision']), np.asarray(found['recall'])

    def _by_pycocotools(self) -> tuple[np.ndarray, np.ndarray]:
        with contextlib.redirect_stdout(io.StringIO()):
            both = []
            for part in (self.data.truth, self.data.found):
                coco = COCO()
                coco.dataset = self.data.frame() | dict(annotations=_records(part))
                coco.createIndex()
                both.append(coco)
            evaluation = COCOeval(*both, self.data.iou_type)
            self._set(evaluation.params)
            evaluation.params.iouThrs = self.iou_thrs
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation.eval['precision'], evaluation.eval['recall']

    def _set(self, params: Any) -> None:
        params.imgIds = list(range(1, len(self.data.sizes) + 1))
        params.catIds = list(range(1, self.data.num_classes + 1))
        params.iouThrs = [float(threshold) for threshold in self.iou_thrs]
        params.maxDets = list(self.max_dets)
        params.areaRng = [list(limits) for limits in self.areas.values()]
        params.areaRngLbl = list(self.areas)

    @cached_property
    def _cocos(self) -> tuple[Any, Any]:
        data, masks = self.data, self.data.iou_type == 'segm'
        frame = data.frame()
        truth = hotcoco.COCO.from_arrays(
            frame['images'],
            frame['categories'],
            image_ids=data.truth.image + 1,
            category_ids=data.truth.label + 1,
            boxes=data.truth.boxes,
            area=data.truth.area,
            iscrowd=data.truth.crowd,
            segmentation=data.truth.masks if masks else None,
        )
        part = data.found
        if part.scores is None or not len(part):
            return truth, truth.load_res([])
        found = truth.load_res(
            np.column_stack([part.image + 1, part.boxes, part.scores, part.label + 1]),
            segmentation=part.masks if masks else None,
        )
        found.update_anns(ids=np.arange(1, len(part) + 1), area=part.area)
        return truth, found

    @cached_property
    def _evaluated(self) -> Any:
        evaluation = hotcoco.COCOeval(*self._cocos, self.data.iou_type)
        self._set(evaluation.params)
        evaluation.evaluate()
        return evaluation

    def _asked(self, iou_thr: float) -> Any:
        """With this threshold among others, and COCO's 100 detections."""
        if self.max_dets[-1] == 100 and np.isclose(self.iou_thrs, iou_thr, rtol=0).any():
            return self._evaluated
        other = Evaluation(self.data, np.array([iou_thr]), areas={'all': AREAS['all']})
        other.__dict__['_cocos'] = self._cocos
        return other._evaluated

    def verdicts(self, iou_thr: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
        """(n,) for each detection RIGHT, WRONG or IGNORED, and (n,) the object that a RIGHT one has
        found, else -1.
        """
        if iou_thr in self._verdicts:
            return self._verdicts[iou_thr]
        # 2.0: no score is so high, so that no wrong labels are looked for
        found = self._asked(iou_thr).image_diagnostics(iou_thr, 2.0)
        status, matches = found['dt_status'], found['dt_match']
        verdict = np.full(len(self.data.found), IGNORED)
        match = np.full(len(self.data.found), -1)
        verdict[np.fromiter(status, np.int64, len(status)) - 1] = [
            RIGHT if one == 'tp' else WRONG for one in status.values()
        ]
        match[np.fromiter(matches, np.int64, len(matches)) - 1] = [*matches.values()]
        match[match > 0] -= 1
        self._verdicts[iou_thr] = verdict, match
        return verdict, match

    def image_precision(self, iou_thr: float) -> np.ndarray:
        """(m,) each image's own average precision, over its detections of all classes; NaN for one
        without objects.
        """
        images = self._asked(iou_thr).image_diagnostics(iou_thr, 2.0)['img_summary']
        asked = self.data.truth.image[~self.data.truth.crowd]
        precision = np.full(len(self.data.sizes), np.nan)
        precision[asked] = 0
        for image in np.unique(asked).tolist():
            precision[image] = images.get(image + 1, {}).get('ap') or 0.0
        return precision

    def confusion(self, iou_thr: float = 0.5, score_thr: float = 0.3) -> np.ndarray:
        """How often an object of class i was found as class j, (K + 1, K + 1) int64; the last row
        is background, detections of nothing annotated, and so is the last column, missed objects.

        Every object counts once, and every detection of at least ``score_thr`` once: they first
        take objects of their own class, by COCO's rules; those left take, by falling score, objects
        of other classes that nobody found. So the diagonal holds COCO's true positives, rows sum up
        to the objects, columns to the detections. Crowds, and detections of their class on them,
        are left out.
        """
        truth, found = self.data.truth, self.data.found
        assert found.scores is not None
        verdict, match = self.verdicts(iou_thr)
        keep = found.scores >= score_thr
        right = keep & (verdict == RIGHT)
        missed = ~truth.crowd
        missed[match[right]] = False
        wrong = found.select(keep & (verdict == WRONG))
        rest = Evaluation(replace(self.data, truth=truth.select(missed), found=wrong))
        evaluation = hotcoco.COCOeval(*rest._cocos, self.data.iou_type)
        matrix = evaluation.confusion_matrix(iou_thr, 2**31)['matrix'].astype(np.int64)
        np.add.at(matrix, (found.label[right], found.label[right]), 1)
        return matrix

    def mistakes(self, iou_thr: float = 0.5) -> dict[str, dict[str, Any]]:
        """How many mistakes of each of MISTAKES there are, and by how much AP at ``iou_thr`` would
        rise without them, one kind at a time (TIDE, https://arxiv.org/abs/2008.08115).

        Returns:
            for each kind dict(count, dAP), dAP in [0, 1]; dAP is None without any object.
        """
        report = self._asked(iou_thr).tide_errors(iou_thr, 0.1)
        objects = not self.data.truth.crowd.all()
        return {
            kind: dict(
                count=int(report['counts'][name]),
                dAP=float(report['delta_ap'][name]) if objects else None,
            )
            for kind, name in MISTAKES.items()
        }


def mask_areas(masks: Sequence[dict]) -> np.ndarray:
    """(n,) pixels of n compressed run lengths."""
    return np.asarray(hotcoco.mask.area(list(masks)), np.float64).reshape(-1)


def _records(part: Objects) -> list[dict]:
    """Objects in the form of COCO's files."""
    columns = dict(
        id=np.arange(1, len(part) + 1),
        image_id=part.image + 1,
        category_id=part.label + 1,
        bbox=part.boxes,
        area=part.area,
        iscrowd=part.crowd.astype(int),
    )
    if part.scores is not None:
        columns['score'] = part.scores
    rows = zip(*(column.tolist() for column in columns.values()))
    records = [dict(zip(columns, row)) for row in rows]
    for record, mask in zip(records, part.masks or ()):
        record['segmentation'] = mask
    return records
