"""Our published configs resolve to mmdetection 3.x's values for the same models."""

import itertools
from pathlib import Path

import pytest
import torch
import yaml
from parity import cases, ours

from mmdet_r2.config import config_files, load_config
from mmdet_r2.registry import MODELS, init_scope

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
FILES = sorted(
    file
    for folder in ('faster_rcnn', 'mask_rcnn', 'cascade_rcnn', 'htc', 'res2net')
    for file in (CONFIGS / folder).glob('*.py')
)
PUBLISHED = {
    model['Name']: model
    for metafile in sorted(CONFIGS.glob('*/metafile.yml'))
    for model in yaml.safe_load(metafile.read_text())['Models']
}
# Where the two differ on purpose: (mmdetection's value, ours).
DIFFERENCES = {
    # mmdetection 3.x ends the schedule before its first milestone; the published run did not.
    'faster_rcnn_r50_caffe_fpn_mstrain_2x_coco': {'param_scheduler.1.end': (12, 24)},
    'faster_rcnn_r50_caffe_dc5_mstrain_3x_coco': {'param_scheduler.1.end': (12, 36)},
}
# mmdetection 3.x evaluates the boxes alone in these models of boxes and masks.
for _name in PUBLISHED:
    if _name.startswith('cascade_mask_rcnn') and _name.endswith('mstrain_3x_coco'):
        DIFFERENCES[_name] = {
            f'{evaluator}.metric{key}': values
            for evaluator in ('val_evaluator', 'test_evaluator')
            for key, values in {
                '': ('bbox', None),
                '.length': (None, 2),
                '.0': (None, 'bbox'),
                '.1': (None, 'segm'),
            }.items()
        }
RECORDED = cases.unpack_text(ours.load('configs')['configs'])


def plain(value):
    """As JSON stores it."""
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize('name', RECORDED)
def test_resolved_values(name):
    (file,) = CONFIGS.glob(f'*/{name}.py')
    config = load_config(file, check=False)
    mine = {key: plain(value) for key, value in cases.flatten(config.to_dict()).items()}
    theirs = RECORDED[name]
    different = {
        key: (theirs.get(key), mine.get(key))
        for key in sorted({*mine, *theirs})
        if theirs.get(key) != mine.get(key)
    }
    assert different == DIFFERENCES.get(name, {})


def test_most_published_models_are_compared():
    assert len(RECORDED) > 70
    five = {name for name, entry in PUBLISHED.items() if '/res2net/' in entry['Config']}
    assert len(five) == 5 and five <= set(RECORDED)
    eight = {name for name in PUBLISHED if 'syncbn-backbone+head' in name}
    assert len(eight) == 8 and eight <= set(RECORDED)


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_config_is_readable_in_one_screen(file):
    text = file.read_text()
    gpus = 16 if '_16x1_' in file.stem else 8
    command = f'# bash tools/dist_train.sh configs/{file.parent.name}/{file.name} {gpus}'
    assert text.splitlines()[0] == command
    assert len(text.splitlines()) <= 40
    bases = [line for line in text.splitlines() if "'../" in line]
    assert len(bases) == 4 and all("'../_base_/" in line for line in bases), 'one level of _base_'


def test_inheritance_is_as_documented():
    """Published configs name four blocks or a config beside them; blocks one of their kind."""
    kinds = ['_base_/models', '_base_/datasets', '_base_/schedules', '_base_']
    for file in sorted({CONFIGS.parent / entry['Config'] for entry in PUBLISHED.values()}):
        config = config_files(file)
        if len(config.bases) == 1:
            (config,) = config.bases
            assert config.path.parent == file.parent
        assert [b.path.parent.relative_to(CONFIGS).as_posix() for b in config.bases] == kinds, file
    for file in sorted(CONFIGS.glob('_base_/*/*.py')):
        bases = config_files(file).bases
        assert len(bases) <= 1 and all(base.path.parent == file.parent for base in bases), file


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
def test_config_has_no_unknown_key(file):
    assert load_config(file).default_scope == 'mmdet_r2'


@pytest.mark.parametrize('name', PUBLISHED)
def test_first_comment_agrees_with_the_metafile(name):
    entry = PUBLISHED[name]
    lines = (CONFIGS.parent / entry['Config']).read_text().splitlines()
    comment = ' '.join(itertools.takewhile(lambda line: line.startswith('#'), lines))
    main = {'box AP', 'mask AP', 'PQ'}
    for result in entry.get('Results', []):
        for metric in main & set(result['Metrics']):
            value = str(result['Metrics'][metric])
            # the old weights of mmdetection 1.x have two figures each
            assert f'{metric} {value}' in comment or ('_v1' in name and value in comment)
    memory = entry['Metadata'].get('Training Memory (GB)')
    assert memory is None or f'{memory} GB' in comment
    if 'Hash' in entry and not entry['Weights'].endswith('.pkl'):  # detectron2 writes another way
        assert entry['Weights'].endswith(f'-{entry["Hash"]}.pth')


def test_names_resolve():
    for name, alias, detector in (
        ('mask_rcnn_r2_101_fpn_2x_coco', 'mask-rcnn_res2net-101_fpn_2x_coco', 'MaskRCNN'),
        ('htc_r2_101_fpn_20e_coco', 'htc_res2net-101_fpn_20e_coco', 'HybridTaskCascade'),
    ):
        for config in (load_config(name), load_config(alias)):
            assert config.model.type == detector
            assert config.model.backbone.type == 'Res2Net'


@pytest.mark.parametrize(
    'name, millions',
    [
        ('faster_rcnn_r2_101_fpn_2x_coco', 61.42),
        ('mask_rcnn_r2_101_fpn_2x_coco', 64.07),
        ('cascade_rcnn_r2_101_fpn_20e_coco', 89.06),
        ('cascade_mask_rcnn_r2_101_fpn_20e_coco', 96.99),
        ('htc_r2_101_fpn_20e_coco', 99.93),
    ],
)
def test_parameter_counts(name, millions):
    init_scope()
    config = load_config(name, {'model.backbone.init_cfg': None})
    with torch.device('meta'):
        model = MODELS.build(config.model)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)
