"""The index of models: complete, unambiguous, in OpenMMLab's format, and true of the configs."""

import collections
import csv
import functools
import json
import os
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
import yaml

from mmdet_r2.config import load_config
from mmdet_r2.registry import MODELS, init_scope
from mmdet_r2.zoo import LAYOUTS, ZooModel, find_model, models, names
from mmdet_r2.zoo.download import expected_hash

ROOT = Path(__file__).resolve().parent.parent
PEER = os.environ.get('MMDET_R2_PEER')
METAFILES = {
    path.parent.name: yaml.safe_load(path.read_text(encoding='utf-8'))
    for path in sorted(ROOT.glob('configs/*/metafile.yml'))
}
ENTRIES = [entry for content in METAFILES.values() for entry in content['Models']]

# The published systems: the name of the original (its config's file, or mmdetection 3's name),
# ours, the figures, and how the address of the weights ends; blank where nothing was published.
with open(ROOT / 'tests' / 'data' / 'published_systems.csv', newline='', encoding='utf-8') as _file:
    SYSTEMS = {row['original']: row for row in csv.DictReader(_file)}


# ---------------------------------------------------------------------------------- completeness


def test_all_37_models_of_the_seeds_are_here() -> None:
    assert len(SYSTEMS) == 37


@pytest.mark.parametrize('alias', SYSTEMS)
def test_a_published_system_is_found_by_the_name_its_users_know(alias) -> None:
    row = SYSTEMS[alias]
    name, weights = row['name'], row['weights']
    for known in (alias, name, f'configs/a/{alias}.yaml', f'{name}.py'):
        model = find_model(known)
        assert model is not None and model.name == name
    for key in ('box AP', 'mask AP', 'PQ'):
        assert model.results.get(key) == (float(row[key]) if row[key] else None)
    assert len(model.weights) == bool(weights)
    if weights:
        assert model.weights[0].endswith(weights)
        assert model.hash == (expected_hash(model.files[0]) or '')
        assert all(url.endswith(weights) for url in names.urls_of(alias))


def test_multi_scale_testing_is_a_row_of_its_own() -> None:
    plain = find_model('mask_cascade_rcnn_ResNeSt_200_FPN_dcn_syncBN_all_tricks_3x')
    tta = find_model(f'{plain.name}_tta')
    assert tta.results == {'box AP': 53.3, 'mask AP': 47.1} and tta.weights == plain.weights
    assert tta.measured_on == ('COCO test-dev',)


def test_detailed_figures_of_the_first_seed() -> None:
    results = find_model('pytorch_mask_rcnn_R2_101_s4_FPN_2x').results
    keys = [f'{kind} AP{size}' for kind in ('mask', 'box') for size in ('', 50, 75, *'sml')]
    want = [37.1, 59.4, 39.4, 16.6, 40.0, 55.6, 41.8, 62.6, 45.6, 23.4, 45.5, 55.6]
    assert [results[key] for key in keys] == want


def test_training_memory_is_what_was_published() -> None:
    memory = {
        'faster_rcnn_r2_101_fpn_2x_coco': 7.4,
        'mask_rcnn_r2_101_fpn_2x_coco': 7.9,
        'cascade_rcnn_r2_101_fpn_20e_coco': 7.8,
        'cascade_mask_rcnn_r2_101_fpn_20e_coco': 9.5,
        'htc_r2_101_fpn_20e_coco': None,
        'panoptic_fpn_R_50_1x': 4.8,
        'panoptic_fpn_R_50_3x': 4.8,
        'panoptic_fpn_R_101_3x': 6.0,
        'panoptic_fpn_R2_101_3x': 6.0,
    }
    assert {name: find_model(name).memory for name in memory} == memory
    without = ('resnest', 'maskrcnn_benchmark')
    assert all(m.memory is None for m in models() if m.folder in without and m.iterations)


def test_every_config_is_listed_and_nothing_else() -> None:
    listed = collections.Counter(str(model.config.relative_to(ROOT)) for model in models())
    published = {
        str(path.relative_to(ROOT))
        for path in ROOT.glob('configs/*/*.py')
        if path.parent.name != 'demo' and '_base_' not in path.parts
    }
    assert set(listed) == published and set(listed.values()) == {1}


