"""Images with panoptic ground truth in COCO's format: one JSON file and one PNG per image.

https://cocodataset.org/#format-data, "Panoptic Segmentation".
"""

from collections.abc import Mapping

from mmdet_r2.datasets.coco import CocoDataset, listing
from mmdet_r2.datasets.coco_json import CocoFile, CocoImage, parse_panoptic
from mmdet_r2.datasets.metainfo import COCO_PANOPTIC_METAINFO, check_metainfo
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import DATASETS
from mmdet_r2.structures.panoptic import VOID_LABEL


@DATASETS.register_module()
class CocoPanopticDataset(CocoDataset):
    """Images and segments of one ``panoptic_*.json``, with mmdetection 3.x's rules.

    Everything :class:`CocoDataset` does, checks and reports, and its arguments, with these
    differences:

    **Classes** are things and stuff. Label i is ``classes[i]``, and ``classes`` is
    ``thing_classes`` followed by ``stuff_classes``; all three are matched with the file's
    categories by name, and so is whether a category ``isthing``.

    **Segments**: an image has ``segments_info``, a list of ``id``, ``category`` (the label) and
    ``is_thing``, and ``instances``, the boxes of the things among them in the same order. A crowd
    is a segment with ``is_thing`` False, and no instance. Segments that :class:`CocoDataset` would
    skip, and those of categories that are not among the classes, are unlabelled pixels; their ids
    are the image's ``void_ids``, where there are any. A category that the file does not define, an
    id that occurs twice in an image, and an id that a PNG cannot hold are errors.

    **PNGs** are found by the ``file_name`` of the annotation in ``data_prefix['seg']``; for an
    image without annotation, by the image's name and ``seg_map_suffix``. Missing ones are all
    reported before training starts. For testing, ``seg`` may be left out.

    **Images** (training only): ``filter_empty_gt`` drops those without a thing; images of nothing
    but crowds and stuff are such.

    Args:
        metainfo: ``thing_classes``, ``stuff_classes`` (tuples of names; either may be empty),
            ``palette`` and, if you like, ``classes``; default COCO's 80 things and 53 stuff.

    Raises:
        DataError: the file, a key in it, or a folder is not what it should be.
        ConfigError: ``classes`` are not different names, things first.
    """

    METAINFO: dict = COCO_PANOPTIC_METAINFO
    _NOUN = 'segments'

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping | None = None) -> dict:
        check_metainfo(metainfo or {})
        given = dict(metainfo or {})
        if 'thing_classes' in given and 'stuff_classes' in given:
            for key in ('thing_classes', 'stuff_classes'):
                names = given[key]
                if not isinstance(names, (list, tuple)) or any(type(n) is not str for n in names):
                    raise ConfigError(f'metainfo.{key} is {names!r}, expected a tuple of names')
                given[key] = tuple(names)
            given.setdefault('classes', given['thing_classes'] + given['stuff_classes'])
        elif given.keys() & {'classes', 'thing_classes', 'stuff_classes'}:
            found = ' and '.join(sorted(given.keys() - {'palette'}))
            raise ConfigError(
                f'metainfo has {found}, but a panoptic data set needs thing_classes and '
                f'stuff_classes, to know which classes are countable'
            )
        loaded = super()._load_metainfo(given)
        things, stuff = loaded['thing_classes'], loaded['stuff_classes']
        if loaded['classes'] != things + stuff:
            raise ConfigError(
                f'metainfo.classes is not thing_classes followed by stuff_classes: '
                f'{listing(loaded["classes"])}; {listing(things)}; {listing(stuff)}'
            )
        if len(loaded['classes']) > VOID_LABEL:
            raise ConfigError(
                f'metainfo has {len(loaded["classes"])} classes, of which a label map holds '
                f'{VOID_LABEL} (label {VOID_LABEL} is "unlabelled")'
            )
        return loaded

    def _map_classes(self, categories: list[dict]) -> None:
        super()._map_classes(categories)
        num_things = len(self._metainfo['thing_classes'])
        for category in categories:
            name, isthing = category['name'], category['isthing']
            label = self.cat2label.get(category['id'])
            if label is not None and (label < num_things) != isthing:
                where = 'thing_classes' if label < num_things else 'stuff_classes'
                raise DataError(
                    f'{self.ann_file}: category {name!r} has isthing={isthing} but is among '
                    f'metainfo.{where}; correct one of them'
                )

    def _parse(self, content: dict) -> CocoFile:
        return parse_panoptic(content, self._called)

    def _parse_image(self, image: CocoImage) -> dict:
        info = super()._parse_image(image)
        if image.map_name and info['seg_map_path'] is not None:
            info['seg_map_path'] = self._map_path(image.map_name)
        info['segments_info'] = []
        void = list(image.void_ids)
        for segment in image.objects:
            label = self.cat2label.get(segment['category_id'])
            if label is None:
                void.append(segment['id'])
                continue
            self._tally.per_class[label] += 1
            is_thing = label < len(self._metainfo['thing_classes'])
            if is_thing and segment.get('iscrowd'):
                self._tally.crowds += 1
                is_thing = False
            if is_thing:
                x, y, w, h = segment['bbox']
                box = [x, y, x + w, y + h]
                info['instances'].append(dict(bbox=box, bbox_label=label, ignore_flag=0))
            info['segments_info'].append(dict(id=segment['id'], category=label, is_thing=is_thing))
        if void:
            info['void_ids'] = void
        return info

    def _instances(self, objects: list[dict]) -> list[dict]:
        return []

    def _nothing_to_learn(self, images: list[dict]) -> str:
        if any(info['segments_info'] for info in images):
            return ''
        return 'none of its segments is sound and of one of the classes'

    def _maps_are_optional(self) -> bool:
        return self.test_mode
