"""Masks: operations, training targets, pasting, run lengths."""

import copy
import pickle

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
import torch.nn.functional as F

from mmdet_r2.structures.masks import (
    BitmapMasks,
    PolygonMasks,
    bitmaps,
    encode_rle,
    mask_targets,
    paste_masks,
)
from mmdet_r2.structures.masks.paste import _paste_images


def random_bitmaps(n=3, height=20, width=30):
    return BitmapMasks((np.random.rand(n, height, width) < 0.4).astype(np.uint8), height, width)


def blobs(height=60, width=80):
    """Two polygons with several vertices and one object of two parts, inside the image."""
    return PolygonMasks(
        [
            [np.array([10.0, 5, 40, 12, 33, 50, 12, 44])],
            [np.array([50.0, 30, 70, 30, 70, 55]), np.array([5.0, 50, 15, 50, 15, 58, 5, 58])],
        ],
        height,
        width,
    )


class TestMaskSets:
    @pytest.mark.parametrize(
        'index',
        [
            1,
            slice(1, None),
            [2, 0],
            [],
            np.array([True, False, True]),
            torch.tensor([2, 1]),
            torch.tensor([False, True, False]),
            np.zeros(3, dtype=bool),
        ],
        ids=str,
    )
    def test_index_takes_what_arrays_take_and_stays_a_mask_set(self, index):
        bitmaps = random_bitmaps()
        polygons = PolygonMasks([[np.full(6, i)] for i in range(3)], 20, 30)
        plain = index.numpy() if isinstance(index, torch.Tensor) else index
        rows = np.atleast_1d(
            np.arange(3)[plain if not isinstance(plain, list) else np.array(plain, int)]
        )
        assert np.array_equal(bitmaps[index].masks, bitmaps.masks[rows])
        assert [m[0][0] for m in polygons[index].masks] == rows.tolist()
        assert (bitmaps[index].height, bitmaps[index].width) == (20, 30)

    def test_no_masks_have_a_shape_everywhere(self):
        for masks in (BitmapMasks([], 20, 30), PolygonMasks([], 20, 30)):
            assert masks.to_ndarray().shape == (0, 20, 30)
            assert masks.resize((10, 15)).flip().pad((12, 16)).to_ndarray().shape == (0, 12, 16)
            assert masks.crop(np.array([2, 3, 10, 9])).to_ndarray().shape == (0, 6, 8)
            assert masks.expand(40, 50, 1, 2).to_ndarray().shape == (0, 40, 50)
            assert masks.get_bboxes().shape == (0, 4)
            assert masks.areas.shape == (0,)
            assert masks.to_tensor(torch.float32, 'cpu').shape == (0, 20, 30)
            assert len(masks[:0]) == len(type(masks).cat([masks, masks])) == 0
            empty = torch.zeros(0)
            assert mask_targets([masks], [empty.view(0, 4)], [empty.long()], (7, 7)).shape == (
                0,
                7,
                7,
            )

    def test_wrong_shape_is_an_error(self):
        with pytest.raises(ValueError, match=r'shape \(3, 20, 30\), expected \(n, 30, 20\)'):
            BitmapMasks(np.zeros((3, 20, 30)), 30, 20)

    @pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
    def test_flip_mirrors_and_twice_is_identity(self, direction):
        bitmaps, polygons = random_bitmaps(), blobs()
        axes = {'horizontal': 2, 'vertical': 1, 'diagonal': (1, 2)}[direction]
        assert np.array_equal(bitmaps.flip(direction).masks, np.flip(bitmaps.masks, axes))
        assert np.array_equal(bitmaps.flip(direction).flip(direction).masks, bitmaps.masks)
        back = polygons.flip(direction).flip(direction)
        for before, after in zip(polygons, back):
            assert all(np.allclose(p, q) for p, q in zip(before, after))
        # COCO's rasteriser decides pixels cut by an edge by the direction of drawing
        mirrored = np.flip(polygons.to_ndarray(), axes)
        assert (polygons.flip(direction).to_ndarray() != mirrored).mean() < 0.02

    def test_flip_direction_is_checked(self):
        for masks in (random_bitmaps(), blobs()):
            with pytest.raises(ValueError, match="'sideways'"):
                masks.flip('sideways')

    def test_resize_scales_areas_and_boxes(self):
        polygons = blobs()
        bitmaps = polygons.to_bitmap()
        for masks in (polygons, bitmaps):
            large = masks.resize((180, 160))
            assert (large.height, large.width) == (180, 160)
            np.testing.assert_allclose(large.areas, masks.areas * 6, rtol=0.01)
            expected = masks.get_bboxes() * [2, 3, 2, 3]
            np.testing.assert_allclose(large.get_bboxes(), expected, atol=0.01)

    def test_rescale_fits_into_a_scale_with_mmcv_rounding(self):
        for masks in (random_bitmaps(), blobs(20, 30)):
            scaled = masks.rescale((100, 50))  # factor min(100/30, 50/20) = 2.5
            assert (scaled.height, scaled.width) == (50, 75)
            scaled = masks.rescale(0.33)  # int(6.6 + 0.5), int(9.9 + 0.5)
            assert (scaled.height, scaled.width) == (7, 10)

    def test_crop_of_polygons_agrees_with_crop_of_bitmaps(self):
        polygons = blobs()
        window = np.array([8, 10, 60, 52])
        cut = polygons.crop(window)
        expected = polygons.to_bitmap().crop(window)
        assert (cut.height, cut.width) == (expected.height, expected.width) == (42, 52)
        assert (cut.to_ndarray() != expected.masks).mean() < 0.02
        boxes = cut.get_bboxes()
        assert (boxes >= 0).all() and (boxes <= [52, 42, 52, 42]).all()
        np.testing.assert_allclose(boxes, expected.get_bboxes(), atol=1)

    def test_crop_of_polygons_is_exact_for_a_rectangle(self):
        masks = PolygonMasks([[np.array([10.0, 10, 30, 10, 30, 30, 10, 30])]], 40, 40)
        cut = masks.crop(np.array([20, 5, 38, 25]))
        assert cut.areas == pytest.approx(10 * 15)
        np.testing.assert_array_equal(cut.get_bboxes(), [[0, 5, 10, 20]])
        outside = masks.crop(np.array([0, 0, 5, 5]))
        assert len(outside) == 1 and outside.areas == 0 and outside.to_ndarray().sum() == 0

    def test_crop_is_clipped_and_at_least_one_pixel(self):
        for masks in (random_bitmaps(), blobs(20, 30)):
            cut = masks.crop(np.array([25, 10, 99, 10]))
            assert (cut.height, cut.width) == (1, 5)

    def test_pad_expand_cat(self):
        bitmaps = random_bitmaps()
        padded = bitmaps.pad((24, 32))
        assert np.array_equal(padded.masks[:, :20, :30], bitmaps.masks)
        assert padded.masks.sum() == bitmaps.masks.sum()
        assert bitmaps.pad((24, 32), pad_val=1).masks[:, 20:].all()
        grown = bitmaps.expand(40, 50, 3, 4)
        assert np.array_equal(grown.masks[:, 3:23, 4:34], bitmaps.masks)
        both = BitmapMasks.cat([bitmaps, bitmaps[:1]])
        assert np.array_equal(both.masks, np.concatenate([bitmaps.masks, bitmaps.masks[:1]]))
        polygons = blobs()
        shifted = polygons.expand(100, 100, 3, 4).get_bboxes()
        np.testing.assert_allclose(shifted, polygons.get_bboxes() + [4, 3, 4, 3])
        assert len(PolygonMasks.cat([polygons, polygons])) == 4

    def test_bitmaps_and_polygons_move_alike(self):
        square = PolygonMasks([[np.array([8.0, 6, 20, 6, 20, 16, 8, 16])]], 24, 32)
        for move in (
            lambda m: m.translate((24, 32), 5),
            lambda m: m.translate((24, 32), -4, 'vertical'),
            lambda m: m.translate((24, 32), (3, 2), 'both'),
            lambda m: m.shear((24, 32), 0.25),
            lambda m: m.shear((24, 32), -0.25, 'vertical'),
            lambda m: m.rotate((24, 32), 30),
            lambda m: m.rotate((24, 32), -90, center=(14, 11), scale=1.5),
        ):
            ours, theirs = move(square).to_ndarray()[0], move(square.to_bitmap()).masks[0]
            assert not np.array_equal(theirs, square.to_ndarray()[0])
            # pixels turn around their centres, polygons around corners: at most a pixel apart
            for one, two in ((ours, theirs), (theirs, ours)):
                assert not (one & ~cv2.dilate(two, np.ones((3, 3), np.uint8))).any()

    def test_bitmaps_move_by_whole_pixels(self):
        bitmaps = random_bitmaps()
        shape = (bitmaps.height, bitmaps.width)
        moved = bitmaps.translate(shape, 3).masks
        assert (
            np.array_equal(moved[:, :, 3:], bitmaps.masks[:, :, :-3]) and not moved[:, :, :3].any()
        )
        sheared = bitmaps.shear(shape, 1, 'vertical', border_value=1).masks
        assert (
            np.array_equal(sheared[:, 2:, 2], bitmaps.masks[:, :-2, 2]) and sheared[:, :2, 2].all()
        )
        square = BitmapMasks(bitmaps.masks[:, :20, :20], 20, 20)
        assert np.array_equal(square.rotate((20, 20), 90).masks, np.rot90(square.masks, -1, (1, 2)))
        cut = bitmaps.translate((9, 40), -2, 'vertical').masks  # what is cut does not come back
        assert cut.shape[1:] == (9, 40) and not cut[:, 7:].any() and not cut[:, :, 30:].any()
        with pytest.raises(ValueError, match='sideways'):
            bitmaps.translate(shape, 3, 'sideways')

    def test_random_masks_are_as_asked(self):
        for kind in (BitmapMasks, PolygonMasks):
            masks, again = (kind.random(4, 20, 30, rng=7) for _ in range(2))
            assert (len(masks), masks.height, masks.width) == (4, 20, 30)
            assert np.array_equal(masks.to_ndarray(), again.to_ndarray())
            assert masks.to_ndarray().any((1, 2)).all()
        boxes = masks.get_bboxes()
        assert (boxes >= 0).all() and (boxes <= [30, 20, 30, 20]).all()

    def test_boxes_and_areas(self):
        bitmaps = np.zeros((2, 20, 30), dtype=np.uint8)
        bitmaps[0, 3:7, 5:11] = 1
        masks = BitmapMasks(bitmaps, 20, 30)
        np.testing.assert_array_equal(masks.get_bboxes(), [[5, 3, 11, 7], [0, 0, 0, 0]])
        np.testing.assert_array_equal(masks.areas, [24, 0])
        np.testing.assert_allclose(blobs().areas, [998, 250 + 80])

    def test_survives_pickling_and_deep_copies(self):
        bitmaps = random_bitmaps().flip()
        for again in (pickle.loads(pickle.dumps(bitmaps)), copy.deepcopy(bitmaps)):
            assert np.array_equal(again.masks, bitmaps.masks) and again.height == 20
            again.masks[:] = 7  # its own memory, and writable
        assert bitmaps.masks.max() == 1

    def test_bool_masks_and_lists_become_uint8(self):
        plain = [np.eye(4, dtype=bool), np.zeros((4, 4), dtype=bool)]
        masks = BitmapMasks(plain, 4, 4)
        assert masks.masks.dtype == np.uint8 and masks.areas.tolist() == [4, 0]
        assert masks.to_tensor(torch.bool, 'cpu').sum() == 4


