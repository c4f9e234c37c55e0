"""Random changes of brightness, contrast, saturation, hue and channel order (SSD, 1512.02325)."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_randomness

from mmdet_r2.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PhotoMetricDistortion(BaseTransform):
    """Distort the colours of a BGR image; each step happens with probability 1/2.

    In order: brightness, contrast (or after the next two, with probability 1/2), saturation, hue,
    random channel order. The image leaves as float32 in about 0..255, not clipped.

    Args:
        brightness_delta: largest amount added.
        contrast_range: (lowest, highest) factor.
        saturation_range: (lowest, highest) factor.
        hue_delta: largest rotation in degrees.
    """

    def __init__(
        self,
        brightness_delta: int = 32,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: int = 18,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = tuple(contrast_range)
        self.saturation_range = tuple(saturation_range)
        self.hue_delta = hue_delta

    @cache_randomness
    def _draw(self) -> tuple:
        """All random numbers at once, whether used or not, in mmdetection's order."""
        late_contrast, brightness, contrast, saturation, hue, swap = (
            np.random.randint(2) for _ in range(6)
        )
        delta = np.random.uniform(-self.brightness_delta, self.brightness_delta)
        contrast_factor = np.random.uniform(self.contrast_range[0], self.contrast_range[1])
        saturation_factor = np.random.uniform(self.saturation_range[0], self.saturation_range[1])
        rotation = np.random.uniform(-self.hue_delta, self.hue_delta)
        order = np.random.permutation(3)
        return (
            not late_contrast,
            delta if brightness else None,
            contrast_factor if contrast else None,
            saturation_factor if saturation else None,
            rotation if hue else None,
            order if swap else None,
        )

    def transform(self, results: dict) -> dict:
        """``results`` with a distorted float32 image."""
        late_contrast, brightness, contrast, saturation, hue, order = self._draw()
        img = results['img'].astype(np.float32)
        if brightness is not None:
            img += brightness
        if contrast is not None and not late_contrast:
            img *= contrast
        # The round trip through HSV also happens when neither is changed: it is not exact for
        # values outside of 0..255, and a seeded run is to give mmdetection's pixels.
        img = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)  # degrees, 0..1, value
        if saturation is not None:
            img[..., 1] *= saturation
            if saturation > 1:
                np.clip(img[..., 1], 0, 1, out=img[..., 1])
        if hue is not None:
            degrees = img[..., 0] + hue
            degrees[degrees > 360] -= 360
            degrees[degrees < 0] += 360
            img[..., 0] = degrees
        img = cv2.cvtColor(img, cv2.COLOR_HSV2BGR)
        if contrast is not None and late_contrast:
            img *= contrast
        results['img'] = img if order is None else np.ascontiguousarray(img[..., order])
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(brightness_delta={self.brightness_delta}, '
            f'contrast_range={self.contrast_range}, saturation_range={self.saturation_range}, '
            f'hue_delta={self.hue_delta})'
        )
