"""``init_cfg=dict(type='Pretrained', checkpoint=...)``, through our own reader.

mmengine's initialiser falls back to unrestricted unpickling when the restricted one refuses a
file; in our scope this one is found in its place.
"""

import re

from mmengine.model import update_init_info
from mmengine.model.weight_init import PretrainedInit
from torch import nn

from ..registry import WEIGHT_INITIALIZERS
from .loading import load_checkpoint

# The classifier, by torchvision's name and by those of other projects.
_CLASSIFIER = re.compile(r'(fc|head|classifier)\.')
# Deformable convolutions start as plain ones, with offsets of zero.
_OFFSETS = re.compile(r'.*\.conv_offset\.(weight|bias)$')
# Files converted from Caffe have biases (zeros but for the stem's), which a norm makes superfluous.
_CONV_BIAS = re.compile(r'(.*\.)?(conv\d|downsample\.\d)\.bias$')


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class SafePretrainedInit(PretrainedInit):
    """Initialise a module from a checkpoint: any ``source`` that :func:`load_checkpoint` takes.

    A backbone has to be filled: the file must have every one of its tensors in its shape. Besides
    these it may have a classifier, biases of convolutions that a norm follows, and stages that the
    backbone was told not to build; the log lists what was left out.

    Args:
        checkpoint: path, URL, ``torchvision://NAME``, ``open-mmlab://NAME``, ``detectron2://PATH``
            or model name.
        prefix: take only the file's tensors below this name (``'backbone.'``).
        map_location: device to read onto.

    Raises:
        CheckpointError: when called; unreadable, or it does not fill the backbone.
    """

    def __init__(
        self, checkpoint: str, prefix: str | None = None, map_location: str = 'cpu'
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)

    def __call__(self, module: nn.Module) -> None:
        names = module.state_dict().keys()

        def may_differ(key: str) -> bool:
            if key in names:
                return _OFFSETS.match(key) is not None
            stage = re.match(r'layer\d\.', key)
            not_built = stage and not any(name.startswith(stage[0]) for name in names)
            return bool(not_built or _CLASSIFIER.match(key) or _CONV_BIAS.match(key))

        load_checkpoint(
            module,
            self.checkpoint,
            map_location=self.map_location,
            prefix=self.prefix,
            strict='layer1.0.conv1.weight' in names,
            may_differ=may_differ,
        )
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
