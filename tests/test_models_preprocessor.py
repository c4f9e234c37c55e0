"""From uint8 images to a normalised, padded batch."""

import copy

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData

from mmdet_r2.errors import ConfigError, DataError
from mmdet_r2.models.preprocessor import BatchFixedSizePad, DetDataPreprocessor
from mmdet_r2.registry import MODELS
from mmdet_r2.structures import DetDataSample
from mmdet_r2.structures.masks import BitmapMasks, PolygonMasks

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
SIZES = ((37, 50), (64, 33))


def batch(sizes=SIZES, masks: type | None = BitmapMasks) -> dict:
    generator = torch.Generator().manual_seed(3)
    images, samples = [], []
    for i, (height, width) in enumerate(sizes):
        shape = (3, height, width)
        images.append(torch.randint(0, 256, shape, generator=generator).to(torch.uint8))
        sample = DetDataSample(metainfo=dict(img_path=f'/data/{i}.jpg', img_shape=(height, width)))
        sample.gt_instances = InstanceData(bboxes=torch.rand(2, 4))
        if masks is BitmapMasks:
            ones = np.ones((2, height, width), np.uint8)
            sample.gt_instances.masks = BitmapMasks(ones, height, width)
        elif masks is PolygonMasks:
            triangle = [np.array([1.0, 1.0, 9.0, 1.0, 5.0, 7.0])]
            sample.gt_instances.masks = PolygonMasks([triangle] * 2, height, width)
        sample.gt_sem_seg = PixelData(sem_seg=torch.ones(1, height, width, dtype=torch.uint8))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize('channels_last', [None, False, True])
