"""tools/test.py and what is beneath it, on a toy model and generated images."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from warm_python import python

from mmdet_r2.apis.test import test as run_test
from mmdet_r2.apis.test import test_config as make_config
from mmdet_r2.config import load_config
from mmdet_r2.errors import CheckpointError, ConfigError, DataError
from mmdet_r2.evaluation import load_results
from mmdet_r2.registry import MODELS, init_scope

CLASSES = ('box', 'disc')
SMALL = {
    'model.backbone.depth': 18,
    'model.backbone.init_cfg': None,
    'model.neck.in_channels': [64, 128, 256, 512],
    'model.neck.out_channels': 32,
    'model.rpn_head.in_channels': 32,
    'model.rpn_head.feat_channels': 32,
    'model.roi_head.bbox_roi_extractor.out_channels': 32,
    'model.roi_head.bbox_head.in_channels': 32,
    'model.roi_head.bbox_head.fc_out_channels': 32,
    'model.roi_head.bbox_head.num_classes': 2,
    'model.test_cfg.rpn.nms_pre': 100,
    'model.test_cfg.rpn.max_per_img': 50,
    'model.test_cfg.rcnn.score_thr': 0.0,
    'model.test_cfg.rcnn.max_per_img': 20,
}
MASKS = {
    'model.roi_head.mask_roi_extractor.out_channels': 32,
    'model.roi_head.mask_head.in_channels': 32,
    'model.roi_head.mask_head.conv_out_channels': 32,
    'model.roi_head.mask_head.num_classes': 2,
}


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    """Five images with one box each; a config of them and a checkpoint of chance weights."""
    root = tmp_path_factory.mktemp('toy')
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(5):
        picture = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f'{i}.png'), picture)
        images.append(dict(id=i, file_name=f'{i}.png', height=64, width=96))
        annotations.append(
            dict(
                id=i + 1,
                image_id=i,
                category_id=5 - i % 2,
                bbox=[10, 10, 40, 30],
                area=1200,
                iscrowd=0,
                segmentation=[[10, 10, 50, 10, 50, 40, 10, 40]],
            )
        )
    categories = [dict(id=4, name='disc'), dict(id=5, name='box')]
    (root / 'ann.json').write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=categories))
    )
    paths = {}
    init_scope()
    for name, extra in (('mask_rcnn', MASKS), ('faster_rcnn', {})):
        config = load_config(
            f'{name}_r50_fpn_1x_coco',
            {
                **SMALL,
                **extra,
                'test_dataloader.dataset.data_root': f'{root}/',
                'test_dataloader.dataset.ann_file': 'ann.json',
                'test_dataloader.dataset.data_prefix.img': '',
                'test_dataloader.dataset.metainfo': dict(classes=CLASSES),
                'test_dataloader.dataset.pipeline.1.scale': (96, 64),
                'test_dataloader.num_workers': 0,
                'test_dataloader.persistent_workers': False,
                'test_evaluator.ann_file': str(root / 'ann.json'),
            },
        )
        config.dump(str(root / f'{name}.py'))
        torch.manual_seed(0)
        model = MODELS.build(config.model)
        model.init_weights()
        meta = dict(dataset_meta=dict(classes=CLASSES))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), root / f'{name}.pth')
        paths[name] = (str(root / f'{name}.py'), str(root / f'{name}.pth'))
    return dict(root=root, **paths)


def test_everything_that_one_run_can_leave_behind(toy, tmp_path):
    config, checkpoint = toy['mask_rcnn']
    values = run_test(
        config,
        checkpoint,
        metrics=['bbox', 'segm', 'proposal'],
        classwise=True,
        out=tmp_path / 'results.pkl',
        outfile_prefix=tmp_path / 'coco',
        show_dir=tmp_path / 'drawn',
        score_thr=0.0,
        work_dir=tmp_path / 'work',
    )
    assert {'coco/bbox_mAP', 'coco/segm_mAP_50', 'coco/AR@100'} <= values.keys()
    report = json.loads((tmp_path / 'work' / 'metrics.json').read_text())
    assert report['metrics']['coco/bbox_mAP'] == values['coco/bbox_mAP'] == report['bbox']['AP']
    assert list(report['segm']['per_class']) == list(CLASSES)
    assert report['bbox']['per_class']['box']['num_gt'] == 3
    assert report['bbox']['APl'] is None  # no large object
    results = load_results(tmp_path / 'results.pkl')
    assert [r['img_id'] for r in results] == list(range(5))
    assert results[0]['pred_instances']['masks'][0]['size'] == [64, 96]
    assert 'gt_instances' not in results[0]
    records = json.loads((tmp_path / 'coco.segm.json').read_text())
    assert len(records) == sum(len(r['pred_instances']['labels']) for r in results) > 0
    assert {r['category_id'] for r in records} <= {4, 5}
    drawn = sorted((tmp_path / 'drawn').iterdir())
    assert [p.name for p in drawn] == [f'{i}.png' for i in range(5)]
    assert cv2.imread(str(drawn[0])).shape == (64, 192, 3)  # ground truth beside predictions


def test_preparation_changes_no_result_beyond_rounding(toy, tmp_path):
    config, checkpoint = toy['mask_rcnn']
    found = []
    for prepare in (True, False):
        out = tmp_path / f'{prepare}.pkl'
        run_test(config, checkpoint, out=out, work_dir=tmp_path, prepare=prepare)
        found.append(load_results(out))
    for a, b in zip(*found, strict=True):
        a, b = a['pred_instances'], b['pred_instances']
        assert torch.allclose(a['scores'], b['scores'], atol=1e-3)
        assert len(a['bboxes']) == len(b['bboxes'])


def test_format_only_measures_nothing(toy, tmp_path):
    config, checkpoint = toy['faster_rcnn']
    assert run_test(config, checkpoint, format_only=True, work_dir=tmp_path) == {}
    assert len(json.loads((tmp_path / 'results.bbox.json').read_text())) > 0
    assert not (tmp_path / 'metrics.json').exists()


def test_masks_of_a_box_model(toy, tmp_path):
    config, _ = toy['faster_rcnn']
    with pytest.raises(ConfigError, match=r'FasterRCNN.*mask_head.*--eval bbox'):
        make_config(config, metrics=['bbox', 'segm'])
    with pytest.raises(ConfigError, match='mask_head'):
        make_config(config, overrides={'test_evaluator.metric': ['segm']})
    assert make_config(config, metrics=['proposal']).test_evaluator[0].metric == ['proposal']


def test_classes_of_a_proposal_model(toy, tmp_path):
    config = load_config(toy['faster_rcnn'][0])
    config.model.type = 'RPN'
    config.model.pop('roi_head')
    with pytest.raises(ConfigError, match='--eval proposal'):
        make_config(config, metrics=['bbox'])
    checkpoint = torch.load(toy['faster_rcnn'][1], weights_only=True)
    state = {k: v for k, v in checkpoint['state_dict'].items() if 'roi_head' not in k}
    # names of classes are of no concern to proposals
    meta = dict(dataset_meta=dict(classes=('other',)))
    torch.save(dict(state_dict=state, meta=meta), tmp_path / 'rpn.pth')
    values = run_test(config, tmp_path / 'rpn.pth', metrics=['proposal'], work_dir=tmp_path / 'w')
    assert 0 <= values['coco/AR@1000'] <= 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(metrics=['bbox'], format_only=True), '--format-only'),
        (dict(score_thr=0.5), '--show-dir'),
        (dict(metrics=['mAP']), 'mAP'),
        (dict(out='results.json'), r'\.pkl'),
    ],
    ids=['eval and format', 'threshold without drawing', 'unknown metric', 'suffix'],
)
def test_contradictions(toy, arguments, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run_test(*toy['faster_rcnn'], **arguments, work_dir=tmp_path)


def test_no_coco_metric_to_set(toy):
    config = load_config(toy['faster_rcnn'][0])
    config.test_evaluator = dict(type='DumpDetResults', out_file_path='x.pkl')
    with pytest.raises(ConfigError, match='DumpDetResults'):
        make_config(config, metrics=['bbox'])
    config.test_evaluator = None
    with pytest.raises(ConfigError, match='test_evaluator is missing'):
        make_config(config)


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (('disc', 'box'), 'another order'),
        (('box', 'ring'), 'ring'),
        (('box', 'disc', 'ring'), '3 classes'),
    ],
    ids=['permuted', 'renamed', 'more'],
)
def test_checkpoint_of_other_classes(toy, tmp_path, classes, message):
    config, path = toy['faster_rcnn']
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['meta']['dataset_meta']['classes'] = classes
    torch.save(checkpoint, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match=f'other.pth.*{message}'):
        run_test(config, tmp_path / 'other.pth', work_dir=tmp_path)


def test_names_spelt_differently_are_the_same(toy, tmp_path):
    config, path = toy['faster_rcnn']
    checkpoint = torch.load(path, weights_only=True)
    checkpoint['meta'] = dict(CLASSES=('Box', 'disc'))
    torch.save(checkpoint, tmp_path / 'old.pth')
    run_test(config, tmp_path / 'old.pth', work_dir=tmp_path)


def test_checkpoint_that_leaves_parts_untrained(toy, tmp_path):
    config, path = toy['faster_rcnn']
    checkpoint = torch.load(path, weights_only=True)
    for key in [k for k in checkpoint['state_dict'] if 'fc_cls' in k]:
        del checkpoint['state_dict'][key]
    torch.save(checkpoint, tmp_path / 'part.pth')
    with pytest.raises(CheckpointError, match=r'part\.pth.*untrained.*fc_cls'):
        run_test(config, tmp_path / 'part.pth', work_dir=tmp_path)


def test_heads_for_another_number_of_classes(toy, tmp_path):
    config, checkpoint = toy['faster_rcnn']
    with pytest.raises(ConfigError, match='num_classes is 7'):
        run_test(
            config,
            checkpoint,
            work_dir=tmp_path,
            overrides={'model.roi_head.bbox_head.num_classes': 7},
        )


def test_missing_annotation_file_is_found_before_inference(toy, tmp_path):
    config, checkpoint = toy['faster_rcnn']
    with pytest.raises(DataError, match='absent'):
        run_test(
            config,
            checkpoint,
            work_dir=tmp_path,
            overrides={'test_evaluator.ann_file': 'absent.json'},
        )


def tool(repo: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = [python(), str(repo / 'tools/test.py')]
    if arguments[0].endswith('.sh'):
        command, arguments = ['bash', str(repo / 'tools' / arguments[0])], arguments[1:]
    env = dict(os.environ, PYTHONPATH=str(repo), OMP_NUM_THREADS='1', PYTHON=python())
    return subprocess.run(
        [*command, *arguments], env=env | variables, capture_output=True, text=True, timeout=300
    )


def test_two_processes_of_the_script_agree_with_one(toy, tmp_path, repo):
    config, checkpoint = toy['mask_rcnn']
    for name, start in (('one', ()), ('two', ('dist_test.sh',))):
        number = ('2',) if start else ()
        options = ['--eval', 'bbox', 'segm', '--out', f'{tmp_path}/{name}.pkl']
        options += ['--outfile-prefix', f'{tmp_path}/{name}', '--work-dir', f'{tmp_path}/{name}']
        options += ['--show-dir', f'{tmp_path}/{name}/drawn']
        done = tool(repo, *start, config, checkpoint, *number, *options, PORT='29617')
        assert done.returncode == 0, done.stderr[-3000:]
    for kind in ('bbox', 'segm'):
        one, two = (json.loads((tmp_path / f'{n}.{kind}.json').read_text()) for n in ('one', 'two'))
        assert one == two and len(one) > 0
    reports = [json.loads((tmp_path / n / 'metrics.json').read_text()) for n in ('one', 'two')]
    assert reports[0] == reports[1]
    assert len(load_results(tmp_path / 'two.pkl')) == 5
    assert len(list((tmp_path / 'two' / 'drawn').iterdir())) == 5  # drawn by both
    assert 'Average Precision' in (done.stdout + done.stderr)


@pytest.mark.parametrize(
    ('options', 'code', 'message'),
    [
        (['--eval', 'segm'], 2, 'mask_head'),
        (['--cfg-options', 'test_dataloader.batchsize=2'], 2, 'batchsize'),
    ],
    ids=['segm of boxes', 'misspelt key'],
)
def test_user_errors_are_one_line(toy, tmp_path, repo, options, code, message):
    done = tool(repo, *toy['faster_rcnn'], '--work-dir', str(tmp_path), *options)
    assert done.returncode == code, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith('error: ') and message in last
    assert 'Traceback' not in done.stderr


@pytest.mark.skipif(shutil.which('bash') is None, reason='no bash')
def test_scripts_say_how_they_are_used(repo):
    for name in ('dist_test.sh', 'slurm_test.sh'):
        done = tool(repo, name)
        assert done.returncode == 2 and 'usage' in done.stderr


def test_config_object_is_left_alone(toy):
    config = load_config(toy['faster_rcnn'][0])
    before = Config(config.to_dict())
    make_config(config, metrics=['bbox'], show_dir='x', out='y.pkl')
    assert config.to_dict() == before.to_dict()
