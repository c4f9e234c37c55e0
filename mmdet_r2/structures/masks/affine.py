"""Masks of moved, sheared and turned images, whatever the masks are made of."""

from abc import ABC, abstractmethod
from typing import TypeVar

import cv2
import numpy as np

Shape = tuple[int, int]
_AXES = ('horizontal', 'vertical')
_Masks = TypeVar('_Masks', bound='AffineMasks')


class AffineMasks(ABC):
    """Masks that can be mapped into an image of ``out_shape`` (height, width).

    ``border_value`` and ``interpolation`` (mmcv's names) are for masks of pixels; points that leave
    the image go to its border.
    """

    @abstractmethod
    def _warp(
        self: _Masks, matrix: np.ndarray, out_shape: Shape, border_value: int, interpolation: str
    ) -> _Masks:
        """With every point at ``matrix`` (2, 3) times (x, y, 1)."""

    def translate(
        self: _Masks,
        out_shape: Shape,
        offset: float | tuple[float, float],
        direction: str = 'horizontal',
        border_value: int = 0,
        interpolation: str = 'bilinear',
    ) -> _Masks:
        """Of the image moved by ``offset`` pixels to the right or down ('both': (right, down))."""
        if direction == 'both':
            right, down = offset  # type: ignore[misc]
        else:
            _check(direction, (*_AXES, 'both'))
            right, down = (offset, 0) if direction == 'horizontal' else (0, offset)
        matrix = np.array([[1, 0, right], [0, 1, down]], dtype=np.float32)
        return self._warp(matrix, out_shape, border_value, interpolation)

    def shear(
        self: _Masks,
        out_shape: Shape,
        magnitude: float,
        direction: str = 'horizontal',
        border_value: int = 0,
        interpolation: str = 'bilinear',
    ) -> _Masks:
        """Of the image whose rows move to the right by ``magnitude`` times their number
        ('horizontal'), or whose columns move down."""
        _check(direction, _AXES)
        across, along = (magnitude, 0) if direction == 'horizontal' else (0, magnitude)
        matrix = np.array([[1, across, 0], [along, 1, 0]], dtype=np.float32)
        return self._warp(matrix, out_shape, border_value, interpolation)

    def rotate(
        self: _Masks,
        out_shape: Shape,
        angle: float,
        center: tuple[float, float] | None = None,
        scale: float = 1.0,
        border_value: int = 0,
        interpolation: str = 'bilinear',
    ) -> _Masks:
        """Of the image turned by ``angle`` degrees, clockwise, around ``center`` (x, y; that of
        ``out_shape`` without one), and scaled."""
        center = center or ((out_shape[1] - 1) / 2, (out_shape[0] - 1) / 2)
        matrix = cv2.getRotationMatrix2D(center, -angle, scale)
        return self._warp(matrix, out_shape, border_value, interpolation)


def _check(direction: str, known: tuple[str, ...]) -> None:
    if direction not in known:
        raise ValueError(f'direction is {direction!r}, expected one of {", ".join(known)}')
