"""Anchor sizes and shapes that suit the boxes of a data set.

Compared are shapes alone: an anchor and a box with one centre. Where the boxes lie on the grid of
anchors costs some of that overlap in practice, for any sizes alike.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.config import Config

from ..apis.tta import datasets_of, kind_of
from ..config import load_config
from ..errors import ConfigError, DataError
from ..progress import progress
from ..registry import DATASETS, TASK_UTILS, build, init_scope

MAX_SHAPES = 20000
"""Boxes that the search looks at; a sample of more is drawn."""


@dataclass
class Anchors:
    """An RPN's anchors: ``len(scales) * len(ratios)`` at each cell of each level.

    Attributes:
        base_sizes: of each level, pixels; the strides as a rule.
        scales: sides of a square anchor in base sizes.
        ratios: height over width.
    """

    base_sizes: tuple[float, ...]
    scales: tuple[float, ...]
    ratios: tuple[float, ...]

    def shapes(self) -> np.ndarray:
        """(a, 2) width, height of all, pixels."""
        side = np.outer(self.base_sizes, self.scales).reshape(-1, 1)
        root = np.sqrt(np.array(self.ratios))
        return np.stack([side / root, side * root], axis=-1).reshape(-1, 2)


@dataclass
class Fit:
    """How well anchors suit boxes.

    Attributes:
        mean_iou: mean over boxes of the best anchor's IoU.
        recall: by IoU threshold the share of boxes that an anchor reaches it with.
    """

    mean_iou: float
    recall: dict[float, float]


def read_anchors(config: Config) -> Anchors:
    """The anchors of a config's RPN.

    Raises:
        ConfigError: there is no RPN with an anchor generator.
    """
    name = config.filename or 'config'
    settings = (config.get('model', {}).get('rpn_head') or {}).get('anchor_generator')
    if settings is None:
        raise ConfigError(f'{name}: model.rpn_head.anchor_generator is missing.')
    init_scope()
    generator = build(TASK_UTILS, settings, 'model.rpn_head.anchor_generator')
    scales = settings.get('scales')
    if scales is None:
        octave, number = settings['octave_base_scale'], settings['scales_per_octave']
        scales = [octave * 2 ** (i / number) for i in range(number)]
    return Anchors(
        tuple(float(size) for size in generator.base_sizes),
        tuple(float(scale) for scale in scales),
        tuple(float(ratio) for ratio in settings['ratios']),
    )


def box_shapes(
    config: str | Config,
    *,
    input_shape: tuple[int, int] | None = None,
    overrides: dict[str, Any] | None = None,
) -> tuple[np.ndarray, Config]:
    """Width and height of the training boxes as the network sees them, (n, 2); and the config.

    Of several training scales five at most are taken, from the smallest to the largest.

    Args:
        config: of a training; images are not read.
        input_shape: (height, width) that images are resized into, keeping their proportions,
            instead of what the training pipeline says.
        overrides: dotted config keys and their values, as on the command line.

    Raises:
        ConfigError: there are no training data, or no resizing that can be followed.
        DataError: the data have no boxes.
    """
    config = load_config(config, overrides)
    name = config.filename or 'config'
    if config.get('train_dataloader') is None:
        raise ConfigError(f'{name}: train_dataloader is missing, whose boxes are measured.')
    init_scope()
    settings = config.train_dataloader.dataset
    rules: list[Callable[[int, int], tuple[float, float]]] | None = None
    for part in datasets_of(settings):
        if rules is None and input_shape is None:
            rules = _resizing(part.get('pipeline') or (), name)
        part.pipeline = []
    if input_shape is not None:
        rules = [_into(input_shape[::-1])]
    dataset = build(DATASETS, settings, 'train_dataloader.dataset')
    shapes = []
    for i in progress(range(len(dataset)), 'reading boxes'):
        info = dataset.get_data_info(i)
        boxes = [b['bbox'] for b in info['instances'] if not b.get('ignore_flag', 0)]
        if not boxes:
            continue
        sides = np.array(boxes, float)
        sides = sides[:, 2:] - sides[:, :2]
        for rule in rules or ():
            shapes.append(sides * rule(info['width'], info['height']))
    found = np.concatenate(shapes) if shapes else np.zeros((0, 2))
    found = found[(found >= 1).all(axis=1)]
    if not len(found):
        raise DataError(f'{name}: the training data have no boxes.')
    return found, config


def _resizing(
    pipeline: Sequence[dict], name: str
) -> list[Callable[[int, int], tuple[float, float]]]:
    """Functions from an image's width and height to the factors that it is resized by."""
    for transform in pipeline:
        kind = kind_of(transform)
        if kind == 'Resize' and transform.get('scale') is not None:
            return [_into(transform['scale'], transform.get('keep_ratio', False))]
        if kind == 'ResizeShortestEdge':
            short = transform['scale']
            short = short if isinstance(short, int) else min(short)
            return [_into((transform.get('max_size') or 10**9, short))]
        if kind in ('RandomChoiceResize', 'RandomResize'):
            scales = transform.get('scales') or transform.get('scale')
            scales = scales if isinstance(scales, list) else [scales]
            if kind == 'RandomResize':
                if transform.get('ratio_range'):
                    low, high = transform['ratio_range']
                    scales = [tuple(side * f for side in scales[0]) for f in (low, high)]
                ends = np.array(scales, float)
                scales = [ends[0] + (ends[-1] - ends[0]) * f for f in (0, 0.5, 1)]
            keep = transform.get('resize_type') == 'ResizeShortestEdge' or transform.get(
                'keep_ratio', False
            )
            chosen = np.linspace(0, len(scales) - 1, min(5, len(scales))).round().astype(int)
            return [_into(scales[i], keep) for i in chosen]
        if 'transforms' in transform:
            raise ConfigError(
                f'{name}: {kind} of the training pipeline cannot be followed; give --input-shape.'
            )
    raise ConfigError(f'{name}: the training pipeline resizes nothing; give --input-shape.')


