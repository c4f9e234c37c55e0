"""A region proposal network alone."""

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.detectors.two_stage import TwoStageDetector
from mmdet_r2.models.rpn import RPNHead
from mmdet_r2.registry import MODELS


@MODELS.register_module()
class RPN(TwoStageDetector):
    """The proposals are the result.

    The head is ``rpn_head`` to configs and code, and ``bbox_head`` in state dicts, as in
    mmdetection 3.x; files of 2.x, whose name is ``rpn_head``, load as well.

    Args:
        roi_head: only None.

    The other arguments are those of :class:`TwoStageDetector`.
    """

    rpn_name = 'bbox_head'

    def __init__(
        self,
        backbone: dict,
        neck: dict | None = None,
        rpn_head: dict | None = None,
        roi_head: None = None,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        if rpn_head is None or roi_head is not None:
            raise ConfigError(
                "model.type='RPN' has an rpn_head and no roi_head: use FasterRCNN or FastRCNN for "
                'a model with a roi_head'
            )
        super().__init__(
            backbone, neck, rpn_head, None, train_cfg, test_cfg, data_preprocessor, init_cfg
        )

    @property
    def rpn_head(self) -> RPNHead:
        """Objectness and box deltas of every anchor."""
        return self.bbox_head