def test_no_name_means_two_models() -> None:
    owners: dict[str, set[str]] = collections.defaultdict(set)
    for model in models():
        for name in (model.name, model.config.stem, *model.aliases):
            owners[name.lower()].add(model.name)
        assert len({model.name, *model.aliases}) == 1 + len(model.aliases), model.name
    assert [names for names in owners.values() if len(names) > 1] == []
    files: dict[str, set[str]] = collections.defaultdict(set)
    for model in models():
        for file in (*model.files, *(Path(file).stem for file in model.files)):
            files[file].add(model.name)
    for file, users in files.items():
        # the same weights, tested in another way; and in the arithmetic of mmdetection 1.x
        plain = {name.removesuffix('_tta').removesuffix('_exact') for name in users}
        assert len(plain) == 1, f'{file} is of {users}'
        assert owners.get(file.lower(), plain) <= users | plain


# ---------------------------------------------------------------------------------- format

KEYS = {
    'Name',
    'Alias',
    'In Collection',
    'Config',
    'Metadata',
    'Results',
    'Weights',
    'Weights Page',
    'Hash',
    'Layout',
}
METADATA = {
    'Backbone',
    'Parameters',
    'Training Data',
    'Epochs',
    'Iterations',
    'Training Memory (GB)',
}
TASKS = {
    'Object Detection': ('box AP',),
    'Instance Segmentation': ('mask AP',),
    'Panoptic Segmentation': ('PQ', 'SQ', 'RQ'),
}


def test_the_index_imports_every_metafile() -> None:
    content = yaml.safe_load((ROOT / 'model-index.yml').read_text(encoding='utf-8'))
    assert set(content) == {'Import'}
    assert sorted(content['Import']) == [f'configs/{name}/metafile.yml' for name in METAFILES]


def test_collections_have_a_paper_and_are_defined_once() -> None:
    found = [c for content in METAFILES.values() for c in content.get('Collections', [])]
    assert len({c['Name'] for c in found}) == len(found)
    for collection in found:
        assert set(collection) == {'Name', 'Metadata', 'Paper'}
        assert collection['Paper']['URL'].startswith('https://arxiv.org/abs/')
        assert set(collection['Paper']) == {'URL', 'Title'}
    used = {entry['In Collection'] for entry in ENTRIES}
    assert used == {c['Name'] for c in found}
    assert all(model.paper for model in models())


@pytest.mark.parametrize('entry', ENTRIES, ids=lambda entry: entry['Name'])
def test_an_entry_is_in_the_format_of_openmmlab(entry) -> None:
    required = {'Name', 'In Collection', 'Config', 'Metadata', 'Layout'}
    assert required <= set(entry) <= KEYS
    data = entry['Metadata']
    assert {'Backbone', 'Parameters', 'Training Data'} <= set(data) <= METADATA
    assert ('Epochs' in data) != ('Iterations' in data)
    for result in entry.get('Results', []):
        assert set(result) == {'Task', 'Dataset', 'Metrics'}
        for metric, value in result['Metrics'].items():
            assert metric.startswith(TASKS[result['Task']]) and isinstance(value, float)
            assert 0 < value < 100
    assert entry['Layout'] in {layout.name for layout in LAYOUTS}
    # one address as text: other tools fetch each of a list; no host without an owner
    weights = entry.get('Weights', 'https://')
    assert (
        isinstance(weights, str) and weights.startswith('https://') and weights == weights.strip()
    )
    assert 'download.openmmlab.com' not in weights
    assert ('Weights' in entry) or 'Hash' not in entry
    if 'Hash' in entry:
        assert entry['Hash'] == expected_hash(weights.rsplit('/', 1)[-1])


# ---------------------------------------------------------------------------------- truth


@functools.cache
def _config(name: str):
    return load_config(find_model(name).config, check=False)


def _label(backbone) -> str:
    """What a metafile calls a backbone."""
    kind = backbone.type
    if kind == 'Res2Net':
        version = 'Res2Net-v1b' if backbone.get('deep_stem', True) else 'Res2Net'
        text = f'{version}-{backbone.depth} {backbone.base_width}w{backbone.scales}s'
    elif kind == 'ResNeXt':
        text = f'ResNeXt-{backbone.depth} {backbone.groups}x{backbone.base_width}d'
    else:
        text = f'{kind}-{backbone.depth}'
    return f'{text} DCNv2' if backbone.get('dcn') else text


@functools.cache
def _parameters(model: str) -> int:
    """Count of the parameters of a model section (JSON), built without memory."""
    init_scope()
    with torch.device('meta'):
        return sum(p.numel() for p in MODELS.build(json.loads(model)).parameters())


