"""Your own annotations, in whatever form they are, by a class of a few lines."""

import os
from collections.abc import Iterable, Mapping, Sequence

from mmdet_r2.datasets.coco import CocoDataset
from mmdet_r2.datasets.image_annotations import ImageAnnotations, coco_content
from mmdet_r2.datasets.image_files import read_header
from mmdet_r2.datasets.metainfo import check_metainfo
from mmdet_r2.errors import ConfigError, DataError


class CustomDataset(CocoDataset):
    """Base of data sets that read annotations themselves.

    A subclass says what its classes are and yields the images; it is registered, and named in a
    config like any other (docs/your_data.md, "Your own class", is an example that runs)::

        @DATASETS.register_module()
        class FruitDataset(CustomDataset):
            classes = ('apple', 'pear')

            def load_images(self):
                for line in open(self.ann_file):
                    name, x1, y1, x2, y2, fruit = line.split()
                    yield ImageAnnotations(name, boxes=[[x1, y1, x2, y2]], labels=[fruit])

    Everything else is :class:`CocoDataset`'s: its arguments (``ann_file`` may stay empty), the
    report at the start, ``metainfo=dict(classes=...)`` to use a part of the classes, the treatment
    of boxes without area and of unreadable images.

    **Evaluation**: with ``test_mode`` every sample carries its ``instances``, which
    ``CocoMetric(ann_file=None)`` takes as the ground truth. :meth:`coco` gives the same as the
    content of an annotation file.

    ``classes`` may be left out where the config names them.
    """

    classes: Sequence[str] = ()

    def load_images(self) -> Iterable[ImageAnnotations]:
        """Every image with its objects; ``self.ann_file`` and ``self.data_prefix['img']`` are set,
        with ``data_root`` in front.
        """
        raise NotImplementedError(
            f'{type(self).__name__} needs a method load_images, which yields ImageAnnotations'
        )

    def coco(self) -> dict:
        """All of :meth:`load_images` as the content of a COCO annotation file.

        Raises:
            DataError: boxes, labels or masks of an image are not what they should be.
        """
        return coco_content(
            self.load_images(), self._all_classes(), self._size, f'{self._called}: '
        )

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping | None = None) -> dict:
        check_metainfo(metainfo or {})
        metainfo = dict(metainfo or {})
        if 'classes' not in metainfo:
            if not cls.classes:
                raise ConfigError(
                    f'{cls.__name__} has no classes: set them in the class (classes = (...)), or '
                    f'in the config (metainfo=dict(classes=(...)))'
                )
            metainfo['classes'] = cls.classes
        return super()._load_metainfo(metainfo)

    def _all_classes(self) -> tuple[str, ...]:
        if isinstance(self.classes, str):
            raise ConfigError(
                f'{type(self).__name__}.classes is the string {self.classes!r}, expected a tuple '
                f'of names'
            )
        return tuple(self.classes) or self._metainfo['classes']

    def _size(self, file_name: str) -> tuple[int, int]:
        return read_header(os.path.join(self.data_prefix['img'], file_name)).size

    def _read_json(self) -> dict:
        if self.ann_file and '://' not in self.ann_file and not os.path.exists(self.ann_file):
            raise DataError(
                f'{type(self).__name__}: {self.ann_file} does not exist (data_root + ann_file, '
                f"seen from {os.getcwd()}); a class that needs no file has ann_file=''"
            )
        return self.coco()

    def prepare_data(self, idx: int) -> dict | None:
        """The image after the pipeline; in evaluation its sample knows the ground truth."""
        data = super().prepare_data(idx)
        samples = data.get('data_samples') if self.test_mode and data is not None else None
        for sample in samples if isinstance(samples, list) else [samples]:
            if sample is not None:
                sample.set_metainfo(dict(instances=self.get_data_info(idx)['instances']))
        return data