def slow_target(mask, box, size):
    """RoIAlign as its definition says: average of bilinear samples, ceil(roi / size) per bin."""
    height, width = mask.shape
    x1, y1, x2, y2 = (float(v) - 0.5 for v in box)
    bin_w, bin_h = (x2 - x1) / size, (y2 - y1) / size
    num_x, num_y = max(1, int(np.ceil(bin_w))), max(1, int(np.ceil(bin_h)))

    def sample(y, x):
        if y < -1 or y > height or x < -1 or x > width:
            return 0.0
        y, x = max(y, 0), max(x, 0)
        i, j = min(int(y), height - 1), min(int(x), width - 1)
        y, x = (float(i) if i == height - 1 else y), (float(j) if j == width - 1 else x)
        k, m = min(i + 1, height - 1), min(j + 1, width - 1)
        v, u = y - i, x - j
        top = mask[i, j] * (1 - u) + mask[i, m] * u
        return top * (1 - v) + (mask[k, j] * (1 - u) + mask[k, m] * u) * v

    target = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            total = 0.0
            for a in range(num_y):
                for b in range(num_x):
                    y = y1 + row * bin_h + (a + 0.5) * bin_h / num_y
                    total += sample(y, x1 + column * bin_w + (b + 0.5) * bin_w / num_x)
            target[row, column] = total / (num_x * num_y)
    return target


