"""Check a data set: every broken image and annotation, with its file and id.

Exit code 0: clean; 1: problems found; 2: the check could not be made.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from .arguments import add_cfg_options, count_from

EXAMPLES = (
    'check data/fruit/train.json --images data/fruit/train',
    'check data/fruit/train.json --val data/fruit/val.json --fix fixed.json',
    'check configs/mask_rcnn/mask_rcnn_r50_fpn_1x_coco.py',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """SOURCE and options."""
    parser.add_argument('source', help='COCO JSON file; or a config, all its data sets')
    parser.add_argument('--images', metavar='DIR', help='image folder (default: looked for)')
    parser.add_argument('--val', metavar='JSON', help='check this, too, and against each other')
    parser.add_argument('--val-images', metavar='DIR', help='its image folder')
    add_cfg_options(parser)
    parser.add_argument(
        '--workers', type=count_from(1), help='processes that read images (all cores)'
    )
    parser.add_argument(
        '--no-decode', action='store_true', help='look at the headers of images only: quick'
    )
    parser.add_argument(
        '--fix',
        metavar='OUT',
        help='write corrected annotations: a JSON file, or for a config a folder of them',
    )
    parser.add_argument('--json', metavar='FILE', help='write all findings and counts as JSON')
    parser.add_argument('--out-dir', metavar='DIR', help='draw the histograms as PNG')
    parser.add_argument(
        '--show', type=int, default=5, metavar='N', help='findings of a kind to print (5; 0: all)'
    )


def run(args: argparse.Namespace) -> None:
    """Check, print, fix."""
    from ..config import load_config
    from ..datasets import check
    from ..errors import ConfigError, DataError
    from ..files import write_json

    config: Any = None
    if args.source.lower().endswith('.json'):
        subjects = [check.load_subject(args.source, args.images, 'train')]
        if args.val:
            if os.path.realpath(args.val) == os.path.realpath(args.source):
                raise DataError(f'--val {args.val} is the training file itself')
            subjects.append(check.load_subject(args.val, args.val_images, 'val'))
    else:
        for option in ('images', 'val', 'val_images'):
            if getattr(args, option):
                raise ConfigError(f'--{option.replace("_", "-")} goes with a JSON file only')
        config = load_config(args.source, args.cfg_options or {})
        subjects, remarks = check.config_subjects(config)
        print(*remarks, sep='\n', end='\n' if remarks else '')
    found = check.check_subjects(subjects, args.workers, not args.no_decode)
    records = []
    stems = _stems(subjects)
    for subject, stem in zip(subjects, stems):
        numbers = check.statistics(subject)
        anchors = None if config is None else check.anchor_coverage(numbers.boxes, config)
        lines = check.report_lines(subject, found[subject.name], numbers, args.show, anchors)
        print('\n'.join(lines), end='\n\n')
        records.append(check.report_record(subject, found[subject.name], numbers))
        if args.out_dir:
            check.draw(numbers, Path(args.out_dir) / f'{stem}.png', subject.name)
    if args.json:
        write_json(args.json, dict(datasets=records))
    if args.fix:
        paths = [Path(args.fix)]
        if config is not None:
            paths = [Path(args.fix, f'{stem}.json') for stem in stems]
        _fix(subjects, found, paths)
    wrong = sum(len(check.problems(findings)) for findings in found.values())
    if wrong and not args.fix:
        print(f'{wrong} problems; --fix OUT writes annotations without them')
    sys.exit(1 if wrong else 0)


def _stems(subjects: list) -> list[str]:
    """A file name for each data set without suffix: its annotation file's, numbered from the second
    of a name on.
    """
    stems: list[str] = []
    for subject in subjects:
        plain = stem = Path(subject.name.partition(' (')[0]).stem
        number = 1
        while stem in stems:
            number += 1
            stem = f'{plain}_{number}'
        stems.append(stem)
    return stems


def _fix(subjects: list, found: dict, paths: list[Path]) -> None:
    """Write corrected files of the first data sets, one per path, and check them again."""
    from ..datasets import check
    from ..files import write_json

    fixed = []
    for subject in subjects[: len(paths)]:
        leaked = [f for f in found[subject.name] if f.kind.startswith('leak-')]
        after, done = check.fix_content(subject, leaked)
        print(f'{subject.name}: {len(done)} corrections')
        print(''.join(f'  {line}\n' for line in done), end='')
        fixed.append(after)
    again = check.check_subjects([*fixed, *subjects[len(paths) :]])
    for subject, path in zip(fixed, paths):
        write_json(path, subject.content)
        left = check.problems(again[subject.name])
        print(f'{path}: ' + (f'{len(left)} problems left' if left else 'clean'))
        print(''.join(f'  {finding.line()}\n' for finding in left), end='')
