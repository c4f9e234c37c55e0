"""Whether the parts of a detector agree on what boxes are: pixel boxes (``offset=1``, see
:mod:`mmdet_r2.structures.boxes`) or ordinary ones.
"""

from collections.abc import Iterator
from typing import Any

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.roi import RoIHead
from mmdet_r2.models.rpn import AnchorGenerator, ProposalSelector, RPNHead


def check_offsets(
    rpn_head: RPNHead | None, selector: ProposalSelector | None, roi_head: RoIHead | None
) -> None:
    """Raise ConfigError where boxes are a pixel longer to one part than to another.

    Args:
        selector: that of ``train_cfg.rpn_proposal``.
    """
    parts = [*_rpn_parts(rpn_head, selector), *_roi_parts(roi_head)]
    offsets = {path: getattr(part, name, 0) for path, part, name in parts if part is not None}
    ones = [path for path, offset in offsets.items() if offset]
    zeros = [path for path, offset in offsets.items() if not offset]
    if not ones:
        return
    if zeros:
        few, value = (ones, 1) if len(ones) < len(zeros) else (zeros, 0)
        raise ConfigError(
            f'model: offset is {value} in {", ".join(few)}, but {1 - value} in the other parts: '
            'boxes count pixels in all of them or in none'
        )
    if rpn_head is not None and type(rpn_head.anchor_generator) is AnchorGenerator:
        raise ConfigError(
            'model.rpn_head.anchor_generator.type is AnchorGenerator, but the model counts pixels '
            '(offset=1): use LegacyAnchorGenerator'
        )


# Config path, what is built from it, and the name of its offset. That of a coder is what it decodes
# to: mmdetection 3.x has one that takes boxes of one kind and gives the other.
_Parts = Iterator[tuple[str, Any, str]]


def _rpn_parts(head: RPNHead | None, selector: ProposalSelector | None) -> _Parts:
    if head is None:
        return
    yield 'rpn_head.bbox_coder', head.bbox_coder, 'decode_offset'
    yield 'train_cfg.rpn.assigner', getattr(head, 'assigner', None), 'offset'
    yield 'train_cfg.rpn_proposal', selector, 'offset'
    yield 'test_cfg.rpn', head.test_selector, 'offset'


def _roi_parts(head: RoIHead | None) -> _Parts:
    if head is None:
        return
    for i, stage in enumerate(head.stages):
        n = f'[{i}]' if len(head.stages) > 1 else ''
        yield f'roi_head.bbox_roi_extractor{n}', stage.box_extractor, 'offset'
        yield f'roi_head.bbox_head{n}.bbox_coder', stage.box_head.bbox_coder, 'decode_offset'
        yield f'roi_head.mask_roi_extractor{n}', stage.mask_extractor, 'offset'
        yield f'train_cfg.rcnn{n}.assigner', stage.assigner, 'offset'
    yield 'test_cfg.rcnn', head.selector, 'offset'