class TestTargets:
    def test_bitmaps_equal_the_definition(self):
        masks = blobs().to_bitmap()
        boxes = torch.tensor(
            [[8.3, 4.1, 42.7, 51.9], [50, 30, 70, 55], [0, 0, 80, 60], [9, 40, 13, 47.5]]
        )
        index = torch.tensor([0, 1, 1, 0])
        targets = mask_targets([masks], [boxes], [index], (14, 14))
        assert targets.shape == (4, 14, 14) and targets.dtype == torch.float32
        for target, box, i in zip(targets, boxes, index):
            soft = slow_target(masks.masks[i], box, 14)
            decided = np.abs(soft - 0.5) > 1e-5
            assert decided.mean() > 0.9
            assert np.array_equal(target.numpy()[decided] == 1, soft[decided] >= 0.5)

    def test_rectangle_in_closed_form(self):
        """The left half of a box is object: the left half of the target is 1, either way."""
        polygons = PolygonMasks([[np.array([10.0, 10, 24, 10, 24, 38, 10, 38])]], 64, 64)
        boxes = torch.tensor([[10.0, 10, 38, 38], [10.0, 10, 38, 66]])
        expected = torch.zeros(2, 28, 28)
        expected[0, :, :14] = 1
        # the second box is cut to the image: 54 high, of which the object has 28
        expected[1, : round(28 * 28 / 54), :14] = 1
        for masks in (polygons, polygons.to_bitmap()):
            targets = mask_targets([masks], [boxes], [torch.tensor([0, 0])], (28, 28))
            assert (targets != expected).sum() <= 14  # the row that the edge cuts

    def test_polygons_equal_bitmaps_of_the_box_at_the_targets_resolution(self):
        polygons = blobs()
        boxes = torch.tensor([[8.3, 4.1, 42.7, 51.9], [2, 27.5, 72, 59]])
        index = torch.tensor([0, 1])
        targets = mask_targets([polygons], [boxes], [index], (28, 28))
        for target, box, i in zip(targets.numpy(), boxes.numpy(), index):
            scale = 28 / (box[2:] - box[:2])
            moved = [((p.reshape(-1, 2) - box[:2]) * scale).reshape(-1) for p in polygons.masks[i]]
            rle = coco_mask.merge(coco_mask.frPyObjects(moved, 28, 28))
            assert np.array_equal(target, coco_mask.decode(rle))

    def test_images_follow_each_other_and_may_be_empty(self):
        masks = [random_bitmaps(), BitmapMasks([], 20, 30), random_bitmaps(2)]
        boxes = [
            torch.tensor([[1.0, 2, 12, 15]]),
            torch.zeros(0, 4),
            torch.tensor([[3.0, 3, 9, 9]] * 2),
        ]
        index = [torch.tensor([2]), torch.zeros(0).long(), torch.tensor([1, 0])]
        targets = mask_targets(masks, boxes, index, (7, 7))
        alone = [mask_targets([m], [b], [i], (7, 7)) for m, b, i in zip(masks, boxes, index)]
        assert torch.equal(targets, torch.cat(alone)) and targets.shape == (3, 7, 7)

    def test_crowded_image_in_groups_gives_the_same(self, monkeypatch):
        masks = random_bitmaps(n=7)
        boxes = torch.rand(20, 4) * 10
        boxes[:, 2:] += boxes[:, :2] + 2
        index = torch.randint(7, (20,))
        whole = mask_targets([masks], [boxes], [index], (7, 7))
        monkeypatch.setattr(bitmaps, '_CHUNK_PIXELS', {'cpu': 2 * 20 * 30})
        assert torch.equal(mask_targets([masks], [boxes], [index], (7, 7)), whole)
        assert 0 < whole.mean() < 1

    def test_crop_and_resize_is_the_same_arithmetic(self):
        masks = random_bitmaps()
        boxes = torch.tensor([[1.0, 2, 12, 15], [5, 5, 9, 9]])
        cut = masks.crop_and_resize(boxes.numpy(), (7, 7), np.array([2, 0]))
        expected = mask_targets([masks], [boxes], [torch.tensor([2, 0])], (7, 7))
        assert np.array_equal(cut.masks, expected.numpy())

    def test_degenerate_boxes_give_finite_targets(self):
        boxes = torch.tensor([[5.0, 5, 5, 5], [40, 40, 50, 50], [-9, -9, -1, -1]])
        for masks in (random_bitmaps(1), PolygonMasks([[np.array([1.0, 1, 9, 1, 9, 9])]], 20, 30)):
            targets = mask_targets([masks], [boxes], [torch.zeros(3).long()], (7, 7))
            assert ((targets == 0) | (targets == 1)).all()


