"""One image's ground truth and predictions."""

from typing import Any

from mmengine.structures import BaseDataElement, InstanceData, PixelData


def _field(name: str, kind: type, doc: str) -> property:
    """A typed, deletable data field that mmengine's ``to()``, ``to_dict()`` and printing know
    about.
    """
    private = '_' + name

    def get(self: BaseDataElement) -> Any:
        return getattr(self, private)

    def put(self: BaseDataElement, value: Any) -> None:
        self.set_field(value, private, dtype=kind)

    def remove(self: BaseDataElement) -> None:
        delattr(self, private)

    return property(get, put, remove, doc)


class DetDataSample(BaseDataElement):
    """Ground truth and predictions of one image, with its metainfo.

    Instances (``mmengine.structures.InstanceData``):

    * ``gt_instances``: ``bboxes`` (n, 4) float32 xyxy in pixels of the *resized* image, ``labels``
      (n,) int64, ``masks`` :class:`~mmdet_r2.structures.masks.BitmapMasks` or ``PolygonMasks`` of
      the resized image.
    * ``ignored_instances``: the same for crowds and other ignored regions.
    * ``proposals``: ``bboxes`` (p, 4), ``scores`` (p,); resized image, or original image in what
      ``predict`` of a proposal network returns.
    * ``pred_instances``: ``bboxes`` (n, 4) float32 xyxy in pixels of the *original* image,
      ``scores`` (n,) descending, ``labels`` (n,) int64, and ``masks`` (n, H, W) bool of the
      original size where the model has a mask head.

    Maps (``PixelData``): ``gt_sem_seg``, ``pred_sem_seg``, ``gt_panoptic_seg``,
    ``pred_panoptic_seg``, each with ``sem_seg`` of shape (1, H, W).

    Metainfo set by the pipeline: ``img_id img_path ori_shape img_shape scale_factor flip
    flip_direction``; shapes are (height, width), ``scale_factor`` is (w, h). The preprocessor adds
    ``batch_input_shape`` and ``pad_shape``.
    """

    gt_instances = _field('gt_instances', InstanceData, 'Ground truth, resized image.')
    ignored_instances = _field('ignored_instances', InstanceData, 'Ignored regions, resized image.')
    proposals = _field('proposals', InstanceData, 'Region proposals.')
    pred_instances = _field('pred_instances', InstanceData, 'Detections, original image.')
    gt_sem_seg = _field('gt_sem_seg', PixelData, 'Semantic labels, resized image.')
    pred_sem_seg = _field('pred_sem_seg', PixelData, 'Predicted semantic labels, original image.')
    gt_panoptic_seg = _field('gt_panoptic_seg', PixelData, 'Panoptic labels, resized image.')
    pred_panoptic_seg = _field(
        'pred_panoptic_seg', PixelData, 'Predicted panoptic labels, original image.'
    )
