"""The code blocks of the pages, and a copy of the repository in which they run in seconds."""

import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
PAGES = (
    'README.md',
    'CONTRIBUTING.md',
    *(f'docs/{p.name}' for p in sorted(REPO.glob('docs/*.md'))),
)
DEMO = 'configs/demo/mask_rcnn_r2_50_fpn_demo.py'


@dataclass(frozen=True)
class Block:
    """A fenced block: ``reason`` is that of a comment ``<!-- not run: reason -->`` before it."""

    page: str
    line: int
    language: str
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f'{self.page}:{self.line}'


def blocks(page: str, language: str) -> list[Block]:
    """The blocks of one language in a page, in order."""
    text = (REPO / page).read_text(encoding='utf-8')
    pattern = r'(?:<!-- not run: ([^\n]*?) -->\n)?^```(\w+)\n(.*?)^```$'
    return [
        Block(page, text[: found.start()].count('\n') + 1, found[2], found[3], found[1])
        for found in re.finditer(pattern, text, re.S | re.M)
        if found[2] == language
    ]


def sandbox(root: Path) -> Path:
    """A copy of the repository with a few small images in ``data/demo`` and a demo of two steps,
    and a checkpoint of random weights where ``make demo`` leaves its own.
    """
    import torch
    from mmengine.registry import MODELS

    from mmdet_r2.config import load_config
    from mmdet_r2.datasets.demo import generate
    from mmdet_r2.registry import init_scope

    for name in ('mmdet_r2', 'tools', 'benchmarks', 'docs', 'demo', 'model-index.yml', 'Makefile'):
        (root / name).symlink_to(REPO / name)
    shutil.copytree(REPO / 'configs', root / 'configs')
    for path in (root / 'configs/demo').glob('*.py'):
        text = path.read_text(encoding='utf-8')
        text = re.sub(r'(?m)^max_iters = \d+$', 'max_iters = 2', text)
        text = text.replace('end=50', 'end=1').replace('begin=50', 'begin=1')  # the warm-up
        path.write_text(text, encoding='utf-8')
    generate(root / 'data/demo', num_train=8, num_val=2, size=64, max_objects=3)
    activate = root / '.venv/bin/activate'
    activate.parent.mkdir(parents=True)
    activate.write_text(f'export PATH={Path(sys.executable).parent}:"$PATH"\n')
    init_scope()
    config = load_config(root / DEMO)
    model = MODELS.build(config.model)
    model.init_weights()
    meta = dict(dataset_meta=dict(classes=config.classes))
    checkpoint = root / 'work_dirs/demo/iter_500.pth'
    checkpoint.parent.mkdir(parents=True)
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    (checkpoint.parent / 'last_checkpoint').write_text(checkpoint.name)
    return root


def environment() -> dict[str, str]:
    """Of commands that run as in an activated environment, on one thread."""
    path = f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}'
    return dict(os.environ, PATH=path, OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