@pytest.mark.filterwarnings('ignore:.*which is a no-op')
@pytest.mark.parametrize('folder', METAFILES)
def test_configs_build_what_their_entries_say(folder) -> None:
    for model in models():
        if model.folder != folder:
            continue
        config = _config(model.name)
        config.model.backbone.init_cfg = None
        assert _label(config.model.backbone) == model.backbone, model.name
        parts = {
            key: value
            for key, value in config.model.to_dict().items()
            if key not in ('data_preprocessor', 'test_cfg')
        }
        count = _parameters(json.dumps(parts, sort_keys=True))
        assert f'{count / 1e6:.2f}M' == model.parameters, model.name
        assert _length(config) == (model.epochs, model.iterations), model.name


def _length(config) -> tuple[int | None, int | None]:
    """Epochs, in which a data set that is repeated counts so often; or iterations."""
    dataset, loop = config.train_dataloader.dataset, config.train_cfg
    times = dataset.times if dataset.type == 'RepeatDataset' else 1
    return (None, loop.max_iters) if 'max_iters' in loop else (loop.max_epochs * times, None)


def test_parameters_of_the_published_res2net_systems() -> None:
    """Counted in the original implementation; and what a backbone's swap changes is the same
    everywhere."""
    counts = [61.42, 64.07, 89.06, 96.99, 99.93]
    assert [float(m.parameters[:-1]) for m in models() if m.folder == 'res2net'] == counts

    def millions(name: str) -> float:
        return float(find_model(name).parameters[:-1])

    # published counts of the classifiers, less their 2.05 M: ResNet-50 25.56, ResNet-101 44.55
    for family, schedule in (('faster_rcnn', '1x'), ('mask_rcnn', '1x'), ('cascade_rcnn', '1x')):
        small, large = (millions(f'{family}_{d}_fpn_{schedule}_coco') for d in ('r50', 'r101'))
        assert large - small == pytest.approx(44.55 - 25.56, abs=0.02)
    swap = millions('faster_rcnn_r2_101_fpn_2x_coco') - millions('faster_rcnn_r101_fpn_2x_coco')
    assert swap == pytest.approx(45.23 - 44.55, abs=0.02)


# ---------------------------------------------------------------------------------- mmdetection

COUNT = """
import glob, json, os, sys, warnings
warnings.simplefilter('ignore')
import mmdet, torch
from mmengine.config import Config
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
register_all_modules()
folder = os.path.join(os.path.dirname(mmdet.__file__), '.mim', 'configs')
counts, known = {}, {}
for name in json.load(sys.stdin):
    found = glob.glob(os.path.join(folder, '*', name + '.py'))
    if not found:
        continue
    model = Config.fromfile(found[0]).model
    model.backbone.init_cfg = None
    key = json.dumps({k: v for k, v in model.to_dict().items() if k != 'data_preprocessor'})
    if key not in known:
        with torch.device('meta'):
            known[key] = sum(p.numel() for p in MODELS.build(model).parameters())
    counts[name] = known[key]
print(json.dumps(counts))
"""


@pytest.mark.parity
@pytest.mark.skipif(not PEER, reason='MMDET_R2_PEER names no Python with mmdetection')
def test_facts_and_parameters_are_those_of_mmdetection() -> None:
    """What its metafiles say of the same recipe, and the counts of its own models."""
    command = [PEER, '-c', 'import mmdet; print(mmdet.__file__)']
    package = Path(subprocess.run(command, capture_output=True, text=True).stdout.split()[-1])
    theirs: dict[str, dict] = {}
    for path in (package.parent / '.mim' / 'configs').glob('*/metafile.yml'):
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
        for entry in content.get('Models', []) if isinstance(content, dict) else content:
            theirs[Path(entry['Config']).stem] = entry
    compared: dict[str, ZooModel] = {}
    for model in models():
        for alias in (model.name, *model.aliases):
            entry = theirs.get(alias)
            if entry is None:
                continue
            compared[alias] = model
            metrics = [r['Metrics'] for r in entry.get('Results', [])]
            expected = {k: v for found in metrics for k, v in found.items()}
            assert model.results == pytest.approx(expected), alias
            data = entry.get('Metadata', {})
            assert model.memory == data.get('Training Memory (GB)'), alias
            assert model.epochs == data.get('Epochs'), alias
            file = unquote(entry.get('Weights', '/').rsplit('/', 1)[-1])
            assert model.files == ((file,) if file else ()), alias
    assert len(compared) > 75
    done = subprocess.run(
        [PEER, '-W', 'ignore', '-c', COUNT],
        input=json.dumps([alias for m in models() for alias in (m.name, *m.aliases)]),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert len(counts) > 80
    for alias, count in counts.items():
        assert f'{count / 1e6:.2f}M' == find_model(alias).parameters, alias