def grid_sampled(probs, boxes, shape):
    """The reference: the whole image sampled from each mask, zero outside, half-pixel centres."""
    height, width = shape
    x1, y1, x2, y2 = boxes.double().split(1, dim=1)
    ys = ((torch.arange(height).double() + 0.5)[None] - y1) / (y2 - y1) * 2 - 1
    xs = ((torch.arange(width).double() + 0.5)[None] - x1) / (x2 - x1) * 2 - 1
    num = len(probs)
    grid = torch.stack(
        [xs[:, None].expand(num, height, width), ys[:, :, None].expand(num, height, width)], dim=3
    )
    return F.grid_sample(probs.double()[:, None], grid, align_corners=False)[:, 0]


@pytest.fixture
def detections():
    """Masks and boxes of all sizes, many sticking out of the image; half of the masks saturated."""
    num, shape = 24, (97, 141)
    probs = torch.rand(num, 28, 28)
    probs[::2] = (F.avg_pool2d(probs[::2, None], 5, 1, 2)[:, 0] * 3 - 1).clamp(0, 1)
    probs[4] = 1  # the 0.5 contour is the box itself
    centre = torch.rand(num, 2) * torch.tensor([160.0, 110]) - 10
    size = torch.rand(num, 2) ** 2 * 150 + 0.3
    boxes = torch.cat([centre - size / 2, centre + size / 2], dim=1)
    boxes[4] = torch.tensor([10.5, 20.5, 60.5, 70.5])  # through pixel centres: the >= counts
    return probs, boxes, shape


