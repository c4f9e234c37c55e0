"""``init_cfg=dict(type='Pretrained', checkpoint=...)``, through our own reader.

mmengine's initialiser falls back to unrestricted unpickling when the restricted one refuses a
file; in our scope this one is found in its place.
"""

from mmengine.model import update_init_info
from mmengine.model.weight_init import PretrainedInit
from torch import nn

from ..registry import WEIGHT_INITIALIZERS
from .loading import load_checkpoint


@WEIGHT_INITIALIZERS.register_module(name='Pretrained')
class SafePretrainedInit(PretrainedInit):
    """Initialise a module from a checkpoint: any ``source`` that :func:`load_checkpoint` takes.

    Args:
        checkpoint: path, URL, ``torchvision://NAME``, ``open-mmlab://NAME`` or model name.
        prefix: take only the file's tensors below this name (``'backbone.'``).
        map_location: device to read onto.
    """

    def __init__(
        self, checkpoint: str, prefix: str | None = None, map_location: str = 'cpu'
    ) -> None:
        super().__init__(checkpoint, prefix, map_location)

    def __call__(self, module: nn.Module) -> None:
        load_checkpoint(module, self.checkpoint, map_location=self.map_location, prefix=self.prefix)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())
