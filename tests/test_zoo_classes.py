"""Heads of one list of classes in a model of another: by name."""

import pytest
import torch
from small_detector import build, cascade_config, small_config

from mmdet_r2.zoo import load_checkpoint

TRAINED = ('cat', 'dog', 'traffic_light')


def trained(config: dict) -> dict:
    return dict(
        state_dict=build(config, seed=1).state_dict(),
        meta=dict(dataset_meta=dict(classes=TRAINED)),
    )


def test_each_class_takes_its_own_rows() -> None:
    checkpoint, model = trained(small_config()), build(small_config(), seed=2)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    source = checkpoint['state_dict']
    # a name spelt otherwise, one in another place, one that is new: as many as in the file
    load_checkpoint(model, checkpoint, classes=('Traffic light', 'horse', 'cat'))
    after = model.state_dict()
    for key, rows, last in (('fc_cls', 1, True), ('fc_reg', 4, False)):
        for part in ('weight', 'bias'):
            name = f'roi_head.bbox_head.{key}.{part}'
            new, old, own = (d[name] for d in (after, source, before))
            assert torch.equal(new[:rows], old[2 * rows : 3 * rows])
            assert torch.equal(new[rows : 2 * rows], own[rows : 2 * rows])
            assert torch.equal(new[2 * rows : 3 * rows], old[:rows])
            if last:  # the background's
                assert torch.equal(new[-1], old[-1])
    name = 'roi_head.mask_head.conv_logits.weight'
    assert torch.equal(after[name][0], source[name][2])
    assert torch.equal(after[name][1], before[name][1])
    assert torch.equal(after['backbone.conv1.weight'], source['backbone.conv1.weight'])


def test_another_number_of_classes_in_a_cascade() -> None:
    checkpoint = trained(cascade_config())
    other = cascade_config()
    for head in (*other['roi_head']['bbox_head'], other['roi_head']['mask_head']):
        head['num_classes'] = 2
    model = build(other, seed=2)
    report = load_checkpoint(model, checkpoint, classes=('horse', 'dog'))
    assert not report.mismatched
    for stage in range(3):
        name = f'roi_head.bbox_head.{stage}.fc_cls.weight'
        new, old = model.state_dict()[name], checkpoint['state_dict'][name]
        assert new.shape[0] == 3 and torch.equal(new[1:], old[[1, 3]])


@pytest.mark.parametrize('meta', [{}, dict(dataset_meta=dict(classes=TRAINED))])
def test_the_same_classes_or_none_known_are_taken_as_they_are(meta: dict) -> None:
    checkpoint = {**trained(small_config()), 'meta': meta}
    model = build(small_config(), seed=2)
    load_checkpoint(model, checkpoint, classes=('Cat', 'dog', 'traffic light'), strict=True)
    for key, value in model.state_dict().items():
        assert torch.equal(value, checkpoint['state_dict'][key])
