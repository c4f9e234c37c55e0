"""What both sides of a benchmark are given: model config, weights, images, ground truth.

The weights are a checkpoint's, or random ones under which a detector finds things.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import ConfigDict
from torch import nn

from mmdet_r2.config import load_config
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.registry import MODELS, build, init_scope
from mmdet_r2.structures.boxes import boxes_to_rois
from mmdet_r2.zoo import load_checkpoint


@dataclass(frozen=True)
class Work:
    """What is to be timed.

    Attributes:
        mode: 'inference', 'training' or 'dataloader'.
        config: path or name.
        checkpoint: weights; without them random ones.
        peer: interpreter of an environment with mmdetection 3.x, to be timed beside.
        device: 'cpu' or 'cuda:0'.
        threads: of the CPU; 0 for as many as there are cores.
        size: height, width of the images.
        images: files, resized to ``size``; without them coloured blobs.
        batch_size: images computed at once.
        repeat: how often each side is timed.
        warmup: untimed repetitions before.
        clock: 'wall', or 'cpu' for the process's own CPU time.
        plain: the model as trained: batch norms not folded, layout unchanged.
        dtype: 'bfloat16' or 'float16' for mixed precision.
        compile: use torch.compile for inference.
        batches: per repetition, of the data loader.
        overrides: dotted config keys and their values.
    """

    mode: str
    config: str
    checkpoint: str | None = None
    peer: str | None = None
    device: str = 'cpu'
    threads: int = 0
    size: tuple[int, int] = (800, 1216)
    images: Sequence[str] | None = None
    batch_size: int = 1
    repeat: int = 10
    warmup: int = 2
    clock: str = 'wall'
    plain: bool = False
    dtype: str | None = None
    compile: bool = False
    batches: int = 10
    overrides: dict[str, Any] | None = None


def make_job(work: Work, folder: Path) -> Path:
    """Everything both sides need, in files: model config, weights, images, ground truth."""
    before = logging.root.manager.disable
    _check(work)
    logging.disable(logging.INFO)  # a line per parameter about its initialisation
    try:
        return _make_job(work, folder)
    finally:
        logging.disable(before)


def _check(work: Work) -> None:
    """Raise a ConfigError where an option cannot be what is meant."""
    least = dict(repeat=1, batch_size=1, batches=1, warmup=0, threads=0)
    for name, number in least.items():
        value = getattr(work, name)
        if value < number:
            option = name.replace('_', '-')
            raise ConfigError(f'--{option} {value}: expected at least {number}.')
    if min(work.size) < 32:
        raise ConfigError(f'--size {work.size[0]} {work.size[1]}: expected at least 32 32.')
    on_gpu = work.device.startswith('cuda')
    if not on_gpu and work.device != 'cpu':
        raise ConfigError(f'--device {work.device}: expected cpu, or cuda:0.')
    if on_gpu and not torch.cuda.is_available():
        raise ConfigError(f'--device {work.device}: PyTorch sees no GPU here; use --device cpu.')
    if work.dtype and work.mode == 'training' and not on_gpu:
        raise ConfigError(f'--dtype {work.dtype}: training in mixed precision needs --device cuda.')
    if work.compile and work.mode != 'inference':
        raise ConfigError(f'--compile: without effect on {work.mode}; leave it out.')


def _make_job(work: Work, folder: Path) -> Path:
    cfg = load_config(work.config, work.overrides)
    job: dict[str, Any] = dict(
        mode=work.mode,
        threads=work.threads,
        device=work.device,
        clock=work.clock,
        dtype=work.dtype,
        prepare=not work.plain,
        compile=work.compile,
        channels_last=not work.plain,
    )
    if work.mode == 'dataloader':
        loader = cfg.train_dataloader
        job.update(loader=repr(loader.to_dict()), batches=work.batches)
    else:
        model = _model_config(cfg)
        roi_head = model.get('roi_head') or {}
        job.update(
            model=repr(model),
            masks=bool(roi_head.get('mask_head')),
            semantic=bool(roi_head.get('semantic_head')),
        )
        weights = _weights(cfg, work)
        images = [_image(work, i) for i in range(work.batch_size)]
        boxes = [_boxes(work.size, i) for i in range(work.batch_size)]
        labels = [torch.zeros(len(b), dtype=torch.int64) for b in boxes]
        job['tensors'] = str(folder / 'tensors.pth')
        torch.save(dict(weights=weights, images=images, boxes=boxes, labels=labels), job['tensors'])
    path = folder / 'job.json'
    path.write_text(json.dumps(job))
    return path


def _model_config(cfg: Any) -> dict[str, Any]:
    model = cfg.model.to_dict()
    model['backbone']['init_cfg'] = None  # the weights come with the job
    return model


def _weights(cfg: Any, work: Work) -> dict[str, Any]:
    """The checkpoint's weights, or random ones under which the detector finds things.

    Fresh weights make a useless workload: norms that have seen no data let activations explode, and
    an RPN that scores all anchors alike finds nothing that suppression could keep.
    """
    init_scope()
    torch.manual_seed(0)
    model = build(MODELS, ConfigDict(_model_config(cfg)), 'model')
    if work.checkpoint:
        load_checkpoint(model, work.checkpoint)
        return model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            if module.weight is not None:
                # residual branches a quarter as strong as their shortcuts keep the sum bounded
                nn.init.constant_(module.weight, 0.25 if name.endswith(('bn3', '.bns')) else 1.0)
    for part in (model.neck, model.rpn_head, model.roi_head):
        if part is not None:
            part.init_weights()
    _calibrate(model, work)
    return model.state_dict()


def _calibrate(model: Any, work: Work) -> None:
    """Give norms the statistics of an image, and predictors outputs of a trained one's spread."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    with torch.no_grad():
        # Two images: ResNeSt's attention normalises one value per image and channel.
        images = [_image(work, 0), _image(work, 1)]
        data = model.data_preprocessor(dict(inputs=images, data_samples=None), False)
        for module in model.backbone.modules():
            if module not in norms:
                module.training = False
        model.backbone(data['inputs'])
        for norm in norms:
            norm.momentum, norm.training = 0.1, False
        feats = model.eval().extract_feat(data['inputs'][:1])
        if model.rpn_head is not None:
            logits, deltas = model.rpn_head(feats)
            model.rpn_head.rpn_cls.weight.mul_(2 / logits[0].std())
            model.rpn_head.rpn_cls.bias.fill_(-3)
            model.rpn_head.rpn_reg.weight.mul_(0.2 / deltas[0].std())
        shapes = [tuple(work.size)]
        proposals = model.rpn_head.predict(feats, shapes).boxes if model.rpn_head else []
        context = model.roi_head.context(feats) if model.roi_head is not None else None
        for head in model.modules():
            if not isinstance(getattr(head, 'fc_cls', None), nn.Linear) or not proposals:
                continue
            for stage in model.roi_head.stages:
                if stage.box_head is head:
                    rois = boxes_to_rois(proposals)
                    logits = model.roi_head.box_forward(stage, feats, context, rois).logits
                    # one class in a few RoIs stands out, as it does after training
                    head.fc_cls.weight.mul_(2 / logits.std(0).mean())
                    if model.roi_head.selector.score_thr < 0.01:
                        # about a tenth of all (RoI, class) pairs pass, as after training
                        head.fc_cls.bias[-1] = 9.0
    for norm in norms:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.zero_()


def _image(work: Work, index: int) -> Any:
    """(3, H, W) uint8: one of ``--images`` in ``--size``, or coloured blobs."""
    height, width = work.size
    if work.images:
        path = work.images[index % len(work.images)]
        image = cv2.imread(str(path))
        if image is None:
            raise DataError(f'{path}: cannot be read as an image')
        image = cv2.resize(image, (width, height))
    else:
        rng = np.random.default_rng(index)
        image = np.zeros((height, width, 3), np.float32)
        for cells in (4, 16, 64):
            noise = rng.normal(0, 128 / cells**0.5, (cells, cells, 3)).astype(np.float32)
            image = image + cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + 120, 0, 255).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _boxes(size: tuple[int, int], index: int, number: int = 8) -> Any:
    """Ground truth (n, 4) for training: as many and as large as on an average COCO image."""
    rng = np.random.default_rng(100 + index)
    height, width = size
    sides = np.exp(rng.uniform(np.log(0.05), np.log(0.6), (number, 2))) * (width, height)
    corner = rng.uniform(0, 1, (number, 2)) * ((width, height) - sides)
    return torch.tensor(np.concatenate([corner, corner + sides], 1), dtype=torch.float32)