def _into(
    scale: Sequence[float], keep_ratio: bool = True
) -> Callable[[int, int], tuple[float, float]]:
    """Factors of an image that is resized into ``scale`` (width, height; with ``keep_ratio`` in
    any order).
    """
    long, short = max(scale), min(scale)

    def factors(width: int, height: int) -> tuple[float, float]:
        if not keep_ratio:
            return scale[0] / width, scale[1] / height
        factor = min(long / max(width, height), short / min(width, height))
        return factor, factor

    return factors


def measure(anchors: Anchors, shapes: np.ndarray, thresholds: Sequence[float] = (0.5, 0.7)) -> Fit:
    """How well ``anchors`` suit boxes of ``shapes`` (n, 2)."""
    best = np.concatenate([_best_iou(part, anchors.shapes()) for part in _chunks(shapes)])
    return Fit(float(best.mean()), {t: float((best >= t).mean()) for t in thresholds})


def _chunks(shapes: np.ndarray, size: int = 20000) -> list[np.ndarray]:
    return np.array_split(shapes, max(1, -(-len(shapes) // size)))


def _best_iou(shapes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(n,) the largest IoU of each (n, 2) with any of (a, 2), centres together."""
    common = np.minimum(shapes[:, None], anchors[None]).prod(axis=2)
    union = shapes.prod(axis=1)[:, None] + anchors.prod(axis=1)[None] - common
    return (common / union).max(axis=1)


def fit_by_k_means(
    shapes: np.ndarray, start: Anchors, num_scales: int, num_ratios: int, iters: int = 1000
) -> Anchors:
    """Scales and ratios with the least squared distance of each box to its anchor, in the
    logarithms of width and height.

    There the squared distance is twice that of log(sqrt(width * height)) and half that of
    log(height / width), so that scales and ratios are clustered apart. Sizes of the levels are
    fixed multiples of each scale, so all boxes nearest to one of a scale's levels move it together.

    Args:
        shapes: (n, 2) width, height.
        start: whose base sizes are kept.
        num_scales, num_ratios: how many of each.
        iters: of the clustering, at most; it ends when nothing moves.
    """
    size = np.log(shapes).mean(axis=1)
    ratio = np.log(shapes[:, 1] / shapes[:, 0])
    ratios = _cluster(ratio, np.zeros(1), _quantiles(ratio, num_ratios), iters)
    levels = np.log(start.base_sizes)
    octave = np.log(2.0)
    best, least = None, np.inf
    # the grid has many local optima: begin at scales below, at and above what covers the boxes
    middle = np.median(size) - np.median(levels)
    for shift in np.linspace(-1.5, 1.5, 13) * octave:
        first = middle + shift + np.arange(num_scales) * octave / num_scales
        scales = _cluster(size, levels, first, iters)
        centres = (levels[:, None] + scales[None]).reshape(-1)
        cost = np.abs(size[:, None] - centres[None]).min(axis=1) ** 2
        if cost.mean() < least:
            best, least = scales, cost.mean()
    assert best is not None
    return Anchors(start.base_sizes, tuple(np.exp(np.sort(best))), tuple(np.exp(np.sort(ratios))))


def _quantiles(values: np.ndarray, number: int) -> np.ndarray:
    return np.quantile(values, (np.arange(number) + 0.5) / number)


def _cluster(values: np.ndarray, levels: np.ndarray, first: np.ndarray, iters: int) -> np.ndarray:
    """One-dimensional k-means whose centre i stands at ``centre[i] + levels``, all at once."""
    centres = first.astype(float)
    offsets = np.repeat(levels, len(centres))
    owner = np.tile(np.arange(len(centres)), len(levels))
    for _ in range(iters):
        places = offsets + centres[owner]
        order = np.argsort(places)
        borders = (places[order][1:] + places[order][:-1]) / 2
        nearest = order[np.searchsorted(borders, values)]
        who = owner[nearest]
        number = np.bincount(who, minlength=len(centres))
        total = np.bincount(who, values - offsets[nearest], minlength=len(centres))
        moved = np.where(number > 0, total / np.maximum(number, 1), centres)
        if np.allclose(moved, centres, rtol=0, atol=1e-9):
            break
        centres = moved
    return centres


def fit_by_evolution(
    shapes: np.ndarray,
    start: Anchors,
    num_scales: int,
    num_ratios: int,
    iters: int = 300,
    seed: int = 0,
) -> Anchors:
    """Scales and ratios of the largest mean IoU that differential evolution (Storn and Price, 1997;
    rand/1/bin) finds. It begins with those of k-means, and never ends with worse.

    Args:
        shapes: (n, 2) width, height.
        start: whose base sizes are kept.
        num_scales, num_ratios: how many of each.
        iters: generations, at most; it ends when all candidates are alike.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    first = fit_by_k_means(shapes, start, num_scales, num_ratios)
    values = np.log([*first.scales, *first.ratios])
    count = len(values)
    size = max(16, 8 * count)
    spread = np.log(2.0)
    population = values + rng.uniform(-spread, spread, (size, count))
    population[0] = values

    def decode(candidate: np.ndarray) -> Anchors:
        sides = np.exp(candidate)
        return Anchors(start.base_sizes, tuple(sides[:num_scales]), tuple(sides[num_scales:]))

    def fitness(candidate: np.ndarray) -> float:
        return float(_best_iou(shapes, decode(candidate).shapes()).mean())

    scores = np.array([fitness(candidate) for candidate in population])
    for _ in progress(range(iters), 'evolving'):
        weight = rng.uniform(0.5, 1.0)
        for i in range(size):
            a, b, c = population[rng.choice(size, 3, replace=False)]
            crossed = rng.random(count) < 0.7
            crossed[rng.integers(count)] = True
            trial = np.where(crossed, a + weight * (b - c), population[i])
            score = fitness(trial)
            if score >= scores[i]:
                population[i], scores[i] = trial, score
        if np.ptp(scores) < 1e-5:
            break
    best = decode(population[int(scores.argmax())])
    return Anchors(best.base_sizes, tuple(np.sort(best.scales)), tuple(np.sort(best.ratios)))


def optimize(
    shapes: np.ndarray,
    start: Anchors,
    *,
    algorithm: str = 'differential_evolution',
    num_scales: int | None = None,
    num_ratios: int | None = None,
    iters: int | None = None,
    seed: int = 0,
) -> Anchors:
    """Anchors that suit ``shapes`` better than ``start``; ``start`` itself if none are found.

    Args:
        shapes: (n, 2) width, height of boxes, pixels.
        start: anchors whose base sizes (and numbers) are kept.
        algorithm: 'k-means' or 'differential_evolution'.
        num_scales, num_ratios: by default those of ``start``.
        iters: at most; by default 1000 of k-means, 300 generations.
        seed: of the sample of boxes, and of the evolution.

    Raises:
        ConfigError: unknown algorithm.
    """
    known = {'k-means': fit_by_k_means, 'differential_evolution': fit_by_evolution}
    if algorithm not in known:
        raise ConfigError(f'--algorithm {algorithm}: unknown; expected {" or ".join(known)}.')
    if len(shapes) > MAX_SHAPES:
        chosen = np.random.default_rng(seed).choice(len(shapes), MAX_SHAPES, replace=False)
        shapes = shapes[chosen]
    scales, ratios = num_scales or len(start.scales), num_ratios or len(start.ratios)
    if algorithm == 'k-means':
        found = fit_by_k_means(shapes, start, scales, ratios, iters or 1000)
    else:
        found = fit_by_evolution(shapes, start, scales, ratios, iters or 300, seed)
    found = Anchors(
        start.base_sizes,
        tuple(round(float(s), 3) for s in found.scales),
        tuple(round(float(r), 3) for r in found.ratios),
    )
    same_number = (scales, ratios) == (len(start.scales), len(start.ratios))
    if same_number and measure(found, shapes).mean_iou < measure(start, shapes).mean_iou:
        return start
    return found


def snippet(anchors: Anchors, settings: dict) -> str:
    """Lines of a config that inherits the one measured, with the new anchors.

    Args:
        anchors: to be used.
        settings: ``model.rpn_head.anchor_generator`` of the config.
    """
    lines = [f'scales={list(anchors.scales)},', f'ratios={list(anchors.ratios)},']
    if 'octave_base_scale' in settings:
        rest = {k: v for k, v in settings.items() if not k.startswith(('octave', 'scales'))}
        rest.pop('ratios', None)
        lines = ['_delete_=True,', *(f'{k}={v!r},' for k, v in rest.items()), *lines]
    inner = '\n'.join(f'            {line}' for line in lines)
    return (
        f'model = dict(\n    rpn_head=dict(\n        anchor_generator=dict(\n{inner}\n'
        '        )\n    )\n)'
    )
