"""Time the panoptic fusion, and mmdetection's on the same instances and logits.

    python benchmarks/panoptic.py [--peer PYTHON] [--instances 20 100] [--size 480 640]
        [--device cpu] [--repeat 10] [--threads 1]

``--peer`` is the interpreter of an environment that has mmdetection 3.x. Each side runs in a
process of its own, in turns, so that whatever else the machine does hits both alike; the maps of
both are compared first. On the CPU the clock is the process's CPU time. Only ratios mean anything.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

THINGS, STUFF = 80, 53


def scene(args: argparse.Namespace, instances: int) -> tuple:
    """Instances (boxes' ellipses, some over others) and smooth semantic logits (54, H, W)."""
    import torch

    generator = torch.Generator().manual_seed(instances)
    height, width = args.size
    side = torch.rand(instances, 2, generator=generator) * 0.3 + 0.03
    centre = torch.rand(instances, 2, generator=generator)
    y = torch.linspace(0, 1, height)[None, :, None]
    x = torch.linspace(0, 1, width)[None, None]
    distance = ((y - centre[:, :1, None]) / side[:, :1, None]) ** 2
    masks = distance + ((x - centre[:, 1:, None]) / side[:, 1:, None]) ** 2 <= 1
    scores = torch.rand(instances, generator=generator) * 0.4 + 0.6
    scores = scores.sort(descending=True).values
    labels = torch.randint(0, THINGS, (instances,), generator=generator)
    coarse = torch.randn(1, STUFF + 1, 12, 16, generator=generator)
    logits = torch.nn.functional.interpolate(coarse, (height, width), mode='bilinear')[0]
    parts = (masks, scores, labels, logits.contiguous())
    return tuple(part.to(args.device) for part in parts)


def fusion_of(side: str) -> Any:
    """A function of masks, scores, labels and logits that gives the map (H, W)."""
    if side == 'ours':
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        from mmdet_r2.models.panoptic import HeuristicFusionHead
        from mmdet_r2.models.postprocess import Detections

        head = HeuristicFusionHead(THINGS, STUFF)

        def fuse(masks: Any, scores: Any, labels: Any, logits: Any) -> Any:
            found = Detections(masks.new_zeros(len(masks), 4).float(), scores, labels, masks)
            return head.predict([found], [logits])[0].sem_seg[0]

        return fuse
    from mmdet.models.seg_heads import HeuristicFusionHead as Peer
    from mmengine.config import ConfigDict
    from mmengine.structures import InstanceData

    options = ConfigDict(mask_overlap=0.5, stuff_area_limit=4096)
    peer = Peer(THINGS, STUFF, test_cfg=options)

    def fuse_peer(masks: Any, scores: Any, labels: Any, logits: Any) -> Any:
        found = InstanceData(masks=masks, scores=scores, labels=labels)
        found.bboxes = masks.new_zeros(len(masks), 4).float()
        return peer.predict([found], [logits])[0].sem_seg[0]

    return fuse_peer


def serve(side: str, args: argparse.Namespace) -> None:
    """Answer 'N' lines (a number of instances) with seconds and a checksum of the map."""
    import torch

    torch.set_num_threads(args.threads)
    fuse, scenes = fusion_of(side), {}
    for line in sys.stdin:
        number = int(line)
        if number not in scenes:
            scenes[number] = scene(args, number)
        clock = time.process_time if args.device == 'cpu' else time.perf_counter
        start = clock()
        with torch.no_grad():
            result = fuse(*scenes[number])
        if args.device != 'cpu':
            torch.cuda.synchronize()
        seconds = clock() - start
        # instances are numbered from 1 in both; pixels without a segment have the same number
        print(json.dumps([seconds, result.long().flatten().tolist()[::97]]), flush=True)


def ask(process: subprocess.Popen, number: int) -> tuple[float, list[int]]:
    """One fusion of ``number`` instances by a process."""
    assert process.stdin is not None and process.stdout is not None
    print(number, file=process.stdin, flush=True)
    line = process.stdout.readline()
    if not line:
        sys.exit(f'{process.args}: ended without an answer')
    seconds, pixels = json.loads(line)
    return seconds, pixels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--peer', help='Python that has mmdetection 3.x')
    parser.add_argument('--instances', type=int, nargs='+', default=[20, 100])
    parser.add_argument('--size', type=int, nargs=2, default=(480, 640), metavar=('H', 'W'))
    parser.add_argument('--device', default='cpu', help='cpu or cuda:0')
    parser.add_argument('--repeat', type=int, default=10, help='how often each side is timed')
    parser.add_argument('--threads', type=int, default=1, help='of the CPU')
    parser.add_argument('--worker', choices=('ours', 'peer'), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        serve(args.worker, args)
        return
    options = ['--size', *map(str, args.size), '--device', args.device]
    options += ['--threads', str(args.threads)]
    sides = {'ours': sys.executable} | ({'peer': args.peer} if args.peer else {})
    processes = {
        side: subprocess.Popen(
            [python, '-W', 'ignore', str(Path(__file__).resolve()), '--worker', side, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for side, python in sides.items()
    }
    for number in args.instances:
        maps = {side: ask(process, number)[1] for side, process in processes.items()}
        if len(set(map(tuple, maps.values()))) > 1:
            sys.exit(f'{number} instances: the two maps differ')
        runs = [
            {side: ask(process, number)[0] for side, process in processes.items()}
            for _ in range(args.repeat)
        ]
        text = ', '.join(
            f'{side} {1000 * statistics.median(run[side] for run in runs):.1f} ms' for side in sides
        )
        if args.peer:
            ratios = sorted(run['peer'] / run['ours'] for run in runs)
            text += f': {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) times'
        print(f'{number} instances, {args.size[0]}x{args.size[1]}: {text}')


if __name__ == '__main__':
    main()