class TestPaste:
    # The function for GPUs is the same arithmetic on any device.
    ways = pytest.mark.parametrize('paste', [paste_masks, _paste_images])

    @ways
    @pytest.mark.parametrize('threshold', [0.5, 0.7, 0.2, 1.0])
    def test_equals_sampling_the_whole_image(self, detections, paste, threshold):
        probs, boxes, shape = detections
        reference = grid_sampled(probs, boxes, shape)
        pasted = paste(probs, boxes, shape, threshold)
        assert pasted.dtype == torch.bool and pasted.shape == (24, *shape)
        undecided = (reference - threshold).abs() < 1e-6
        assert torch.equal(pasted | undecided, (reference >= threshold) | undecided)
        if threshold == 0.5:
            assert pasted.any()

    @ways
    def test_probabilities_are_within_a_millionth(self, detections, paste):
        probs, boxes, shape = detections
        reference = grid_sampled(probs, boxes, shape) * 255
        pasted = paste(probs, boxes, shape, -1)
        assert pasted.dtype == torch.uint8
        low, high = (reference - 255e-6).floor(), (reference + 255e-6).floor()
        assert ((pasted >= low) & (pasted <= high)).all()

    @ways
    def test_edge_through_pixel_centres_belongs_to_the_object(self, detections, paste):
        probs, boxes, shape = detections
        rows, columns = torch.where(paste(probs, boxes, shape, 0.5)[4])
        assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 70, 10, 60)

    @ways
    def test_boxes_without_area_give_empty_masks(self, paste):
        boxes = torch.tensor(
            [
                [5.0, 5, 5, 9],
                [9, 9, 4, 4],
                [float('nan'), 0, 5, 5],
                [0, 0, float('inf'), 5],
                [50, 50, 60, 60],
            ]
        )
        assert not paste(torch.ones(5, 28, 28), boxes, (20, 30), 0.5).any()

    @ways
    def test_groups_and_nothing_at_all(self, detections, paste, monkeypatch):
        probs, boxes, shape = detections
        whole = paste(probs, boxes, shape, 0.5)
        monkeypatch.setattr(bitmaps, '_CHUNK_PIXELS', {'cpu': 5 * shape[0] * shape[1]})
        assert torch.equal(paste(probs, boxes, shape, 0.5), whole)
        assert paste(probs[:0], boxes[:0], shape, 0.5).shape == (0, *shape)

    def test_channel_axis_and_half_precision_are_accepted(self, detections):
        probs, boxes, shape = detections
        assert torch.equal(
            paste_masks(probs[:, None], boxes, shape), paste_masks(probs, boxes, shape)
        )
        assert paste_masks(probs.half(), boxes, shape).shape == (24, *shape)

    @pytest.mark.gpu
    def test_gpu_equals_cpu(self, detections):
        probs, boxes, shape = detections
        reference = grid_sampled(probs, boxes, shape)
        with torch.autocast('cuda', dtype=torch.float16):
            pasted = paste_masks(probs.cuda(), boxes.cuda(), shape).cpu()
        undecided = (reference - 0.5).abs() < 1e-5
        assert torch.equal(pasted | undecided, paste_masks(probs, boxes, shape) | undecided)


class TestRunLengths:
    def test_equal_pycocotools_and_decode_to_the_masks(self):
        masks = torch.rand(5, 37, 53) < 0.3
        masks[1] = False
        masks[2] = True
        encoded = encode_rle(masks)
        plain = coco_mask.encode(
            np.asfortranarray(masks.numpy().transpose(1, 2, 0).astype(np.uint8))
        )
        assert encoded == plain
        assert np.array_equal(coco_mask.decode(encoded).transpose(2, 0, 1), masks.numpy())
        assert encode_rle(masks.numpy()) == encode_rle(masks.byte()) == encoded

    def test_no_masks(self):
        assert encode_rle(torch.zeros(0, 5, 5, dtype=torch.bool)) == []
