"""The batched view of ground truth that every loss reads."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmdet_r2.errors import ConfigError, DataError
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
        if not all('gt_instances' in s and 'bboxes' in s.gt_instances for s in samples):
            raise ConfigError(
                'there are no boxes to learn: the training pipeline needs LoadAnnotations('
                'with_bbox=True), and PackDetInputs after it'
            )
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

    def semantic_maps(self) -> Tensor:
        """``semantic`` as (B, H, W); it must be there.

        Raises:
            DataError: the images' maps are not of one size.
        """
        assert self.semantic is not None
        sizes = {tuple(seg.shape) for seg in self.semantic}
        if len(sizes) > 1:
            raise DataError(
                f'semantic maps of one batch have the sizes {sorted(sizes)}: set '
                'data_preprocessor.pad_seg=True'
            )
        return torch.stack(self.semantic)


def check_labels(
    labels: Tensor, ignore_index: int, limit: int, names: list[str], head: str
) -> None:
    """Raise DataError unless all labels (B, ., .) are ``ignore_index`` or in [0, ``limit``).

    On a GPU a label too high would abort the process without a name. One number is read back, in a
    step that waits for the device anyway when it samples RoIs.

    Args:
        names: of the images; head: whose classes they are; both for the message.
    """
    kept = labels.masked_fill(labels == ignore_index, 0)
    low, high = torch.stack(kept.aminmax()).tolist()
    if low >= 0 and high < limit:
        return
    wrong = high if high >= limit else low
    image = int((kept == wrong).flatten(1).any(1).nonzero()[0])
    raise DataError(
        f'semantic map of {names[image]} has the label {wrong}: {head} allows 0 to {limit - 1} and '
        f'ignore_index {ignore_index}'
    )


def img_shapes(samples: list[DetDataSample]) -> list[tuple[int, int]]:
    """(height, width) of each network input without its padding."""
    return [tuple(s.img_shape[:2]) for s in samples]
