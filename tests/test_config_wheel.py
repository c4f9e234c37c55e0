"""The config files of mmdetection 3.3.0's wheel: those of our folders load and build.

Of the files, names and hashes of what they resolve to are kept here. The wheel is fetched where the
package index is reached, or taken from ``MMDET_R2_PEER_WHEEL``. To write the hashes anew:
``python tests/test_config_wheel.py WHEEL``.
"""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mmdet_r2.config import flatten, load_config
from mmdet_r2.errors import ConfigError
from mmdet_r2.registry import MODELS, init_scope

WHEEL = 'mmdet==3.3.0'
CONFIGS = 'mmdet/.mim/configs/'
FOLDERS = (
    *('cascade_rcnn', 'dcn', 'dcnv2', 'fast_rcnn', 'faster_rcnn', 'gn', 'htc', 'legacy_1.x'),
    *('mask_rcnn', 'panoptic_fpn', 'pascal_voc', 'res2net', 'resnest', 'rpn'),
)
_SYNCBN = 'mask-rcnn_r50-caffe_fpn_rpn-2conv_4conv1fc_syncbn-all'
#: Of other folders, those that consist of parts that are here.
MORE = (
    f'strong_baselines/{_SYNCBN}_amp-lsj-100e_coco',
    f'strong_baselines/{_SYNCBN}_lsj-100e_coco',
    f'strong_baselines/{_SYNCBN}_lsj-400e_coco',
    'fpg/faster-rcnn_r50_fpn_crop640-50e_coco',
    'fpg/mask-rcnn_r50_fpn_crop640-50e_coco',
    'simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-90k_coco',
)
#: RetinaNet, SSD and FCOS are not here: name -> the type that the error names.
LACKING = {
    'faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco': 'FCOSHead',
    'legacy_1.x/retinanet_r50-caffe_fpn_1x_coco_v1': 'RetinaNet',
    'legacy_1.x/retinanet_r50_fpn_1x_coco_v1': 'RetinaNet',
    'legacy_1.x/ssd300_coco_v1': 'SingleStageDetector',
    'pascal_voc/retinanet_r50_fpn_1x_voc0712': 'RetinaNet',
    'pascal_voc/ssd300_voc0712': 'SingleStageDetector',
    'pascal_voc/ssd512_voc0712': 'SingleStageDetector',
}
HASHES: dict[str, str] = json.loads(
    (Path(__file__).parent / 'data' / 'peer_configs.json').read_text()
)


def resolved_hash(path: Path) -> str:
    """Of all values of a config, before any is checked or left out."""
    values = flatten(load_config(path, check=False))
    text = '\n'.join(f'{key}={values[key]!r}' for key in sorted(values) if key != 'default_scope')
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def unpacked(wheel: str | Path, folder: Path) -> Path:
    """The folder of configs of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(CONFIGS)]
        archive.extractall(folder, [name for name in names if name.endswith('.py')])
    return folder / CONFIGS


@pytest.fixture(scope='session')
def peer_configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('wheel')
    wheel = os.environ.get('MMDET_R2_PEER_WHEEL')
    if not wheel:
        command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--retries=0']
        try:
            done = subprocess.run(
                [*command, '--timeout=10', f'--dest={folder}', WHEEL],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f'the package index does not answer, which has {WHEEL}')
        found = list(folder.glob('*.whl'))
        if not found:
            reason = (done.stderr.strip().splitlines() or ['no wheel'])[-1]
            pytest.skip(f'the package index is not reached, which has {WHEEL}: {reason}')
        wheel = str(found[0])
    return unpacked(wheel, folder)


def without_weights(node: Any) -> None:
    """Take out what would be downloaded."""
    if isinstance(node, dict):
        if isinstance(init := node.get('init_cfg'), dict) and init.get('type') == 'Pretrained':
            node['init_cfg'] = None
        for value in node.values():
            without_weights(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            without_weights(value)


def test_the_list_is_whole() -> None:
    of_ours = [name for name in HASHES if name.split('/')[0] in FOLDERS]
    assert len(of_ours) == 176 and set(HASHES) == {*of_ours, *MORE}
    assert len(of_ours) - len(LACKING) == 169


@pytest.mark.slow
@pytest.mark.parametrize('name', sorted(HASHES))
def test_loads_and_builds(name: str, peer_configs: Path) -> None:
    path = peer_configs / f'{name}.py'
    assert resolved_hash(path) == HASHES[name]
    if name in LACKING:
        with pytest.raises(ConfigError, match=LACKING[name]):
            load_config(path)
        return
    config = load_config(path)
    without_weights(config.model)
    init_scope()
    with torch.device('meta'):
        MODELS.build(config.model)


if __name__ == '__main__':
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        root = unpacked(sys.argv[1], Path(temporary))
        files = [file for folder in FOLDERS for file in sorted((root / folder).glob('*.py'))]
        files += [root / f'{name}.py' for name in MORE]
        hashes = {file.relative_to(root).as_posix()[:-3]: resolved_hash(file) for file in files}
    target = Path(__file__).parent / 'data' / 'peer_configs.json'
    target.write_text(json.dumps(hashes, indent=0, sort_keys=True) + '\n')
