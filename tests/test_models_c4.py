"""C4 detectors: the last stage of the backbone between pooling and heads."""

import copy

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

from mmdet_r2.config import load_config
from mmdet_r2.errors import ConfigError
from mmdet_r2.inference import prepare_for_inference
from mmdet_r2.models.backbones import ResNet
from mmdet_r2.models.roi import ResLayer
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import BitmapMasks


def detector() -> nn.Module:
    """The published Mask R-CNN C4, of a depth that tests can afford."""
    init_scope()
    changes = {
        'backbone': dict(depth=18, init_cfg=None),
        'rpn_head': dict(in_channels=256, feat_channels=32),
        'roi_head.shared_head': dict(depth=18),
        'roi_head.bbox_roi_extractor': dict(out_channels=256),
        'roi_head.bbox_head': dict(in_channels=512, num_classes=3),
        'roi_head.mask_head': dict(in_channels=512, conv_out_channels=32, num_classes=3),
        'train_cfg.rpn_proposal': dict(max_per_img=20),
        'test_cfg.rpn': dict(max_per_img=20),
        'test_cfg.rcnn': dict(max_per_img=10, score_thr=0.0),
    }
    flat = {f'model.{k}.{name}': v for k, part in changes.items() for name, v in part.items()}
    torch.manual_seed(0)
    model = MODELS.build(load_config('mask_rcnn_r50_caffe_c4_1x_coco', flat).model)
    model.init_weights()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_var.uniform_(0.5, 2)
        norm.running_mean.normal_(0, 0.1)
    return model


def batch(num_objects: int) -> dict:
    sample = DetDataSample(
        metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))
    )
    boxes = torch.tensor([[8.0, 8, 40, 48], [30, 10, 90, 60]])[:num_objects]
    masks = torch.zeros(num_objects, 64, 96, dtype=torch.uint8)
    for mask, box in zip(masks, boxes.int().tolist()):
        mask[box[1] : box[3], box[0] : box[2]] = 1
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=torch.arange(num_objects),
        masks=BitmapMasks(masks.numpy(), 64, 96),
    )
    image = torch.randint(256, (3, 64, 96), generator=torch.Generator().manual_seed(1))
    return dict(inputs=[image.byte()], data_samples=[sample])


def test_it_is_the_stage_of_the_backbone_and_takes_its_file(tmp_path) -> None:
    backbone = ResNet(50, style='caffe').eval()
    torch.save(dict(state_dict=backbone.state_dict()), tmp_path / 'r50.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'r50.pth'))
    layer = ResLayer(50, style='caffe', init_cfg=init).eval()
    layer.init_weights()
    x = torch.randn(2, 1024, 6, 6)
    with torch.no_grad():
        assert torch.equal(layer(x), backbone.layer4(x))
    trained = layer.train()
    assert not any(m.training for m in trained.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize('num_objects', [0, 2])
def test_a_training_step_runs_the_stage_once_and_trains_it(num_objects: int) -> None:
    model = detector().train()
    runs = []
    model.roi_head.shared_head.register_forward_hook(lambda *_: runs.append(1))
    data = model.data_preprocessor(batch(num_objects), True)
    losses = model.loss(**data)
    sum(value for name, value in losses.items() if 'loss' in name).backward()
    assert len(runs) == 1, 'the mask branch takes the features of the box branch'
    assert 'loss_mask' in losses
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f'{name} would stop DDP'


def test_the_mask_loss_is_that_of_features_pooled_anew(monkeypatch) -> None:
    model = detector().train()
    data = model.data_preprocessor(batch(2), True)
    found = []
    for shared in (True, False):
        monkeypatch.setattr(model.roi_head, 'feature_grad_scale', 1.0 if shared else 1.0 + 1e-12)
        torch.manual_seed(0)
        model.zero_grad()
        losses = model.loss(**copy.deepcopy(data))
        losses['loss_mask'].backward()
        gradient = model.roi_head.shared_head.layer4[0].conv1.weight.grad
        found.append((losses['loss_mask'].detach(), gradient.clone()))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-6)


def test_folding_keeps_the_detections() -> None:
    model = detector().eval()
    data = model.data_preprocessor(batch(2), False)
    with torch.no_grad():
        plain = model.predict(**copy.deepcopy(data))[0].pred_instances
        prepare_for_inference(model)
        norms = [m for m in model.roi_head.modules() if isinstance(m, nn.BatchNorm2d)]
        folded = model.predict(**copy.deepcopy(data))[0].pred_instances
    assert not norms and len(plain) == len(folded) > 0
    torch.testing.assert_close(folded.bboxes, plain.bboxes, atol=1e-2, rtol=0)
    torch.testing.assert_close(folded.scores, plain.scores, atol=1e-4, rtol=0)


def test_bad_settings() -> None:
    for settings in (dict(depth=20), dict(depth=50, stage=4)):
        with pytest.raises(ConfigError, match='shared_head'):
            ResLayer(**settings)
    with pytest.raises(ConfigError, match='shared_head'):
        shared = dict(type='ResLayer', depth=18)
        load = load_config('cascade_rcnn_r50_fpn_1x_coco', {'model.backbone.init_cfg': None})
        MODELS.build({**load.model, 'roi_head': {**load.model.roi_head, 'shared_head': shared}})
