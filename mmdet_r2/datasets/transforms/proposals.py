"""Proposals of an image, from loading to what the detector sees."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, Compose

from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import TRANSFORMS

from .crop import RandomCrop


@TRANSFORMS.register_module()
class LoadProposals(BaseTransform):
    """Take the proposals of the data set's ``proposal_file``.

    Adds ``proposals`` (p, 4) float32, xyxy in pixels of the image, and ``proposals_scores`` (p,).

    Args:
        num_max_proposals: how many are kept, in the order of the file (best first); None: all.
    """

    def __init__(self, num_max_proposals: int | None = None) -> None:
        if num_max_proposals is not None and num_max_proposals < 1:
            raise ConfigError(
                f'LoadProposals.num_max_proposals is {num_max_proposals}, expected 1 or more'
            )
        self.num_max_proposals = num_max_proposals

    def transform(self, results: dict) -> dict:
        """The same dict with the proposals.

        Raises:
            DataError: the data set has none.
        """
        given = results.get('proposals')
        if not isinstance(given, dict):
            raise DataError(
                f'{results.get("img_path", "sample")}: LoadProposals finds no proposals; set '
                'proposal_file in the dataset'
            )
        results['proposals'] = given['bboxes'][: self.num_max_proposals].copy()
        results['proposals_scores'] = given['scores'][: self.num_max_proposals].copy()
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(num_max_proposals={self.num_max_proposals})'


@TRANSFORMS.register_module()
class ProposalBroadcaster(BaseTransform):
    """Run transforms on proposals as on the objects' boxes, with the same random choices.

    Args:
        transforms: of boxes, such as ``Resize`` and ``RandomFlip``; none may leave boxes out.

    Raises:
        ConfigError: one is a ``RandomCrop``.
    """

    def __init__(self, transforms: Sequence[dict | Callable] = ()) -> None:
        self.transforms = Compose(list(transforms))
        if any(isinstance(each, RandomCrop) for each in self.transforms):
            raise ConfigError('ProposalBroadcaster.transforms: RandomCrop leaves boxes out')

    def transform(self, results: dict) -> dict | None:
        """The same dict, transformed.

        Raises:
            DataError: there are no proposals.
            ConfigError: a transform left boxes out.
        """
        if not isinstance(results.get('proposals'), np.ndarray):
            raise DataError('ProposalBroadcaster needs proposals: put LoadProposals before it')
        # both are boxes of the image: as one array they share every draw
        boxes = results.get('gt_bboxes')
        number = 0 if boxes is None else len(boxes)
        proposals = results['proposals']
        results['gt_bboxes'] = proposals if boxes is None else np.concatenate([boxes, proposals])
        done: dict[str, Any] | None = self.transforms(results)
        if done is None:
            return None
        both = done['gt_bboxes']
        if len(both) != number + len(proposals):
            raise ConfigError(
                'ProposalBroadcaster.transforms: one left boxes out; all must keep them, as both '
                'are the same array'
            )
        done['gt_bboxes'], done['proposals'] = both[:number], both[number:]
        if boxes is None:
            del done['gt_bboxes']
        return done

    def __repr__(self) -> str:
        return f'{type(self).__name__}(transforms={self.transforms})'
