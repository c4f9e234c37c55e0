"""Images with panoptic ground truth in COCO's format: one JSON file and one PNG per image.

https://cocodataset.org/#format-data, "Panoptic Segmentation".
"""

from collections.abc import Mapping, Sequence

from mmdet_r2.datasets.coco import CocoDataset, listing
from mmdet_r2.datasets.coco_annotations import annotation_problem, is_id
from mmdet_r2.datasets.metainfo import COCO_PANOPTIC_METAINFO
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import DATASETS
from mmdet_r2.structures.panoptic import MAX_ID, VOID_LABEL


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
            name, isthing = category['name'], category.get('isthing')
            if isthing not in (0, 1):
                raise DataError(
                    f'{self.ann_file}: category {name!r} has isthing={isthing}, expected 1 (thing) '
                    f'or 0 (stuff): is this a panoptic annotation file?'
                )
            label = self.cat2label.get(category['id'])
            if label is not None and (label < num_things) != isthing:
                where = 'thing_classes' if label < num_things else 'stuff_classes'
                raise DataError(
                    f'{self.ann_file}: category {name!r} has isthing={isthing} but is among '
                    f'metainfo.{where}; correct one of them'
                )

    def _annotations_by_image(self, annotations: list[dict]) -> dict[int, list[dict]]:
        by_image: dict[int, list[dict]] = {}
        for annotation in annotations:
            if not isinstance(annotation, dict) or not isinstance(
                annotation.get('segments_info'), list
            ):
                raise DataError(
                    f'{self.ann_file}: an annotation without the list segments_info, so this is no '
                    f'panoptic annotation file: {annotation}'[:300]
                )
            if not is_id(annotation.get('image_id')):
                raise DataError(f'{self.ann_file}: annotation without image_id: {annotation}'[:300])
            number = annotation['image_id']
            if number in by_image:
                raise DataError(f'{self.ann_file}: two annotations have the image_id {number}')
            by_image[number] = [annotation]
        return by_image

    def _parse_image(self, image: dict, annotations: Sequence[dict]) -> dict:
        info = super()._parse_image(image, ())
        info['segments_info'] = []
        if annotations:
            name = annotations[0].get('file_name')
            if name and info['seg_map_path'] is not None:
                info['seg_map_path'] = self._map_path(name)
            self._parse_segments(info, annotations[0]['segments_info'], image)
        return info

    def _parse_segments(self, info: dict, segments: list[dict], image: dict) -> None:
        """Fill ``segments_info``, ``instances`` and ``void_ids`` of an image."""
        width, height, tally = info['width'], info['height'], self._tally
        num_things = len(self._metainfo['thing_classes'])
        seen, void = set(), []
        for segment in segments:
            number = segment.get('id') if isinstance(segment, dict) else segment
            if type(number) is not int or not 0 < number <= MAX_ID:
                raise DataError(
                    f'{self.ann_file}: image {image["file_name"]} has the segment id {number}, '
                    f'expected 1 to {MAX_ID} (the colours of a PNG hold 24 bits)'
                )
            if number in seen:
                raise DataError(
                    f'{self.ann_file}: image {image["file_name"]} has the segment id {number} twice'
                )
            seen.add(number)
            category = segment.get('category_id')
            label = self.cat2label.get(category) if is_id(category) else None
            if label is None:
                if not is_id(category) or category not in self._other_cat_ids:
                    raise DataError(
                        f'{self.ann_file}: segment {number} of image {image["file_name"]} has the '
                        f'category_id {category}, which is not among the categories of the file'
                    )
                void.append(number)
                continue
            is_thing = label < num_things
            # Only things need a box.
            if is_thing or 'bbox' in segment:
                problem = annotation_problem(segment, width, height)
                if problem:
                    tally.invalid(problem, number)
                    void.append(number)
                    continue
            tally.per_class[label] += 1
            if is_thing and segment.get('iscrowd'):
                tally.crowds += 1
                is_thing = False
            if is_thing:
                x, y, w, h = segment['bbox']
                box = [x, y, x + w, y + h]
                info['instances'].append(dict(bbox=box, bbox_label=label, ignore_flag=0))
            info['segments_info'].append(dict(id=number, category=label, is_thing=is_thing))
        if void:
            info['void_ids'] = void

    def _maps_are_optional(self) -> bool:
        return self.test_mode
