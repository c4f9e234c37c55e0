"""The pages say what is true: configs load, files and options exist, and commands run."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from docs_blocks import PAGES, Block, blocks, environment, sandbox
from warm_python import python

from mmdet_r2 import cli

COMMANDS = [block for page in PAGES for block in blocks(page, 'bash')]
SNIPPETS = [block for page in PAGES for block in blocks(page, 'python')]
# Pages whose Python is run by tests of their own.
# Files of other projects, in the tables that say what to run here instead.
THEIRS = {
    'demo/demo.py',
    'tools/analyze_model.py',
    'tools/train_net.py',
    'tools/test_net.py',
    'tools/visualize_data.py',
}
OWN_TESTS = {
    'docs/your_data.md': 'tests/test_data_custom.py and below',
    'docs/your_model_part.md': 'below',
}


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf'```{language}\n(.*?)```', page.read_text(encoding='utf-8'), re.S)


@pytest.fixture(scope='module')
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository where the pages' commands take seconds."""
    return sandbox(tmp_path_factory.mktemp('docs'))


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize('block', [b for b in COMMANDS if b.reason is None], ids=str)
def test_commands_run(copy: Path, block: Block) -> None:
    done = subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', block.text],
        cwd=copy,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f'{block}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}'


@pytest.mark.parametrize('page', [p for p in PAGES if p not in OWN_TESTS])
def test_python_of_the_pages_runs(copy: Path, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict = {}
    monkeypatch.chdir(copy)
    for block in SNIPPETS:
        if block.page == page and block.reason is None:
            if '_base_ =' in block.text:
                continue  # a config: test_configs_of_the_pages_load
            exec(compile(block.text, str(block), 'exec'), names)


def test_reasons_are_reasons() -> None:
    for block in COMMANDS + SNIPPETS:
        assert block.reason is None or block.reason.strip(), block


def test_parts_of_the_model_page_train(copy: Path) -> None:
    page = copy / 'docs/your_model_part.md'
    parts, config = _blocks(page, 'python')
    folder = copy / 'my_project'
    folder.mkdir()
    (folder / '__init__.py').touch()
    (folder / 'parts.py').write_text(parts)
    (folder / 'faster_rcnn_plain.py').write_text(config)
    data = 'train_dataloader.dataset'
    done = subprocess.run(
        [
            python(), 'tools/train.py', 'my_project/faster_rcnn_plain.py',
            '--work-dir', 'work_dirs/plain', '--cfg-options', f'{data}.data_root=data/demo/',
            f'{data}.metainfo.classes=circle,triangle,square,ring,cross',
            f'{data}.ann_file=annotations/instances_train.json', f'{data}.data_prefix.img=train/',
            f'{data}.pipeline.2.scale=(96,96)', 'model.roi_head.bbox_head.num_classes=5',
            'train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
            'train_cfg.max_epochs=1', 'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None',
            'default_hooks.logger.interval=1', 'default_hooks.checkpoint.save_best=None',
        ],
        cwd=copy, env=environment() | {'PYTHONPATH': '.'}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(re.findall('loss_cls: ', done.stdout)) == 4
    assert list((copy / 'work_dirs/plain').glob('epoch_1.pth'))


@pytest.mark.parametrize('number', range(2))
def test_configs_of_the_data_page_load(repo: Path, tmp_path: Path, number: int) -> None:
    from mmdet_r2.config import load_config

    text = _blocks(repo / 'docs' / 'your_data.md', 'python')[number]
    assert "_base_ = ['./" in text
    file = tmp_path / 'fruit.py'
    file.write_text(text.replace("_base_ = ['./", f"_base_ = ['{repo}/configs/"))
    config = load_config(file)
    classes = config.train_dataloader.dataset.metainfo.classes
    assert config.model.roi_head.bbox_head.num_classes == len(classes) == 2
    assert config.test_dataloader.dataset.metainfo.classes == classes


def test_config_with_stuff_maps_on_the_data_page(repo: Path, tmp_path: Path) -> None:
    from mmdet_r2.config import load_config

    text = _blocks(repo / 'docs' / 'your_data.md', 'python')[2]
    file = tmp_path / 'fruit.py'
    file.write_text(text.replace("_base_ = ['./", f"_base_ = ['{repo}/configs/"))
    config = load_config(file)
    published = load_config(repo / 'configs/htc/htc_r50_fpn_1x_coco.py')
    heads, theirs = config.model.roi_head, published.model.roi_head
    for kind in ('bbox_head', 'mask_head'):
        for head, other in zip(heads[kind], theirs[kind], strict=True):
            assert head.num_classes == 2
            for key in ('type', 'with_conv_res', 'reg_class_agnostic', 'loss_cls', 'loss_bbox'):
                assert head.get(key) == other.get(key)
    for head, other in zip(heads.bbox_head, theirs.bbox_head, strict=True):
        assert head.bbox_coder.target_stds == other.bbox_coder.target_stds
    assert heads.semantic_head == {**theirs.semantic_head, 'num_classes': 4}
    assert config.train_dataloader.dataset.pipeline[1].with_seg
    assert config.train_dataloader.dataset.data_prefix.seg == 'stuffthingmaps/train/'


def test_panoptic_config_and_annotation_file_on_the_data_page(repo: Path, tmp_path: Path) -> None:
    import json

    import cv2
    import numpy as np

    from mmdet_r2.config import load_config
    from mmdet_r2.datasets import CocoPanopticDataset

    page = repo / 'docs' / 'your_data.md'
    text = _blocks(page, 'python')[3]
    file = tmp_path / 'fruit.py'
    file.write_text(text.replace("_base_ = ['./", f"_base_ = ['{repo}/configs/"))
    config = load_config(file)
    settings = config.train_dataloader.dataset
    things, stuff = (len(settings.metainfo[f'{kind}_classes']) for kind in ('thing', 'stuff'))
    heads = config.model.roi_head
    assert heads.bbox_head.num_classes == heads.mask_head.num_classes == things
    for head in (config.model.semantic_head, config.model.panoptic_fusion_head):
        assert (head.num_things_classes, head.num_stuff_classes) == (things, stuff)

    content = json.loads(_blocks(page, 'json')[1])
    ids = np.zeros((480, 640), int)
    for segment in content['annotations'][0]['segments_info']:
        x, y, w, h = segment['bbox']
        rows = segment['area'] // w
        ids[y : y + rows, x : x + w] = segment['id']
        assert rows * w == segment['area'] and rows <= h
    root = tmp_path / 'data'
    for prefix in settings.data_prefix.values():
        (root / prefix).mkdir(parents=True)
    (root / settings.ann_file).write_text(json.dumps(content))
    cv2.imwrite(str(root / settings.data_prefix.img / 'a.jpg'), np.zeros((480, 640, 3), np.uint8))
    colours = np.stack([ids >> 16, ids >> 8 & 255, ids & 255], axis=-1)
    cv2.imwrite(str(root / settings.data_prefix.seg / 'a.png'), colours)
    dataset = CocoPanopticDataset(
        settings.ann_file,
        settings.metainfo,
        str(root),
        settings.data_prefix,
        settings.filter_cfg,
        pipeline=settings.pipeline,
    )
    sample = dataset[0]['data_samples']
    assert sample.gt_instances.labels.tolist() == [1]
    assert sample.gt_sem_seg.sem_seg.unique().tolist() == [1, 2, 255]


@pytest.mark.parametrize('page', PAGES)
def test_named_files_exist(repo: Path, page: str) -> None:
    text = (repo / page).read_text(encoding='utf-8')
    names = set(re.findall(r'\]\(([^)#:]+)\)', text))  # links
    names = {str((repo / page).parent.relative_to(repo) / name) for name in names}
    code = [*_blocks(repo / page, 'bash'), *re.findall(r'`([^`\n]+)`', text)]
    for line in '\n'.join(code).splitlines():
        names |= set(
            re.findall(r'(?<![\w/.])(?:tools|demo|configs|docs)/[\w./-]+\.(?:py|sh|md)', line)
        )
    names -= {'configs/fruit.py'}  # made by the reader
    names -= THEIRS
    missing = [name for name in sorted(names) if not (repo / name).exists()]
    assert not missing


def _options_of(command: str, repo: Path, capsys: pytest.CaptureFixture) -> set[str]:
    """What the help of a script or of ``mmdet-r2 WORDS`` lists; in this process, where its imports
    are done already."""
    argv, sys.argv = sys.argv, [command, '--help']
    try:
        with pytest.raises(SystemExit) as end:
            if command.endswith('.py'):
                runpy.run_path(str(repo / command), run_name='__main__')
            else:
                cli.run([*command.split(), '--help'])
    finally:
        sys.argv = argv
    assert not end.value.code
    return set(re.findall(r'(--[a-z-]+)', capsys.readouterr().out))


def _words(line: str) -> str:
    """The words of ``mmdet-r2`` at the beginning of a line, up to the first argument."""
    words, table = [], cli.COMMANDS
    for word in line.split():
        words.append(word)
        table = table[word][1]
        if isinstance(table, str):
            break
    return ' '.join(words)


def test_options_in_commands_exist(repo: Path, capsys: pytest.CaptureFixture) -> None:
    used: dict[str, set[str]] = {}
    for page in PAGES:
        for line in '\n'.join(_blocks(repo / page, 'bash')).splitlines():
            line = line.partition('#')[0]
            script = re.search(r'python3? ((?:tools|demo)/\S+\.py)', line)
            program = re.search(r'mmdet-r2 ([^"]+)', line)
            if script or program:
                name = script[1] if script else _words(program[1])
                used.setdefault(name, set()).update(re.findall(r'(--[a-z-]+)', line))
    assert {'train', 'test', 'convert data to-coco', 'tools/install.py'} <= set(used)
    for name, options in used.items():
        known = _options_of(name, repo, capsys)
        assert options <= known, f'{name}: {sorted(options - known)}'


def test_make_targets_in_pages_exist(repo: Path) -> None:
    targets = set(re.findall(r'^([a-z-]+):', (repo / 'Makefile').read_text(), re.M))
    for page in PAGES:
        text = '\n'.join(_blocks(repo / page, 'bash'))
        assert set(re.findall(r'^make ([a-z-]+)', text, re.M)) <= targets
