"""Matrices (2, 3) of translation, shear and rotation, from points of the old to the new image."""

import cv2
import numpy as np

_AXES = ('horizontal', 'vertical')


def translation(offset: float | tuple[float, float], direction: str) -> np.ndarray:
    """Of ``offset`` pixels to the right or down; 'both' takes one for either."""
    if direction == 'both':
        right, down = offset  # type: ignore[misc]
    else:
        _check(direction, (*_AXES, 'both'))
        right, down = (offset, 0) if direction == 'horizontal' else (0, offset)
    return np.array([[1, 0, right], [0, 1, down]], dtype=np.float32)


def shear(magnitude: float, direction: str) -> np.ndarray:
    """Of ``magnitude`` pixels to the right per row ('horizontal'), or down per column."""
    _check(direction, _AXES)
    across, along = (magnitude, 0) if direction == 'horizontal' else (0, magnitude)
    return np.array([[1, across, 0], [along, 1, 0]], dtype=np.float32)


def rotation(angle: float, center: tuple[float, float], scale: float) -> np.ndarray:
    """By ``angle`` degrees, clockwise as the image is seen, around ``center`` (x, y)."""
    return cv2.getRotationMatrix2D(center, -angle, scale)


def _check(direction: str, known: tuple[str, ...]) -> None:
    if direction not in known:
        raise ValueError(f'direction is {direction!r}, expected one of {", ".join(known)}')
