"""The batched view of ground truth that every loss reads."""

from dataclasses import dataclass

from torch import Tensor

from mmdet_r2.structures import DetDataSample


@dataclass
class Targets:
    """Ground truth of a batch of B images, taken out of the data samples once.

    ``boxes`` B x (G, 4) float32 xyxy in pixels of the network input, ``labels`` B x (G,) int64,
    ``ignored`` B x (I, 4), ``masks`` B x BitmapMasks/PolygonMasks or None without mask annotations,
    ``img_shapes`` and ``pad_shapes`` B x (height, width): the image without padding, and padded to
    the size divisor; ``semantic`` B x (H, W) labels of the padded images or None without stuff
    maps; ``names`` of the images, for messages.
    """

    boxes: list[Tensor]
    labels: list[Tensor]
    ignored: list[Tensor]
    masks: list | None
    img_shapes: list[tuple[int, int]]
    pad_shapes: list[tuple[int, int]]
    semantic: list[Tensor] | None
    names: list[str]

    @classmethod
    def from_samples(cls, samples: list[DetDataSample]) -> 'Targets':
        """Collect what ``PackDetInputs`` and the preprocessor stored."""
        boxes = [s.gt_instances.bboxes for s in samples]
        has_masks = all('masks' in s.gt_instances for s in samples)
        has_maps = all('gt_sem_seg' in s for s in samples)
        return cls(
            boxes=boxes,
            labels=[s.gt_instances.labels for s in samples],
            ignored=[
                s.ignored_instances.bboxes if 'ignored_instances' in s else b.new_zeros(0, 4)
                for s, b in zip(samples, boxes, strict=True)
            ],
            masks=[s.gt_instances.masks for s in samples] if has_masks else None,
            img_shapes=img_shapes(samples),
            pad_shapes=[tuple(s.metainfo.get('pad_shape', s.img_shape)[:2]) for s in samples],
            semantic=[s.gt_sem_seg.sem_seg[0] for s in samples] if has_maps else None,
            names=[str(s.metainfo.get('img_path', f'image {i}')) for i, s in enumerate(samples)],
        )


def img_shapes(samples: list[DetDataSample]) -> list[tuple[int, int]]:
    """(height, width) of each network input without its padding."""
    return [tuple(s.img_shape[:2]) for s in samples]
