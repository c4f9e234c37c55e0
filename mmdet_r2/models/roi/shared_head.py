"""A residual stage between pooling and heads: conv5 of a C4 detector
(https://arxiv.org/abs/1506.01497, https://arxiv.org/abs/1512.03385).
"""

from mmengine.model import BaseModule
from torch import Tensor

from mmdet_r2.errors import ConfigError
from mmdet_r2.models.backbones.resnet import ResNet, build_stage, default_init, set_modes
from mmdet_r2.registry import MODELS


@MODELS.register_module()
class ResLayer(BaseModule):
    """Stage ``stage`` (0-based) of a ResNet, under its name there: ``layer4`` for stage 3, so that
    the files of whole backbones initialise it.

    Args:
        depth, style, norm_cfg, norm_eval, with_cp, dcn: see :class:`ResNet`.
        stride, dilation: of the stage.
        pretrained: old name of ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
    """

    def __init__(
        self,
        depth: int,
        stage: int = 3,
        stride: int = 2,
        dilation: int = 1,
        style: str = 'pytorch',
        norm_cfg: dict = dict(type='BN', requires_grad=True),  # noqa: B006  read only
        norm_eval: bool = True,
        with_cp: bool = False,
        dcn: dict | None = None,
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(default_init(init_cfg, pretrained, 'roi_head.shared_head'))
        if depth not in ResNet.arch_settings or not 0 <= stage <= 3:
            raise ConfigError(
                f'roi_head.shared_head: depth={depth}, stage={stage}; expected one of '
                f'{", ".join(map(str, ResNet.arch_settings))} and a stage from 0 to 3'
            )
        block, num_blocks = ResNet.arch_settings[depth]
        self.norm_eval = norm_eval
        self.name = f'layer{stage + 1}'
        in_channels = 64 if stage == 0 else 64 * 2 ** (stage - 1) * block.expansion
        layer = build_stage(
            block,
            num_blocks[stage],
            in_channels,
            64 * 2**stage,
            stride=stride,
            avg_down=False,
            conv_cfg=None,
            norm_cfg=norm_cfg,
            block_args=dict(
                dilation=dilation,
                style=style,
                with_cp=with_cp,
                conv_cfg=None,
                norm_cfg=norm_cfg,
                dcn=dcn,
            ),
        )
        self.add_module(self.name, layer)

    def train(self, mode: bool = True) -> 'ResLayer':
        """Switch modes; with ``norm_eval`` batch norms stay in eval mode."""
        super().train(mode)
        set_modes(self, mode, self.norm_eval)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """RoI features (R, C, h, w) -> (R, C', h / stride, w / stride)."""
        return getattr(self, self.name)(x)
