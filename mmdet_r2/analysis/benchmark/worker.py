"""The process that measures: one per toolbox, told what to do line by line.

The peer's interpreter runs this file too, by its path: nothing of this package is imported up here.
"""

import ast
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any


class Worker:
    """Builds one toolbox's side of the comparison, and runs it once per request.

    Args:
        side: 'ours' or 'peer'.
        job: what the coordinating process wrote: mode, model, data, options.
    """

    def __init__(self, side: str, job: dict[str, Any]) -> None:
        import torch

        self.torch = torch
        if job['threads']:
            torch.set_num_threads(job['threads'])
        self.job = job
        self.device = torch.device(job['device'])
        self.ours = side == 'ours'
        self.registries = _our_registries() if self.ours else _peer_registries()
        torch.manual_seed(0)
        if job['mode'] == 'dataloader':
            self._start_loading()
        else:
            self._build_model()

    def run(self) -> dict[str, float]:
        """One repetition: seconds it took, and something to compare."""
        clock = time.process_time if self.job['clock'] == 'cpu' else time.perf_counter
        self._wait()
        start = clock()
        result = self.step()
        self._wait()
        return dict(seconds=clock() - start, **result)

    def memory(self) -> float:
        """Peak memory in MB: of the device, on the CPU of the whole process."""
        if self.device.type == 'cuda':
            return self.torch.cuda.max_memory_allocated(self.device) / 2**20
        return peak_memory()

    def _wait(self) -> None:
        if self.device.type == 'cuda':
            self.torch.cuda.synchronize(self.device)

    def _build_model(self) -> None:
        from mmengine.config import ConfigDict

        torch, job = self.torch, self.job
        # written as Python, not JSON: lists and tuples are not the same to every component
        config = ConfigDict(ast.literal_eval(job['model']))
        if not self.ours:
            _complete_for_peer(config)
        model = self.registries['models'].build(config)
        stored = torch.load(job['tensors'], weights_only=True)
        model.load_state_dict(stored['weights'], strict=True)
        model.to(self.device)
        self.model, self.stored = model, stored
        if job['mode'] == 'inference':
            model.eval()
            if self.ours and job['prepare']:
                from mmdet_r2.inference import prepare_for_inference

                dtype = getattr(torch, job['dtype']) if job['dtype'] else None
                prepare_for_inference(model, dtype=dtype, compile=job['compile'])
            self.step = self._infer
            return
        model.train()
        if self.ours:
            from mmdet_r2.inference import keep_freed_memory

            if self.device.type == 'cpu':
                keep_freed_memory()
            if job['channels_last']:
                model.to(memory_format=torch.channels_last)
                model.data_preprocessor.channels_last = True
        parameters = [p for p in model.parameters() if p.requires_grad]
        from mmengine.optim import AmpOptimWrapper, OptimWrapper

        optimizer = torch.optim.SGD(parameters, lr=1e-4, momentum=0.9, weight_decay=1e-4)
        if job['dtype']:
            self.optim = AmpOptimWrapper(
                'dynamic' if job['dtype'] == 'float16' else 1.0, job['dtype'], optimizer=optimizer
            )
        else:
            self.optim = OptimWrapper(optimizer)
        self.step = self._train

    def _samples(self, with_targets: bool) -> dict[str, list]:
        from mmengine.structures import InstanceData, PixelData

        samples = []
        for image, boxes, labels in zip(*(self.stored[k] for k in ('images', 'boxes', 'labels'))):
            shape = tuple(image.shape[1:])
            meta = dict(
                img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), flip=False, img_id=0
            )
            sample = self.registries['sample'](metainfo=meta)
            if with_targets and self.job['semantic']:
                labels_map = _semantic(boxes, labels, shape)
                sample.gt_sem_seg = PixelData(sem_seg=self.torch.from_numpy(labels_map))
            if with_targets:
                gt = InstanceData(bboxes=boxes.clone(), labels=labels.clone())
                if self.job['masks']:
                    gt.masks = self.registries['masks'](_filled(boxes, shape), *shape)
                sample.gt_instances = gt
                sample.ignored_instances = InstanceData(
                    bboxes=boxes[:0].clone(), labels=labels[:0].clone()
                )
            samples.append(sample)
        return dict(inputs=list(self.stored['images']), data_samples=samples)

    def _infer(self) -> dict[str, float]:
        with self.torch.no_grad():
            found = self.model.test_step(self._samples(with_targets=False))
        instances = [sample.pred_instances for sample in found]
        return dict(
            detections=sum(len(i) for i in instances),
            score_sum=sum(float(i.scores.sum()) for i in instances),
        )

    def _train(self) -> dict[str, float]:
        losses = self.model.train_step(self._samples(with_targets=True), self.optim)
        return dict(loss=float(losses['loss']))

    def _start_loading(self) -> None:
        from mmengine.config import ConfigDict
        from mmengine.runner import Runner

        self.loader = Runner.build_dataloader(
            ConfigDict(ast.literal_eval(self.job['loader'])), seed=0
        )
        self.batches = iter(self.loader)
        self.step = self._load

    def _load(self) -> dict[str, float]:
        count = 0
        for _ in range(self.job['batches']):
            try:
                batch = next(self.batches)
            except StopIteration:
                self.batches = iter(self.loader)
                batch = next(self.batches)
            count += len(batch['inputs'])
        return dict(images=count)


