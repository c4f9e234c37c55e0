"""The command line ``mmdet-r2``: its words, its help, and what stands for a model."""

import argparse
import importlib
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mmdet_r2 import cli
from mmdet_r2.apis import init_detector
from mmdet_r2.apis.model_argument import config_in, find_detector
from mmdet_r2.config import load_config
from mmdet_r2.errors import CheckpointError, ConfigError


def words(table: Mapping[str, tuple[str, Any]] = cli.COMMANDS) -> Iterator[tuple[list[str], str]]:
    """Every command: its words, and its module."""
    for word, (_, follows) in table.items():
        if isinstance(follows, str):
            yield [word], follows
        else:
            for rest, module in words(follows):
                yield [word, *rest], module


def parsed(module: ModuleType, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(('command', 'name'), list(words()), ids=lambda value: str(value))
def test_examples_are_commands(command: list[str], name: str) -> None:
    module = importlib.import_module(f'mmdet_r2.cli.{name}')
    assert module.EXAMPLES
    for example in module.EXAMPLES:
        given = shlex.split(example)
        assert given[: len(command)] == command
        parsed(module, given[len(command) :])


def test_help_imports_neither_torch_nor_mmengine() -> None:
    code = (
        'import sys\nfrom mmdet_r2 import cli\n'
        f'for words in {[command for command, _ in words()]!r}:\n'
        '    try: cli.run([*words, "--help"])\n'
        '    except SystemExit as end: assert not end.code\n'
        'print(sorted(sys.modules.keys() & {"torch", "mmengine", "numpy", "cv2"}))'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == '[]', done.stderr
    for command, _ in words():
        assert f'  mmdet-r2 {" ".join(command)}' in done.stdout, 'an example each'


def test_python_m_is_the_program() -> None:
    command = [sys.executable, '-m', 'mmdet_r2']
    done = subprocess.run([*command, 'nothing'], capture_output=True, text=True)
    assert done.returncode == 2 and 'predict' in done.stderr
    done = subprocess.run([*command, 'config', 'no_such_config'], capture_output=True, text=True)
    assert done.returncode == 2 and 'no_such_config' in done.stderr.splitlines()[-1]


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    command = f'{sys.executable} -m mmdet_r2 config faster_rcnn_r50_fpn_1x_coco --show-origin'
    done = subprocess.run(
        ['bash', '-c', f'set -o pipefail; {command} | head -1'], capture_output=True, text=True
    )
    assert done.stdout.count('\n') == 1 and not done.stderr and done.returncode in (0, 141)


def test_another_broken_pipe_is_no_end() -> None:
    code = 'from mmdet_r2.errors import run_cli\ndef main(): raise BrokenPipeError\nrun_cli(main)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 1 and 'BrokenPipeError' in done.stderr


def test_the_resolved_config_is_one_file(tmp_path: Path) -> None:
    name, out = 'faster_rcnn_r50_fpn_1x_coco', tmp_path / 'one.py'
    cli.run(
        ['convert', 'config', name, str(out), '--cfg-options', 'model.rpn_head.in_channels=256']
    )
    assert load_config(out)._cfg_dict == load_config(name)._cfg_dict


# ------------------------------------------------------------------------------ MODEL [CHECKPOINT]

NAME = 'faster_rcnn_r50_fpn_1x_coco'


def checkpoint(path: Path, text: str | None) -> Path:
    meta = dict(epoch=0, iter=1) | ({} if text is None else dict(cfg=text))
    content = dict(state_dict=dict(a=torch.ones(1)), meta=meta, optimizer={})
    torch.save(content, path)
    return path


def test_a_checkpoint_has_its_config_inside(tmp_path: Path) -> None:
    config = load_config(NAME)
    path = checkpoint(tmp_path / 'iter_3.pth', config.pretty_text)
    found, weights = find_detector(path)
    assert weights == str(path) and load_config(found)._cfg_dict == config._cfg_dict
    assert find_detector('my.py', path) == ('my.py', str(path))


def test_a_folder_is_its_best_checkpoint_else_its_last(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        find_detector(tmp_path)
    text = load_config(NAME).pretty_text
    for number in (1, 2, 10):
        last = checkpoint(tmp_path / f'iter_{number}.pth', text)
    (tmp_path / 'last_checkpoint').write_text(last.name)
    assert find_detector(tmp_path)[1] == str(last)
    best = checkpoint(tmp_path / 'best_coco_bbox_mAP_iter_2.pth', text)
    assert find_detector(tmp_path)[1] == str(best)
    assert find_detector(NAME, tmp_path) == (NAME, str(best))


@pytest.mark.parametrize(
    'text',
    [
        None,
        'model = ',
        'lr = 0.1',
        'model = dict(type=__import__("os").system("true"))',
        'model = dict(type="FasterRCNN")\ncustom_imports = dict(imports=["this"])',
        'model = dict(type="subprocess.Popen", args=["touch", "{0}"])',
        'model = dict(type="FasterRCNN", neck=[dict(type="this.X")])',
        'model = dict(type="FasterRCNN", _scope_="this")',
        'model = dict(type="FasterRCNN")\noptim_wrapper = dict(constructor="this.X")',
    ],
)
def test_nothing_of_the_config_inside_is_run(tmp_path: Path, text: str | None) -> None:
    path = checkpoint(tmp_path / 'x.pth', text and text.format(tmp_path / 'made'))
    with pytest.raises(CheckpointError, match='before'):
        init_detector(config_in(path), path, device='cpu')
    assert 'this' not in sys.modules and not (tmp_path / 'made').exists()


def test_a_name_without_dots_is_no_module(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / 'x.pth', 'model = dict(type="antigravity")')
    with pytest.raises(CheckpointError, match=r'x\.pth.*antigravity'):
        init_detector(config_in(path), path, device='cpu')
    with pytest.raises(ConfigError, match='antigravity'):
        load_config(NAME, {'train_dataloader.collate_fn.type': 'antigravity'})
    assert 'antigravity' not in sys.modules


@pytest.mark.parametrize('given', ['no_such_model', None])
def test_what_is_no_model(given: str | None) -> None:
    with pytest.raises((CheckpointError, ConfigError)):
        find_detector(given)
