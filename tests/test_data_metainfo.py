"""Keys and colours of a metainfo are checked, wherever a data set is built from one."""

from pathlib import Path

import pytest

from mmdet_r2.config import load_config
from mmdet_r2.datasets import CocoDataset, CocoPanopticDataset, CustomDataset, VOCDataset
from mmdet_r2.errors import ConfigError

NAMES = ('cat', 'dog')


class Own(CustomDataset):
    classes = NAMES


@pytest.mark.parametrize('kind', [CocoDataset, CocoPanopticDataset, VOCDataset, Own])
@pytest.mark.parametrize(
    ('metainfo', 'named'),
    [
        (dict(CLASSES=NAMES), 'classes'),
        (dict(klasses=NAMES), 'classes'),
        (dict(Palette=[(1, 2, 3)]), 'palette'),
        (dict(PALETTE=[(1, 2, 3)]), 'palette'),
        ({5: 'x'}, '5'),
    ],
)
def test_misspelt_keys(kind: type, metainfo: dict, named: str) -> None:
    with pytest.raises(ConfigError) as error:
        kind._load_metainfo(metainfo)
    assert named in str(error.value)


@pytest.mark.parametrize('kind', [CocoDataset, VOCDataset, Own])
@pytest.mark.parametrize(
    ('palette', 'named'),
    [
        ([(1, 2, 3)], '1 colour'),
        ([(1, 2, 3)] * 3, '3 colours'),
        ([(1, 2, 3), (1, 2)], 'palette.1'),
        ([(1, 2, 3), (1, 2, 300)], '300'),
        ([(1, 2, 3), (0.1, 0.2, 0.3)], '0.1'),
        ([(1, 2, 3), 'red'], "'red'"),
        ('reds', "'reds'"),
        (7, '7'),
    ],
)
def test_palettes(kind: type, palette: object, named: str) -> None:
    with pytest.raises(ConfigError) as error:
        kind._load_metainfo(dict(classes=NAMES, palette=palette))
    assert named in str(error.value) and 'palette' in str(error.value)


def test_sound_ones_and_keys_of_ones_own() -> None:
    given = dict(classes=NAMES, palette=[[1, 2, 3], (4, 5, 6)], author='me', dataset_type='own')
    for kind in (CocoDataset, VOCDataset, Own):
        loaded = kind._load_metainfo(given)
        assert loaded['classes'] == NAMES and loaded['author'] == 'me'
        assert len(kind._load_metainfo(dict(classes=NAMES))['palette']) == 2
    things = dict(thing_classes=('cat',), stuff_classes=('sky',))
    assert CocoPanopticDataset._load_metainfo(things)['classes'] == ('cat', 'sky')


def test_the_key_of_a_config_is_named(repo: Path) -> None:
    key = 'train_dataloader.dataset.metainfo'
    with pytest.raises(ConfigError, match=rf'{key}\.CLASSES: .*classes'):
        load_config('mask_rcnn_r50_fpn_1x_coco', {key: dict(CLASSES=NAMES)})