def peak_memory() -> float:
    """The most memory that this process has had, in MB."""
    # Linux hands a new process what its parent had as its own ru_maxrss, but not as its VmHWM
    with contextlib.suppress(OSError):
        for line in Path('/proc/self/status').read_text().splitlines():
            if line.startswith('VmHWM:'):
                return int(line.split()[1]) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == 'darwin' else 2**10)


def _our_registries() -> dict[str, Any]:
    from mmdet_r2.registry import MODELS, init_scope
    from mmdet_r2.structures import DetDataSample
    from mmdet_r2.structures.masks import BitmapMasks

    init_scope()
    return dict(models=MODELS, sample=DetDataSample, masks=BitmapMasks)


def _peer_registries() -> dict[str, Any]:
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmdet.utils import register_all_modules

    register_all_modules()
    return dict(models=MODELS, sample=DetDataSample, masks=BitmapMasks)


def _complete_for_peer(model: Any) -> None:
    """Keys that mmdetection reads without a default; our configs leave them out."""
    train_cfg = model.get('train_cfg') or {}
    for part in ('rpn', 'rcnn'):
        options = train_cfg.get(part) or []
        for each in options if isinstance(options, list) else [options]:
            each.setdefault('pos_weight', -1)
            each.setdefault('debug', False)


def _filled(boxes: Any, shape: tuple[int, int]) -> Any:
    """A mask (n, H, W) per box: the ellipse inside it."""
    import numpy as np

    rows, columns = np.ogrid[: shape[0], : shape[1]]
    masks = []
    for x1, y1, x2, y2 in boxes.tolist():
        x = (columns - (x1 + x2) / 2) / max((x2 - x1) / 2, 1)
        y = (rows - (y1 + y2) / 2) / max((y2 - y1) / 2, 1)
        masks.append(x**2 + y**2 <= 1)
    return np.array(masks, dtype=np.uint8).reshape(-1, *shape)


def _semantic(boxes: Any, labels: Any, shape: tuple[int, int]) -> Any:
    """A stuff map (1, H, W): the objects in front of two halves, one of them without label."""
    import numpy as np

    result = np.full(shape, 100, np.uint8)
    result[shape[0] // 2 :] = 255
    for mask, label in zip(_filled(boxes, shape), labels.tolist()):
        result[mask > 0] = label
    return result[None]


def serve(side: str, job_file: str) -> None:
    """Answer 'run' lines on standard input with one JSON line each, until 'stop'."""
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)  # libraries that print must not disturb the answers
    import logging

    logging.disable(logging.WARNING)
    worker = Worker(side, json.loads(Path(job_file).read_text()))
    print(json.dumps(dict(ready=True)), file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == 'stop':
            print(json.dumps(dict(memory=worker.memory())), file=answers, flush=True)
            return
        print(json.dumps(worker.run()), file=answers, flush=True)


if __name__ == '__main__':
    sys.path.pop(0)  # this folder: its modules are none that others import by their bare names
    serve(*sys.argv[1:3])
