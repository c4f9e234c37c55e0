"""Optimisers whose parameters differ in learning rate or decay."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from .registries import OPTIM_WRAPPER_CONSTRUCTORS

#: What mmengine logs for every parameter begins or goes on with.
_PER_PARAMETER = ('paramwise_options -- ', 'is skipped since its requires_grad=')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class GroupedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's ``paramwise_cfg``, with one group for all parameters that it treats alike.

    mmengine makes a group, and a line in the log, for every single parameter. What is learnt is the
    same here, in fewer and larger operations, and the log has one line per group. The first group
    has the optimiser's own settings: its learning rate is the one that logs show.

    Optimiser states saved with one of the two cannot be resumed with the other.

    Args:
        optim_wrapper_cfg: ``optimizer``, ``type`` and arguments of the wrapper.
        paramwise_cfg: factors of learning rate and decay; mmengine's keys.
    """

    def add_params(
        self,
        params: list[dict[str, Any]],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Append groups with the trainable parameters of ``module`` to ``params``."""
        if prefix:  # a part, visited by mmengine on its way down
            super().add_params(params, module, prefix, is_dcn_module)
            return
        single: list[dict[str, Any]] = []
        with _without_lines_per_parameter():
            super().add_params(single, module, prefix, is_dcn_module)
        params.extend(merge_groups(single))
        self._report(params, module)

    def _report(self, groups: list[dict[str, Any]], module: nn.Module) -> None:
        logger = MMLogger.get_current_instance()
        for group in groups:
            count = sum(parameter.numel() for parameter in group['params'])
            settings = {'lr': self.base_lr, 'weight_decay': self.base_wd}
            settings |= {key: value for key, value in group.items() if key != 'params'}
            said = ', '.join(f'{key} {v}' for key, v in settings.items() if v is not None)
            logger.info(f'optimiser: {len(group["params"])} tensors ({count} numbers) with {said}')
        frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
        if frozen:
            logger.info(
                f'optimiser: {len(frozen)} tensors ({sum(p.numel() for p in frozen)} numbers) '
                'do not train'
            )


def merge_groups(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parameter groups with different settings only; the one without settings of its own first.

    Parameters keep their order within a group.
    """
    merged: dict[tuple, dict[str, Any]] = {}
    for group in groups:
        settings = {key: value for key, value in group.items() if key != 'params'}
        known = merged.setdefault(tuple(sorted(settings.items())), {**settings, 'params': []})
        known['params'].extend(group['params'])
    return sorted(merged.values(), key=lambda group: len(group) > 1)


@contextmanager
def _without_lines_per_parameter() -> Iterator[None]:
    def other(record: logging.LogRecord) -> bool:
        return not any(part in record.getMessage() for part in _PER_PARAMETER)

    logger = MMLogger.get_current_instance()
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)
