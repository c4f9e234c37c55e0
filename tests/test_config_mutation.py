"""A letter wrong in any key of a shipped config is reported, nearly always with the right one."""

import copy
import random
import string
from collections.abc import Iterator
from typing import Any

import pytest
from mmengine.config import Config

from mmdet_r2.config import load_config, shipped_configs
from mmdet_r2.config_check import check_config, known_keys
from mmdet_r2.errors import ConfigError

LETTERS = string.ascii_lowercase + '_'


def keys(node: Any, path: tuple = ()) -> Iterator[tuple]:
    items: Any = ()
    if isinstance(node, dict):
        items = node.items()
        yield from ((*path, key) for key in node)
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    for key, value in items:
        yield from keys(value, (*path, key))


def mutated(word: str, rng: random.Random) -> str:
    """``word`` with one letter left out, replaced, added, or swapped with the next."""
    while True:
        i = rng.randrange(len(word))
        new = rng.choice(
            [
                word[:i] + word[i + 1 :],
                word[:i] + rng.choice(LETTERS) + word[i + 1 :],
                word[:i] + rng.choice(LETTERS) + word[i:],
                word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :],
            ]
        )
        # a leading underscore marks a key as the user's own
        if new and new != word and not new.startswith('_'):
            return new


def renamed(tree: dict, path: tuple, new: str) -> Config:
    tree = copy.deepcopy(tree)
    node: Any = tree
    for part in path[:-1]:
        node = node[part]
    items = [(new if key == path[-1] else key, value) for key, value in node.items()]
    node.clear()
    node.update(items)
    return Config(tree)


def survey(names: list[str], share: float) -> tuple[int, list[str], list[str]]:
    """Mutate a share of all keys: how many were tried, which were missed, which had no hint."""
    rng = random.Random(0)
    tried, missed, unhelpful = 0, [], []
    for name in names:
        tree = known_keys(load_config(name)).to_dict()
        for path in keys(tree):
            if rng.random() > share:
                continue
            tried += 1
            new = mutated(str(path[-1]), rng)
            what = f'{name}: {".".join(map(str, path))} -> {new}'
            try:
                check_config(renamed(tree, path, new))
            except ConfigError as error:
                if f'did you mean {path[-1]}?' not in str(error):
                    unhelpful.append(what)
            else:
                missed.append(what)
    return tried, missed, unhelpful


@pytest.mark.parametrize(
    ('names', 'share'),
    [
        pytest.param(
            ['mask_rcnn_r2_101_fpn_2x_coco', 'faster_rcnn_r50_caffe_fpn_mstrain_3x_coco'], 0.6
        ),
        pytest.param(None, 1.0, marks=pytest.mark.long),
    ],
)
def test_one_wrong_letter(names: list[str] | None, share: float) -> None:
    names = names or sorted(shipped_configs())[:30]
    tried, missed, unhelpful = survey(names, share)
    assert tried > 150 * len(names) * share
    assert len(missed) <= 0.01 * tried, missed
    assert len(unhelpful) <= 0.1 * tried, unhelpful
