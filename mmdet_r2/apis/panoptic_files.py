"""Panoptic maps of a run over images as files, in COCO's panoptic format."""

from pathlib import Path
from typing import Any

from ..files import path_inside, write_image, write_json
from ..structures import DetDataSample
from .images import ImageSource, Names
from .results import default_category_ids, panoptic_record, prediction


class PanopticFiles:
    """The panoptic maps of a run: a PNG image each, and one JSON file."""

    def __init__(self, out_dir: Path, classes: list[str], num_things: int) -> None:
        self.out_dir, self.classes = out_dir, classes
        self.ids = default_category_ids(classes, first=1)
        self.num_things = num_things
        self.annotations: list[dict[str, Any]] = []
        self.names = Names()

    def add(self, path: str, sample: DetDataSample) -> int:
        """Write an image's map; how many segments it has."""
        name = self.names.new(ImageSource('', path).stem or 'image', '.png')
        found = prediction(sample, len(self.classes))
        write_image(path_inside(self.out_dir / 'panoptic', name), found['panoptic_seg'])
        record = panoptic_record(sample, name, self.ids)
        self.annotations.append(record)
        return len(record['segments_info'])

    def close(self) -> None:
        """Write the JSON file."""
        categories = [
            dict(id=number, name=name, isthing=int(i < self.num_things))
            for i, (number, name) in enumerate(zip(self.ids, self.classes))
        ]
        content = dict(annotations=self.annotations, categories=categories)
        write_json(self.out_dir / 'panoptic.json', content)
