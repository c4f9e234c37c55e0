"""Records what mmcv's compiled NMS and soft-NMS give, for test_models_nms.py.

python tests/record_ops.py    # needs compiled operators; writes tests/data/mmcv_nms.npz
"""

from pathlib import Path

import numpy as np
import torch

RECORD = Path(__file__).parent / 'data/mmcv_nms.npz'
METHODS = ('naive', 'linear', 'gaussian')


def boxes_and_scores(num: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Crowded boxes (num, 4) with a few empty and inverted ones, and distinct scores (num,)."""
    generator = torch.Generator().manual_seed(num)
    corner = torch.rand(num, 2, generator=generator) * spread
    extent = torch.rand(num, 2, generator=generator) * 40 - 1
    scores = (torch.randperm(num, generator=generator) + 1) / (num + 1)
    return torch.cat([corner, corner + extent], 1), scores


CASES = [
    (num, spread, threshold, offset)
    for num, spread in ((1, 50.0), (40, 50.0), (300, 120.0), (700, 600.0))
    for threshold in (0.3, 0.7)
    for offset in (0, 1)
]


def main() -> None:
    from mmcv.ops import nms, soft_nms

    record = {}
    for i, (num, spread, threshold, offset) in enumerate(CASES):
        boxes, scores = boxes_and_scores(num, spread)
        keep = nms(boxes, scores, threshold, offset)[1]
        record[f'{i}/nms'] = keep.numpy().astype(np.int16)
        for method in METHODS:
            dets, keep = soft_nms(boxes, scores, threshold, 0.5, 0.05, method, offset)
            record[f'{i}/{method}'] = keep.numpy().astype(np.int16)
            record[f'{i}/{method}/scores'] = dets[:, 4].numpy()
    np.savez_compressed(RECORD, **record)


if __name__ == '__main__':
    main()