@pytest.mark.parametrize(
    'options, pad_value, divisor, order',
    [
        (dict(IMAGENET, bgr_to_rgb=True, pad_size_divisor=32), 0, 32, (2, 1, 0)),
        (dict(IMAGENET, rgb_to_bgr=True, pad_value=5), 5, 1, (2, 1, 0)),
        (dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0]), 0, 1, (0, 1, 2)),
        (dict(mean=[128], std=[64], pad_size_divisor=16), 0, 16, (0, 1, 2)),
        (dict(pad_size_divisor=7, pad_value=114), 114, 7, (0, 1, 2)),
    ],
)
def test_images_are_normalised_then_padded(options, pad_value, divisor, order, channels_last):
    data = batch()
    out = DetDataPreprocessor(**options, channels_last=channels_last)(data)
    inputs = out['inputs']
    height, width = -(-64 // divisor) * divisor, -(-50 // divisor) * divisor
    assert inputs.shape == (2, 3, height, width) and inputs.dtype == torch.float32
    layout = torch.contiguous_format if channels_last is False else torch.channels_last
    assert inputs.is_contiguous(memory_format=layout)
    expected = np.full(inputs.shape, pad_value, np.float32)
    mean = np.reshape(options.get('mean', [0.0]), (-1, 1, 1)).astype(np.float32)
    std = np.reshape(options.get('std', [1.0]), (-1, 1, 1)).astype(np.float32)
    for row, image in zip(expected, data['inputs']):
        h, w = image.shape[1:]
        row[:, :h, :w] = (image.numpy()[list(order)] - mean) / std
    np.testing.assert_array_equal(inputs.numpy(), expected)
    for sample, (h, w) in zip(out['data_samples'], SIZES):
        assert sample.batch_input_shape == (height, width)
        assert sample.pad_shape == (-(-h // divisor) * divisor, -(-w // divisor) * divisor)


def test_the_given_data_is_left_alone():
    data = batch()
    before = copy.deepcopy(data)
    DetDataPreprocessor(**IMAGENET, bgr_to_rgb=True, pad_mask=True, pad_seg=True)(data, True)
    for a, b in zip(data['inputs'], before['inputs']):
        assert torch.equal(a, b)
    for a, b in zip(data['data_samples'], before['data_samples']):
        assert a.gt_sem_seg.sem_seg.shape == b.gt_sem_seg.sem_seg.shape
        assert 'pad_shape' not in a


def test_one_stacked_tensor_and_float_images_are_accepted():
    images = torch.stack(batch(((8, 9), (8, 9)))['inputs'])
    preprocessor = DetDataPreprocessor(**IMAGENET, pad_size_divisor=4)
    first = preprocessor(dict(inputs=images))
    assert first['data_samples'] is None and first['inputs'].shape == (2, 3, 8, 12)
    second = preprocessor(dict(inputs=list(images.float()), data_samples=None))
    assert torch.equal(first['inputs'], second['inputs'])


@pytest.mark.parametrize('kind', [BitmapMasks, PolygonMasks, None])
@pytest.mark.parametrize('training', [True, False])
def test_targets_are_padded_in_training_only(kind, training):
    preprocessor = DetDataPreprocessor(
        **IMAGENET, pad_size_divisor=32, pad_mask=True, pad_seg=True, seg_pad_value=9
    )
    out = preprocessor(batch(masks=kind), training)
    for sample, size in zip(out['data_samples'], SIZES):
        expected = (64, 64) if training else size
        seg = sample.gt_sem_seg.sem_seg
        assert seg.shape == (1, *expected) and seg.dtype == torch.uint8
        assert seg[:, : size[0], : size[1]].eq(1).all()
        assert (seg == 9).sum() == expected[0] * expected[1] - size[0] * size[1]
        if kind is not None:
            masks = sample.gt_instances.masks
            assert (masks.height, masks.width) == expected and len(masks) == 2
            if kind is BitmapMasks:
                assert masks.to_ndarray().sum() == 2 * size[0] * size[1]


def test_batches_can_be_padded_to_one_size():
    augment = dict(
        type='BatchFixedSizePad', size=(96, 128), img_pad_value=3, pad_mask=True, pad_seg=True
    )
    preprocessor = DetDataPreprocessor(**IMAGENET, pad_size_divisor=32, batch_augments=[augment])
    out = preprocessor(batch(), training=True)
    assert out['inputs'].shape == (2, 3, 96, 128)
    assert out['inputs'][:, :, 64:].eq(3).all() and out['inputs'][:, :, :, 64:].eq(3).all()
    for sample in out['data_samples']:
        assert sample.batch_input_shape == sample.pad_shape == (96, 128)
        assert sample.gt_instances.masks.height == 96
        assert sample.gt_sem_seg.sem_seg[0, -1, -1] == 255
    assert preprocessor(batch(), training=False)['inputs'].shape == (2, 3, 64, 64)


def test_fixed_size_keeps_what_is_larger():
    inputs, samples = BatchFixedSizePad(size=(32, 64))(torch.zeros(1, 3, 40, 20))
    assert inputs.shape == (1, 3, 40, 64) and samples is None


@pytest.mark.parametrize('image', [torch.zeros(1, 5, 6), torch.zeros(4, 5, 6), torch.zeros(5, 6)])
def test_a_wrong_number_of_channels_names_the_file(image):
    data = batch()
    data['inputs'][1] = image
    with pytest.raises(DataError, match=r'/data/1.jpg: .*expected \(3, height, width\)'):
        DetDataPreprocessor(**IMAGENET)(data)
    with pytest.raises(DataError, match='image 1 of the batch'):
        DetDataPreprocessor(**IMAGENET)(dict(inputs=data['inputs']))


def test_bad_batches_are_errors():
    data = batch()
    with pytest.raises(DataError, match='2 images but 1 data samples'):
        DetDataPreprocessor()(dict(data, data_samples=data['data_samples'][:1]))
    with pytest.raises(DataError, match='no image'):
        DetDataPreprocessor()(dict(inputs=[], data_samples=[]))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(mean=[1, 2, 3]), 'both mean and std'),
        (dict(mean=[1, 2], std=[1, 2]), 'mean has 2 and std 2 values'),
        (dict(mean=[1, 2, 3], std=[1, 0, 1]), 'every value must be above 0'),
        (dict(bgr_to_rgb=True, rgb_to_bgr=True), 'exclude each other'),
        (dict(pad_size_divisor=0), 'pad_size_divisor is 0'),
    ],
)
def test_bad_options_say_what_to_change(options, message):
    with pytest.raises(ConfigError) as error:
        DetDataPreprocessor(**options)
    assert message in str(error.value)


def test_it_is_registered_and_adds_nothing_to_checkpoints():
    preprocessor = MODELS.build(dict(type='DetDataPreprocessor', **IMAGENET, boxtype2tensor=False))
    assert isinstance(preprocessor, DetDataPreprocessor)
    assert preprocessor.state_dict() == {}
