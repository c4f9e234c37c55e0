"""From a list of uint8 images to one normalised, padded batch on the model's device.

Images travel to the device as uint8 (a quarter of the bytes of float32). The batch is allocated
once, already padded, and every image is normalised straight into its place.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor
from mmengine.structures import PixelData
from torch import Tensor, nn

from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import MODELS
from mmdet_r2.structures import DetDataSample


def _pad_targets(
    data_samples: Sequence[DetDataSample],
    *,
    masks_value: int | None,
    seg_value: int | None,
) -> None:
    """Pad ground truth, in place, right and below to each sample's ``batch_input_shape``; ``None``
    leaves a kind alone."""
    for sample in data_samples:
        height, width = sample.batch_input_shape
        if masks_value is not None and 'masks' in sample.get('gt_instances', ()):
            masks = sample.gt_instances.masks
            sample.gt_instances.masks = masks.pad((height, width), pad_val=masks_value)
        if seg_value is not None and 'gt_sem_seg' in sample:
            seg = sample.gt_sem_seg.sem_seg
            right, below = max(width - seg.shape[-1], 0), max(height - seg.shape[-2], 0)
            padded = F.pad(seg, (0, right, 0, below), value=seg_value)
            sample.gt_sem_seg = PixelData(sem_seg=padded)


@MODELS.register_module()
class DetDataPreprocessor(BaseDataPreprocessor):
    """Moves a batch to the device, swaps channels, normalises and pads.

    Sets on each data sample ``batch_input_shape`` (height and width of the batch) and ``pad_shape``
    (the image's own size rounded up to ``pad_size_divisor``).

    Args:
        mean, std: per channel, after the channel swap; three values or one, both or neither.
        pad_size_divisor: height and width of the batch are rounded up to a multiple of this.
        pad_value: value of the padding, in normalised units.
        pad_mask, mask_pad_value: in training, pad ``gt_instances.masks`` to the batch, with this
            value.
        pad_seg, seg_pad_value: in training, pad ``gt_sem_seg`` to the batch, with this value.
        bgr_to_rgb, rgb_to_bgr: reverse the channel order; both mean the same.
        boxtype2tensor: accepted for mmdetection's configs and unused: boxes are plain tensors here.
        non_blocking: asynchronous transfer to the device; needs pinned memory to have an effect.
        batch_augments: configs of modules called as ``(inputs, data_samples) -> (inputs,
            data_samples)`` in training.
        channels_last: lay the batch out with the channels innermost, and with it every feature map
            of the model. Convolutions are faster so on CPUs and on the tensor cores of GPUs;
            results are the same. ``None`` is True on the CPU and False elsewhere.

    Raises:
        ConfigError: ``mean`` and ``std`` do not fit together.
        DataError: an image has another number of channels than ``mean``; the message names its
            file.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        pad_size_divisor: int = 1,
        pad_value: float = 0,
        pad_mask: bool = False,
        mask_pad_value: int = 0,
        pad_seg: bool = False,
        seg_pad_value: int = 255,
        bgr_to_rgb: bool = False,
        rgb_to_bgr: bool = False,
        boxtype2tensor: bool = True,
        non_blocking: bool = False,
        batch_augments: list[dict] | None = None,
        channels_last: bool | None = None,
    ) -> None:
        super().__init__(non_blocking=non_blocking)
        where = 'data_preprocessor'
        if (mean is None) != (std is None):
            raise ConfigError(f'{where}: give both mean and std, or neither')
        if mean is not None and (len(mean) not in (1, 3) or len(std) not in (1, 3)):
            raise ConfigError(
                f'{where}: mean has {len(mean)} and std {len(std)} values; expected 3 (or 1)'
            )
        if std is not None and min(std) <= 0:
            raise ConfigError(f'{where}.std is {tuple(std)}; every value must be above 0')
        if bgr_to_rgb and rgb_to_bgr:
            raise ConfigError(f'{where}: bgr_to_rgb and rgb_to_bgr exclude each other')
        if pad_size_divisor < 1:
            raise ConfigError(f'{where}.pad_size_divisor is {pad_size_divisor}; expected 1 or more')
        self.normalize = mean is not None
        if self.normalize:
            shape = (-1, 1, 1)
            # Not persistent: they belong to the config, and checkpoints of mmdetection lack them.
            self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(shape), False)
            self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(shape), False)
        self.swap_channels = bgr_to_rgb or rgb_to_bgr
        self.pad_size_divisor = pad_size_divisor
        self.pad_value = pad_value
        self.pad_mask = pad_mask
        self.mask_pad_value = mask_pad_value
        self.pad_seg = pad_seg
        self.seg_pad_value = seg_pad_value
        self.channels_last = channels_last
        self.batch_augments = (
            nn.ModuleList(MODELS.build(cfg) for cfg in batch_augments) if batch_augments else None
        )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Collated data -> ``dict(inputs, data_samples)`` for the model.

        Args:
            data: ``inputs``, a list of ``(C, H, W)`` tensors (or one ``(B, C, H, W)`` tensor),
                uint8 or float, values 0 to 255; ``data_samples``, a list of as many samples, or
                ``None``.
            training: also pad the ground truth and run ``batch_augments``.

        Returns:
            The same dict, with ``inputs`` as one float32 tensor ``(B, C, H, W)`` padded right and
            below.
        """
        images = data.get('inputs')
        if images is None:
            raise ConfigError("a batch has no 'inputs': the pipeline has to end with PackDetInputs")
        samples = data.get('data_samples')
        self._check(images, samples)
        data = self.cast_data(dict(data, data_samples=samples))
        images, samples = data['inputs'], data['data_samples']

        inputs = self._batch(images)
        if samples is not None:
            batch_input_shape = tuple(inputs.shape[-2:])
            for image, sample in zip(images, samples):
                sample.set_metainfo(
                    dict(batch_input_shape=batch_input_shape, pad_shape=self._round_up(image))
                )
            if training:
                _pad_targets(
                    samples,
                    masks_value=self.mask_pad_value if self.pad_mask else None,
                    seg_value=self.seg_pad_value if self.pad_seg else None,
                )
        if training and self.batch_augments is not None:
            for augment in self.batch_augments:
                inputs, samples = augment(inputs, samples)
        return dict(data, inputs=inputs, data_samples=samples)

    def _round_up(self, image: Tensor) -> tuple[int, int]:
        divisor = self.pad_size_divisor
        height, width = image.shape[-2:]
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def _check(
        self, images: Sequence[Tensor] | Tensor, samples: Sequence[DetDataSample] | None
    ) -> None:
        if len(images) == 0:
            raise DataError('the batch holds no image')
        if samples is not None and len(samples) != len(images):
            raise DataError(f'the batch has {len(images)} images but {len(samples)} data samples')
        wanted = max(self.mean.shape[0], self.std.shape[0]) if self.normalize else 0
        # A single mean serves any number of channels; without a mean, all images have to agree.
        wanted = wanted if wanted > 1 else images[0].shape[0] if images[0].dim() == 3 else 3
        for i, image in enumerate(images):
            if image.dim() != 3 or image.shape[0] != wanted:
                path = samples[i].metainfo.get('img_path') if samples is not None else None
                raise DataError(
                    f'{path or f"image {i} of the batch"}: its tensor has the shape '
                    f'{tuple(image.shape)}; expected ({wanted}, height, width)'
                )

    def _batch(self, images: Sequence[Tensor] | Tensor) -> Tensor:
        sizes = [self._round_up(image) for image in images]
        height, width = max(h for h, _ in sizes), max(w for _, w in sizes)
        channels_last = self.channels_last
        if channels_last is None:
            channels_last = images[0].device.type == 'cpu'
        batch = torch.empty(
            (len(images), images[0].shape[0], height, width),
            dtype=torch.float32,
            device=images[0].device,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )
        for out, image in zip(batch, images):
            h, w = image.shape[-2:]
            out[:, h:] = self.pad_value
            out[:, :h, w:] = self.pad_value
            if self.swap_channels:
                image = image.flip(0)
            place = out[:, :h, :w]
            if self.normalize:
                torch.sub(image, self.mean, out=place)
                place.div_(self.std)
            else:
                place.copy_(image)
        return batch


@MODELS.register_module()
class BatchFixedSizePad(nn.Module):
    """Batch augmentation that pads every batch to one size, so that shapes never change from step
    to step.

    Args:
        size: height and width; a batch larger than this keeps its own size along that side.
        img_pad_value: value of the image padding, in normalised units.
        pad_mask, mask_pad_value: also pad ``gt_instances.masks``, with this value.
        pad_seg, seg_pad_value: also pad ``gt_sem_seg``, with this value.
    """

    def __init__(
        self,
        size: tuple[int, int],
        img_pad_value: float = 0,
        pad_mask: bool = False,
        mask_pad_value: int = 0,
        pad_seg: bool = False,
        seg_pad_value: int = 255,
    ) -> None:
        super().__init__()
        self.size = tuple(size)
        self.img_pad_value = img_pad_value
        self.pad_mask = pad_mask
        self.mask_pad_value = mask_pad_value
        self.pad_seg = pad_seg
        self.seg_pad_value = seg_pad_value

    def forward(
        self, inputs: Tensor, data_samples: list[DetDataSample] | None = None
    ) -> tuple[Tensor, list[DetDataSample] | None]:
        """``(B, C, H, W)`` -> the same padded right and below; samples get the new
        ``batch_input_shape``, ``pad_shape``."""
        height, width = inputs.shape[-2:]
        right, below = max(self.size[1] - width, 0), max(self.size[0] - height, 0)
        if right or below:
            inputs = F.pad(inputs, (0, right, 0, below), value=self.img_pad_value)
        if data_samples is not None:
            shape = tuple(inputs.shape[-2:])
            for sample in data_samples:
                sample.set_metainfo(dict(batch_input_shape=shape, pad_shape=shape))
            _pad_targets(
                data_samples,
                masks_value=self.mask_pad_value if self.pad_mask else None,
                seg_value=self.seg_pad_value if self.pad_seg else None,
            )
        return inputs, data_samples
