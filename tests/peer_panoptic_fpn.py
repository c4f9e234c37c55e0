"""What Panoptic FPN computes from known weights, with this project or mmdetection.

    /path/to/python-with-mmdet tests/peer_panoptic_fpn.py FILE.npz

regenerates ``tests/data/panoptic_fpn.npz``: run by the Python of an environment that holds
mmdetection 3.x, this file does not import the project.
"""

import copy
import re
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData

sys.path.insert(0, str(Path(__file__).resolve().parent))
from parity import cases

CONFIG = 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'
# From filled weights scores are low, and the images are small.
SETTINGS = {
    'test_cfg.rcnn.score_thr': 0.12,
    'test_cfg.panoptic.stuff_area_limit': 150,
    'train_cfg.rpn.sampler.num': cases.EXHAUSTIVE,
    'train_cfg.rcnn.sampler.num': cases.EXHAUSTIVE,
}
GRADIENTS = r'semantic_head\.(conv_logits|conv_upsample_layers\.[03]\.conv\.0)|neck\.fpn_convs\.1\.'


def labels_of(stuff: np.ndarray) -> np.ndarray:
    """Labels of 133 classes, or 255, from those of 183."""
    return np.where(stuff == 255, 255, stuff % 133).astype(np.uint8)


def inputs(sample_type: type, masks_type: type) -> dict:
    """Two images of different size with ground truth, before the data preprocessor."""
    pictures, samples = [], []
    for index, item in enumerate(cases.batch()):
        height, width = item['img'].shape[:2]
        sample = sample_type(
            metainfo=dict(
                img_id=index,
                img_path=f'{index}.jpg',
                ori_shape=item['ori_shape'],
                img_shape=(height, width),
                scale_factor=item['scale_factor'],
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.from_numpy(item['boxes']),
            labels=torch.from_numpy(item['labels']),
            masks=masks_type(item['masks'], height, width),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        sample.gt_sem_seg = PixelData(sem_seg=torch.from_numpy(labels_of(item['sem_seg']))[None])
        pictures.append(torch.from_numpy(np.ascontiguousarray(item['img'].transpose(2, 0, 1))))
        samples.append(sample)
    return dict(inputs=pictures, data_samples=samples)


def record(model, sample_type: type, masks_type: type) -> dict[str, np.ndarray]:
    """Features, semantic logits, both images' maps, and a training step."""
    arrays = {}
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    arrays['keys'] = cases.pack_text(shapes)
    cases.fill_model(model)
    model.eval()
    with torch.no_grad():
        data = model.data_preprocessor(inputs(sample_type, masks_type), False)
        features = model.extract_feat(data['inputs'])
        for level, feature in enumerate(features):
            arrays[f'fpn/{level}'] = feature.numpy()
        logits = model.semantic_head(features)
        logits = logits['seg_preds'] if isinstance(logits, dict) else logits
        arrays['semantic/logits'] = logits.numpy()
        found = model.predict(data['inputs'], copy.deepcopy(data['data_samples']))
        for index, sample in enumerate(found):
            arrays[f'panoptic/{index}'] = sample.pred_panoptic_seg.sem_seg.numpy()
    model.train()
    data = model.data_preprocessor(inputs(sample_type, masks_type), True)
    losses = model.loss(data['inputs'], data['data_samples'])
    total = torch.zeros(())
    for name, value in losses.items():
        value = sum(value) if isinstance(value, list) else value
        arrays[f'loss/{name}'] = value.detach().numpy().reshape(())
        if 'loss' in name:
            total = total + value
    total.backward()
    for name, parameter in model.named_parameters():
        if re.search(GRADIENTS, name):
            arrays[f'gradient/{name}'] = parameter.grad.numpy()
    return arrays


if __name__ == '__main__':
    import mmdet
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmdet.utils import register_all_modules
    from mmengine.config import Config

    register_all_modules()
    config = Config.fromfile(Path(mmdet.__file__).parent / '.mim' / 'configs' / CONFIG)
    config.merge_from_dict({f'model.{key}': value for key, value in SETTINGS.items()})
    config.model.backbone.init_cfg = None
    arrays = record(MODELS.build(config.model), DetDataSample, BitmapMasks)
    np.savez_compressed(sys.argv[1], **cases.compact(arrays, ('panoptic/', 'keys')))
