"""A picture of the confusion matrix."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ..errors import ConfigError


def normalised(matrix: np.ndarray) -> np.ndarray:
    """Each row as shares of its sum, in [0, 1]; a row of zeros stays."""
    sums = matrix.sum(axis=1, keepdims=True)
    return matrix / np.maximum(sums, 1)


def plot_confusion(
    matrix: np.ndarray,
    classes: Sequence[str],
    *,
    title: str = 'Confusion matrix',
    color_theme: str = 'plasma',
) -> Figure:
    """Rows are what is annotated, columns what was found, in percent of the row.

    Args:
        matrix: (K + 1, K + 1) of :func:`~mmdet_r2.evaluation.mistakes.confusion_matrix`.
        classes: K names.
        title: above it.
        color_theme: name of a matplotlib colour map.

    Raises:
        ConfigError: there is no such colour map.
    """
    from matplotlib import colormaps

    if color_theme not in colormaps:
        raise ConfigError(
            f'--color-theme {color_theme}: not known to matplotlib; try plasma, viridis or Blues.'
        )
    percent = 100 * normalised(matrix)
    size = len(matrix)
    cell = float(np.clip(24 / size, 0.02, 0.5))  # inches
    side = max(5.0, cell * size)
    figure = Figure(figsize=(side + 2, side + 1.5), dpi=120, layout='constrained')
    axes = figure.add_subplot()
    image = axes.imshow(percent, cmap=color_theme, vmin=0, vmax=100)
    figure.colorbar(
        image,
        ax=axes,
        label='% of the row',
        aspect=4 * side,
        fraction=0.5 / side,
        pad=0.25 / side,
    )
    # of very many classes only as many are named as there is room for
    names = np.array([*classes, 'background'])
    named = np.arange(size)[:: int(np.ceil(0.12 / cell))]
    axes.set_xticks(named, names[named], rotation=90, fontsize=9)
    axes.set_yticks(named, names[named], fontsize=9)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position('top')
    large = max(10.0, 0.7 * side)
    axes.set_xlabel('found', fontsize=large)
    axes.set_ylabel('annotated', fontsize=large)
    axes.set_xticks(np.arange(size + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(size + 1) - 0.5, minor=True)
    axes.grid(which='minor', linewidth=min(0.3, cell), color='white', alpha=0.5)
    axes.tick_params(which='minor', length=0)
    if cell >= 0.2:
        for i, j in zip(*np.nonzero(matrix)):
            red, green, blue, _ = image.cmap(image.norm(percent[i, j]))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axes.text(
                j,
                i,
                f'{percent[i, j]:.0f}',
                ha='center',
                va='center',
                fontsize=min(8, 26 * cell),
                color='white' if dark else 'black',
            )
    axes.set_title(title, fontsize=1.2 * large)
    return figure
