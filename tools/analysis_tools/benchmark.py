"""Time inference, training steps or data loading, and the peer's on the same work.

python tools/analysis_tools/benchmark.py {inference,training,dataloader} CONFIG [CHECKPOINT]
    [--peer PYTHON] ...

Every toolbox is measured in a process of its own, with nothing else in it. With ``--peer``, the
interpreter of an environment that has mmdetection 3.x, its process gets the same model config,
weights and images, and the two take turns, so that whatever else the machine does hits both alike.
"""

import argparse
import ast
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Nothing of mmdet_r2 is imported up here: the peer's interpreter runs this file too (as --worker).


# ----------------------------------------------------------------------------------------------
# The side that measures: one process per toolbox, told what to do line by line.


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
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == 'darwin' else 2**10)

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


# ----------------------------------------------------------------------------------------------
# The side that asks.


class Remote:
    """A worker process."""

    def __init__(self, name: str, python: str, side: str, job_file: Path) -> None:
        self.name = name
        environment = dict(os.environ)
        root = str(Path(__file__).resolve().parents[2])
        if side == 'ours':
            environment['PYTHONPATH'] = os.pathsep.join(
                [root, *filter(None, [environment.get('PYTHONPATH')])]
            )
        else:
            environment.pop('PYTHONPATH', None)
        self.errors = tempfile.TemporaryFile('w+')  # noqa: SIM115  closed with the object
        self.process = subprocess.Popen(
            [python, str(Path(__file__).resolve()), '--worker', side, str(job_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environment,
            cwd=tempfile.gettempdir() if side == 'peer' else None,
        )
        self._answer()

    def ask(self, what: str) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(what + '\n')
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            from mmdet_r2.errors import UserError

            last = self.errors.read().strip().splitlines()
            raise UserError(f'{self.name}: {last[-1] if last else "the process ended"}')
        return json.loads(line)


def make_job(args: argparse.Namespace, folder: Path) -> Path:
    """Everything both sides need, in files: model config, weights, images, ground truth."""
    import logging

    from mmdet_r2.config import load_config

    logging.disable(logging.INFO)  # a line per parameter about its initialisation
    cfg = load_config(args.config, args.cfg_options)
    job: dict[str, Any] = dict(
        mode=args.mode,
        threads=args.threads,
        device=args.device,
        clock=args.clock,
        dtype=getattr(args, 'dtype', None),
        prepare=not getattr(args, 'plain', False),
        compile=getattr(args, 'compile', False),
        channels_last=not getattr(args, 'plain', False),
    )
    if args.mode == 'dataloader':
        loader = cfg.train_dataloader
        job.update(loader=repr(loader.to_dict()), batches=args.batches)
    else:
        import torch

        model = _model_config(cfg)
        roi_head = model.get('roi_head') or {}
        job.update(
            model=repr(model),
            masks=bool(roi_head.get('mask_head')),
            semantic=bool(roi_head.get('semantic_head')),
        )
        weights = _weights(cfg, args)
        images = [_image(args, i) for i in range(args.batch_size)]
        boxes = [_boxes(args.size, i) for i in range(args.batch_size)]
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


def _weights(cfg: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The checkpoint's weights, or random ones under which the detector finds things.

    Fresh weights make a useless workload: norms that have seen no data let activations explode, and
    an RPN that scores all anchors alike finds nothing that suppression could keep.
    """
    import torch
    from torch import nn

    from mmdet_r2.registry import MODELS, init_scope
    from mmdet_r2.zoo import load_checkpoint

    init_scope()
    torch.manual_seed(0)
    model = MODELS.build(_to_config(_model_config(cfg)))
    if args.checkpoint:
        load_checkpoint(model, args.checkpoint)
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
    _calibrate(model, args)
    return model.state_dict()


def _to_config(model: dict[str, Any]) -> Any:
    from mmengine.config import ConfigDict

    return ConfigDict(model)


def _calibrate(model: Any, args: argparse.Namespace) -> None:
    """Give norms the statistics of an image, and predictors outputs of a trained one's spread."""
    import torch
    from torch import nn

    from mmdet_r2.structures.boxes import boxes_to_rois

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum, norm.training = 1.0, True
    with torch.no_grad():
        # Two images: ResNeSt's attention normalises one value per image and channel.
        images = [_image(args, 0), _image(args, 1)]
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
        shapes = [tuple(args.size)]
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
        norm.num_batches_tracked.zero_()


def _image(args: argparse.Namespace, index: int) -> Any:
    """(3, H, W) uint8: one of ``--images`` in ``--size``, or coloured blobs."""
    import cv2
    import numpy as np
    import torch

    height, width = args.size
    if args.images:
        path = args.images[index % len(args.images)]
        image = cv2.imread(str(path))
        if image is None:
            from mmdet_r2.errors import DataError

            raise DataError(f'{path}: cannot be read as an image')
        image = cv2.resize(image, (width, height))
    else:
        rng = np.random.default_rng(index)
        image = np.zeros((height, width, 3), np.float32)
        for cells in (4, 16, 64):
            noise = rng.normal(0, 128 / cells**0.5, (cells, cells, 3)).astype(np.float32)
            image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + 120, 0, 255).astype(np.uint8)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def _boxes(size: tuple[int, int], index: int, number: int = 8) -> Any:
    """Ground truth (n, 4) for training: as many and as large as on an average COCO image."""
    import numpy as np
    import torch

    rng = np.random.default_rng(100 + index)
    height, width = size
    sides = np.exp(rng.uniform(np.log(0.05), np.log(0.6), (number, 2))) * (width, height)
    corner = rng.uniform(0, 1, (number, 2)) * ((width, height) - sides)
    return torch.tensor(np.concatenate([corner, corner + sides], 1), dtype=torch.float32)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run both sides in turn and return the figures."""
    from mmdet_r2.errors import UserError

    if args.peer and not Path(args.peer).exists():
        raise UserError(f'--peer {args.peer}: no such Python interpreter')
    with tempfile.TemporaryDirectory() as name:
        job = make_job(args, Path(name))
        remotes = [Remote('mmdet_r2', sys.executable, 'ours', job)]
        if args.peer:
            remotes.append(Remote('peer', args.peer, 'peer', job))
        for remote in remotes:
            for _ in range(args.warmup):
                remote.ask('run')
        runs: dict[str, list[dict]] = {remote.name: [] for remote in remotes}
        for repeat in range(args.repeat):
            # the first of a pair may find the machine warmer or cooler: take turns at being it
            for remote in remotes if repeat % 2 == 0 else remotes[::-1]:
                runs[remote.name].append(remote.ask('run'))
        memory = {remote.name: remote.ask('stop')['memory'] for remote in remotes}
    return _figures(args, runs, memory)


def _figures(
    args: argparse.Namespace, runs: dict[str, list[dict]], memory: dict[str, float]
) -> dict[str, Any]:
    import torch

    per = dict(inference=args.batch_size, training=1, dataloader=args.batches)[args.mode]
    figures: dict[str, Any] = dict(
        mode=args.mode,
        config=str(args.config),
        unit=dict(inference='image', training='iteration', dataloader='batch')[args.mode],
        batch_size=args.batch_size,
        size=list(args.size) if args.mode != 'dataloader' else None,
        device=_device_name(args.device),
        threads=args.threads or torch.get_num_threads(),
        clock=args.clock,
        torch=torch.__version__,
        sides={},
    )
    for name, values in runs.items():
        seconds = [value['seconds'] / per for value in values]
        figures['sides'][name] = dict(
            median=statistics.median(seconds),
            fastest=min(seconds),
            slowest=max(seconds),
            memory=memory[name],
            last={k: v for k, v in values[-1].items() if k != 'seconds'},
        )
    if len(runs) == 2:
        ours, peer = runs.values()
        ratios = [b['seconds'] / a['seconds'] for a, b in zip(ours, peer)]
        figures['speedup'] = dict(
            median=statistics.median(ratios), lowest=min(ratios), highest=max(ratios)
        )
        figures['memory_ratio'] = memory['mmdet_r2'] / memory['peer']
    return figures


def _device_name(device: str) -> str:
    import torch

    if device.startswith('cuda'):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.partition(':')[2].strip() for line in lines if 'model name' in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def report(figures: dict[str, Any]) -> str:
    """The figures as text."""
    unit = figures['unit']
    what = figures['config']
    if figures['size']:
        what += f', {figures["size"][0]}x{figures["size"][1]}, batch {figures["batch_size"]}'
    lines = [
        f'{figures["mode"]}: {what}',
        f'device: {figures["device"]}, {figures["threads"]} threads, torch {figures["torch"]}, '
        f'{figures["clock"]} time',
        f'{"":10} {"s/" + unit:>14} {"fastest":>9} {"slowest":>9} {"peak MB":>9}',
    ]
    for name, side in figures['sides'].items():
        lines.append(
            f'{name:10} {side["median"]:14.4f} {side["fastest"]:9.4f} {side["slowest"]:9.4f} '
            f'{side["memory"]:9.0f}   ' + ', '.join(f'{k} {v:.4g}' for k, v in side['last'].items())
        )
    if 'speedup' in figures:
        s = figures['speedup']
        lines.append(
            f'speed-up over the peer: {s["median"]:.2f} (median of pairs; {s["lowest"]:.2f} to '
            f'{s["highest"]:.2f}), memory x {figures["memory_ratio"]:.2f}'
        )
    return '\n'.join(lines)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Time a detector, beside the peer if there is one.'
    )
    parser.add_argument('mode', choices=('inference', 'training', 'dataloader'))
    parser.add_argument('config', help='config file, or the name of one that comes with mmdet_r2')
    parser.add_argument(
        'checkpoint', nargs='?', help='weights; without them random ones that find things'
    )
    parser.add_argument(
        '--peer', metavar='PYTHON', help='interpreter of an environment with mmdetection 3.x'
    )
    parser.add_argument('--device', default='cpu', help='cpu or cuda:0')
    parser.add_argument('--threads', type=int, default=0, help='of the CPU; 0: as many as cores')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(800, 1216), metavar=('H', 'W'), help='of the images'
    )
    parser.add_argument('--images', nargs='+', help='image files, resized to --size')
    parser.add_argument('--batch-size', type=int, default=1, help='images computed at once')
    parser.add_argument('--repeat', type=int, default=10, help='how often each side is timed')
    parser.add_argument('--warmup', type=int, default=2, help='untimed repetitions before')
    parser.add_argument(
        '--clock',
        choices=('wall', 'cpu'),
        default='wall',
        help="what counts: elapsed time, or the process's own CPU time (on a machine that others "
        'use too, with --threads 1)',
    )
    parser.add_argument(
        '--plain', action='store_true', help='the model as trained: no folding, no channels_last'
    )
    parser.add_argument('--dtype', choices=('bfloat16', 'float16'), help='mixed precision')
    parser.add_argument('--compile', action='store_true', help='torch.compile (inference)')
    parser.add_argument('--batches', type=int, default=10, help='per repetition (dataloader)')
    parser.add_argument('--json', metavar='FILE', help='also write the figures there')
    parser.add_argument(
        '--cfg-options', nargs='+', action=_dict_action(), metavar='KEY=VALUE', help='overrides'
    )
    return parser.parse_args()


def _dict_action() -> Any:
    from mmengine.config import DictAction

    return DictAction


def main() -> None:
    """Parse, measure, print."""
    args = parse_args()
    if args.repeat < 1 or args.batch_size < 1:
        from mmdet_r2.errors import UserError

        raise UserError('--repeat and --batch-size must be 1 or more')
    figures = measure(args)
    print(report(figures))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=1) + '\n')


if __name__ == '__main__':
    if sys.argv[1:2] == ['--worker']:
        serve(*sys.argv[2:4])
    else:
        from mmdet_r2.errors import run_cli

        run_cli(main)
