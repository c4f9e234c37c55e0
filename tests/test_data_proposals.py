"""Proposals in files: written by an RPN's test, read by Fast R-CNN's data."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData
from PIL import Image
from small_detector import small_config

from mmdet_r2.apis import test as measure
from mmdet_r2.apis import train
from mmdet_r2.config import load_config
from mmdet_r2.datasets import CocoDataset
from mmdet_r2.datasets.proposals import image_key
from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.evaluation import DumpProposals
from mmdet_r2.registry import MODELS, TRANSFORMS, init_scope

CLASSES = ('circle', 'square', 'star')
SIZE = (96, 64)


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('proposals')
    (root / 'val').mkdir()
    for i in range(3):
        Image.effect_noise(SIZE, 40).convert('RGB').save(root / 'val' / f'{i}.png')
    content = dict(
        images=[dict(id=i, file_name=f'{i}.png', width=96, height=64) for i in range(3)],
        categories=[dict(id=i, name=name) for i, name in enumerate(CLASSES)],
        annotations=[
            dict(id=i, image_id=i, category_id=i, bbox=[10, 8, 40, 30], area=1200, iscrowd=0)
            for i in range(3)
        ],
    )
    (root / 'val.json').write_text(json.dumps(content))
    return root


def dataset(root: Path, file: str | Path, pipeline: list | None = None, **kwargs) -> CocoDataset:
    return CocoDataset(
        'val.json',
        dict(classes=CLASSES),
        str(root),
        dict(img='val/'),
        pipeline=pipeline or [],
        proposal_file=str(file),
        **kwargs,
    )


def proposals(i: int) -> dict[str, np.ndarray]:
    boxes = np.array([[0, 0, 20, 20], [i, 2, 30 + i, 40], [1, 1, 9, 9]], np.float32)
    return dict(bboxes=boxes, scores=np.array([0.9, 0.8, 0.1], np.float32))


def save(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('kind', ['arrays', 'InstanceData', 'results'])
def test_files_of_mmdetection_and_ours_are_read(data, tmp_path, kind, protocol) -> None:
    content: object = {f'val/{i}.png': proposals(i) for i in range(3)}
    if kind == 'InstanceData':
        content = {key: InstanceData(**value) for key, value in content.items()}
    elif kind == 'results':
        content = [
            dict(
                img_id=i,
                img_path=f'/elsewhere/val/{i}.png',
                pred_instances={k: torch.from_numpy(v) for k, v in proposals(i).items()},
            )
            for i in (2, 0, 1)
        ]
    file = save(tmp_path / 'p.pkl', content, protocol)
    pipeline = [dict(type='LoadProposals', num_max_proposals=2)]
    found = dataset(data, file, pipeline)
    for i in range(3):
        assert np.array_equal(found[i]['proposals'], proposals(i)['bboxes'][:2])
        assert np.array_equal(found[i]['proposals_scores'], proposals(i)['scores'][:2])


def test_proposals_move_with_the_objects(data, tmp_path) -> None:
    content = {f'val/{i}.png': proposals(i) for i in range(3)}
    for i in range(3):  # the first proposal is the object itself
        content[f'val/{i}.png']['bboxes'][0] = (10, 8, 50, 38)
    shared = [
        dict(type='RandomChoiceResize', scales=[(48, 32), (192, 128), (150, 90)], keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
    ]
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadProposals'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='ProposalBroadcaster', transforms=shared),
        dict(type='PackDetInputs'),
    ]
    found = dataset(data, save(tmp_path / 'p.pkl', content), pipeline)
    flips = set()
    for i in range(12):
        sample = found[i % 3]['data_samples']
        flips.add(sample.flip)
        assert len(sample.proposals) == 3 and len(sample.gt_instances) == 1
        assert torch.equal(sample.proposals.bboxes[:1], sample.gt_instances.bboxes)
    assert flips == {True, False}
    # without ground truth
    del pipeline[2]
    sample = dataset(data, tmp_path / 'p.pkl', pipeline, test_mode=True)[0]['data_samples']
    assert len(sample.proposals) == 3 and 'bboxes' not in sample.gt_instances


class Dropping:
    """A transform of a user, which keeps one box."""

    def __call__(self, results: dict) -> dict:
        return {**results, 'gt_bboxes': results['gt_bboxes'][:1]}


def test_transforms_that_leave_boxes_out_are_refused(data, tmp_path) -> None:
    init_scope()
    crop = dict(type='RandomCrop', crop_size=(8, 8))
    with pytest.raises(ConfigError, match='RandomCrop'):
        TRANSFORMS.build(dict(type='ProposalBroadcaster', transforms=[crop]))
    broadcaster = TRANSFORMS.build(dict(type='ProposalBroadcaster', transforms=[Dropping()]))
    with pytest.raises(ConfigError, match='left boxes out'):
        broadcaster(dict(proposals=proposals(0)['bboxes']))


class Evil:
    def __reduce__(self):
        return print, ('run',)


@pytest.mark.parametrize(
    ('content', 'named'),
    [
        ({'val/0.png': proposals(0)}, 'val/1.png'),
        ({f'train/{i}.png': proposals(i) for i in range(3)}, 'train/0.png'),
        ([proposals(0)] * 3, 'img_path'),
        ([np.zeros((3, 5))] * 3, 'expected a dict'),
        ({f'val/{i}.png': dict(bboxes=np.zeros((2, 4))) for i in range(3)}, 'scores'),
        (
            {f'val/{i}.png': dict(bboxes=np.zeros((2, 5)), scores=np.zeros(2)) for i in range(3)},
            'b',
        ),
        (
            {f'val/{i}.png': dict(bboxes=np.zeros((2, 4)), scores=np.zeros(3)) for i in range(3)},
            's',
        ),
        (
            {
                f'val/{i}.png': dict(bboxes=np.full((2, 4), np.nan), scores=np.zeros(2))
                for i in '012'
            },
            'finite',
        ),
        ({f'val/{i}.png': Evil() for i in range(3)}, 'print'),
        (dict(a=1), 'val/0.png'),
        ({f'{side}/val/0.png': proposals(0) for side in 'ab'}, 'val/0.png'),
        (5, 'expected a dict'),
    ],
)
def test_bad_files(data, tmp_path, capsys, content, named) -> None:
    file = save(tmp_path / 'bad.pkl', content)
    with pytest.raises(DataError, match=r'bad\.pkl') as error:
        dataset(data, file)
    assert named in str(error.value) and '\n' not in str(error.value)
    assert 'run' not in capsys.readouterr().out.split()


def test_missing_and_cut_files(data, tmp_path) -> None:
    with pytest.raises(DataError, match=r'none\.pkl'):
        dataset(data, 'none.pkl')
    whole = pickle.dumps({f'val/{i}.png': proposals(i) for i in range(3)})
    (tmp_path / 'cut.pkl').write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r'cut\.pkl'):
        dataset(data, tmp_path / 'cut.pkl')


def test_a_pipeline_without_proposals_says_so() -> None:
    init_scope()
    for kind in ('LoadProposals', 'ProposalBroadcaster'):
        with pytest.raises(DataError, match='proposal'):
            TRANSFORMS.build(dict(type=kind))(dict(img_path='a.png'))
    with pytest.raises(ConfigError, match='num_max_proposals'):
        TRANSFORMS.build(dict(type='LoadProposals', num_max_proposals=0))


def test_an_rpn_writes_what_fast_rcnn_trains_on(data, tmp_path, monkeypatch) -> None:
    """Test an RPN with --out, then train and test Fast R-CNN on the file."""
    monkeypatch.chdir(tmp_path)
    model = small_config(mask=False)
    root = dict(metainfo=dict(classes=CLASSES), data_root=str(data), ann_file='val.json')
    sets = dict(type='CocoDataset', data_prefix=dict(img='val/'), **root)
    resize = dict(type='Resize', scale=(96, 64), keep_ratio=True)
    meta = dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    )
    loader = dict(batch_size=1, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
    rpn = load_config('faster_rcnn_r50_fpn_1x_coco')
    rpn.model = {**model, 'type': 'RPN', 'roi_head': None}
    pipeline = [dict(type='LoadImageFromFile'), resize, meta]
    rpn.test_dataloader = dict(dataset=dict(**sets, test_mode=True, pipeline=pipeline), **loader)
    rpn.val_dataloader = rpn.test_dataloader
    rpn.test_evaluator = [
        dict(type='CocoMetric', ann_file=str(data / 'val.json'), metric='proposal_fast'),
        dict(type='DumpProposals', output_dir=str(tmp_path), proposals_file='dumped.pkl'),
    ]
    rpn.val_evaluator = rpn.test_evaluator
    init_scope()
    weights = tmp_path / 'rpn.pth'
    torch.save(dict(state_dict=MODELS.build(rpn.model).state_dict()), weights)
    measure(rpn, weights, out=tmp_path / 'out.pkl', work_dir=tmp_path / 'rpn')

    found = [dataset(data, tmp_path / f'{name}.pkl') for name in ('out', 'dumped')]
    for i in range(3):
        first, second = (each.get_data_info(i)['proposals'] for each in found)
        assert len(first['bboxes']) > 10
        assert np.array_equal(first['scores'], second['scores'])
        assert np.array_equal(first['bboxes'], second['bboxes'])

    fast = rpn.copy()
    fast.model = {**model, 'type': 'FastRCNN', 'rpn_head': None}
    shared = dict(type='ProposalBroadcaster', transforms=[resize])
    load = [dict(type='LoadImageFromFile'), dict(type='LoadProposals', num_max_proposals=50)]
    learn = [*load, dict(type='LoadAnnotations', with_bbox=True), shared, meta]
    sets['proposal_file'] = str(tmp_path / 'out.pkl')
    fast.train_dataloader = dict(dataset=dict(**sets, pipeline=learn), **loader)
    tested = dict(**sets, test_mode=True, pipeline=[*load, shared, meta])
    fast.val_dataloader = fast.test_dataloader = dict(dataset=tested, **loader)
    fast.val_evaluator = dict(type='CocoMetric', ann_file=str(data / 'val.json'), metric='bbox')
    fast.test_evaluator = fast.val_evaluator
    fast.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
    runner = train(fast, work_dir=tmp_path / 'fast')
    numbers = measure(fast, tmp_path / 'fast/epoch_1.pth', work_dir=tmp_path / 'tested')
    assert runner.iter == 3 and 'coco/bbox_mAP' in numbers


def test_the_best_of_each_image_are_dumped(tmp_path) -> None:
    metric = DumpProposals(str(tmp_path), 'best.pkl', num_max_proposals=2)
    worst_first = {k: torch.from_numpy(v[::-1].copy()) for k, v in proposals(0).items()}
    worst_first['labels'] = torch.zeros(3, dtype=torch.long)
    metric.process({}, [dict(img_path='a/val/0.png', pred_instances=worst_first)])
    metric.evaluate(1)
    written = pickle.loads((tmp_path / 'best.pkl').read_bytes())
    assert np.allclose(written[image_key('b/val/0.png')]['scores'], [0.9, 0.8])
