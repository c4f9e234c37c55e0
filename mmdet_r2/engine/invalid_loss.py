"""Stop at the first loss that is NaN or infinite: before the weights are spoilt, and with what is
needed to find out why."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather, get_comm_device, get_rank, get_world_size, is_distributed
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn

from ..files import write_text
from ..registry import HOOKS
from .state import RngState, get_rng_state, set_rng_state, untouched_rng

SUGGESTIONS = {
    'weights': 'The weights themselves are not finite: start again from an earlier checkpoint, '
    'with a lower learning rate.',
    'data': 'Correct or remove the images or boxes listed under "images".',
    'overflow': 'float16 or bfloat16 overflowed where float32 does not: use '
    "optim_wrapper.dtype='bfloat16' or train without --amp.",
    'learning rate': 'Training diverged: lower the learning rate (--auto-scale-lr fits it to the '
    'batch size), lengthen the '
    'warm-up or set optim_wrapper.clip_grad=dict(max_norm=35).',
    'chance': 'The same batch gives a finite loss when it is run again: resume from the saved '
    'checkpoint.',
    'unknown': 'The batch could not be run again to find the cause: see "rerun_error".',
}


class InvalidLossError(RuntimeError):
    """Training stopped because a loss was not finite.

    Attributes:
        speaks: whether this process is the one to tell the user (one of all ranks is).
    """

    def __init__(self, message: str, speaks: bool = True) -> None:
        super().__init__(message)
        self.speaks = speaks


@HOOKS.register_module()
class InvalidLossHook(Hook):
    """Checks the loss before every backward pass; on by default.

    When one is not finite, on any rank, every rank stops before the optimiser step. Written to the
    work folder: a checkpoint of the last good weights (``last_good_iter_N.pth``, from which the run
    can be resumed) and, for each guilty rank, ``invalid_loss_iter_N.json`` with the images, their
    boxes, the losses, the learning rate and the likely cause. The cause is found by running the
    batch again in float32, as a whole and image by image.
    """

    priority = 'VERY_LOW'  # after whatever other hooks do before a step

    def __init__(self) -> None:
        self._batch: Any = None
        self._rng: RngState = {}
        self._live: list[Tensor] | None = None
        self._kept: list[Tensor] = []
        self._update: Callable[..., None] | None = None

    def before_train(self, runner: Any) -> None:
        """Put the check in front of the optimiser."""
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):  # several optimisers: the model calls each itself
            runner.logger.warning('InvalidLossHook checks nothing with several optimisers.')
            return
        self._update = wrapper.update_params

        def checked(
            loss: Tensor, step_kwargs: dict | None = None, zero_kwargs: dict | None = None
        ) -> None:
            self._check(runner, loss)
            assert self._update is not None
            self._update(loss, step_kwargs=step_kwargs, zero_kwargs=zero_kwargs)

        wrapper.update_params = checked

    def after_train(self, runner: Any) -> None:
        """Take the check away."""
        if self._update is not None:
            del runner.optim_wrapper.update_params
            self._update = None
        self._batch = None

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Remember what the step starts from."""
        self._batch = data_batch
        self._rng = get_rng_state()
        if self._live is None:
            self._live = _running_statistics(runner.model)
            self._kept = [torch.empty_like(buffer) for buffer in self._live]
        if self._live:
            torch._foreach_copy_(self._kept, self._live)

    def _check(self, runner: Any, loss: Tensor) -> None:
        finite = torch.isfinite(loss.detach()).all()
        if not is_distributed():
            if not finite:
                self._stop(runner, loss, [0])
            return
        flags = all_gather(finite.reshape(1).to(get_comm_device(), torch.int32))
        guilty = [rank for rank, flag in enumerate(flags) if not flag.item()]
        if guilty:
            self._stop(runner, loss, guilty)

    def _stop(self, runner: Any, loss: Tensor, guilty: list[int]) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        broken = _first_broken(model.named_parameters())
        # the forward pass that failed has already gone into the running statistics of batch norm
        for live, kept in zip(self._live or (), self._kept):
            live.copy_(kept)
        name = f'last_good_iter_{runner.iter}.pth'
        checkpoint = None
        if broken is None:
            with runner.rng_as_of(self._rng):
                runner.save_checkpoint(
                    runner.work_dir, name, meta={'epoch': runner.epoch, 'iter': runner.iter}
                )
            checkpoint = str(Path(runner.work_dir) / name)
        rank = get_rank()
        # With SyncBN a forward pass is a joint affair: then every rank takes part in the re-run.
        joint = any('SyncB' in type(module).__name__ for module in model.modules())
        report: dict[str, Any] = {}
        if rank in guilty or joint:
            report = self._report(runner, model, loss, broken, alone=not joint)
            report['checkpoint'] = checkpoint
        where = f' on rank {", ".join(map(str, guilty))}' if get_world_size() > 1 else ''
        suffix = f'_rank{rank}' if get_world_size() > 1 else ''
        file = Path(runner.work_dir) / f'invalid_loss_iter_{runner.iter + 1}{suffix}.json'
        if rank in guilty:
            text = json.dumps(_json(report), indent=1, default=str, allow_nan=False)
            write_text(file, text)
        if is_distributed():
            torch.distributed.barrier()
        names = [image['img_path'] for image in report.get('images', []) if image['suspect']]
        names = [str(name) for name in names]
        shown = ', '.join(names[:4]) + (f' and {len(names) - 4} more' if len(names) > 4 else '')
        cause = report.get('cause', 'unknown')
        message = (
            f'the loss is {loss.item()} at iteration {runner.iter + 1}{where}; likely cause: '
            f'{cause}. '
            f'{SUGGESTIONS[cause]} Images: {shown or "not known"}. Details: {file}.'
        )
        if checkpoint:
            message += f' Last good weights: {checkpoint}.'
        raise InvalidLossError(message, speaks=rank == guilty[0])

    def _report(
        self, runner: Any, model: nn.Module, loss: Tensor, broken: str | None, alone: bool
    ) -> dict[str, Any]:
        wrapper = runner.optim_wrapper
        history = runner.message_hub.log_scalars.get('train/loss')
        recent = [] if history is None else [float(v) for v in history.data[0][-10:]]
        images = _images(self._batch)
        report: dict[str, Any] = {
            'iter': runner.iter + 1,
            'epoch': runner.epoch + 1,
            'rank': get_rank(),
            'loss': loss.item(),
            'recent_losses': recent,
            'lr': {name: values[0] for name, values in wrapper.get_lr().items()},
            'precision': str(getattr(wrapper, 'cast_dtype', None) or 'float32'),
            'first_broken_parameter': broken,
        }
        scaler = getattr(wrapper, 'loss_scaler', None)
        if scaler is not None and scaler.is_enabled():
            report['loss_scale'] = scaler.get_scale()
        rerun: dict[str, float] | None = None
        try:
            with untouched_rng():  # and without gradients: those of accumulated batches stay
                rerun, module = self._losses(model, self._batch)
                report['losses_in_float32'] = rerun
                report['first_broken_module'] = module
                if alone and len(images) > 1:
                    for index, image in enumerate(images):
                        losses, _ = self._losses(model, _part(self._batch, index))
                        image['losses_in_float32'] = losses
                        image['suspect'] = not _finite(losses)
        except Exception as error:  # the report must be written whatever the model does
            report['rerun_error'] = f'{type(error).__name__}: {error}'
        bad_data = [image for image in images if image['bad_boxes'] or image['bad_pixels']]
        if broken is not None:
            cause = 'weights'
        elif bad_data:
            cause = 'data'
            for image in images:
                image['suspect'] = image in bad_data
        elif rerun is None:
            cause = 'unknown'
        elif _finite(rerun):
            cause = 'overflow' if getattr(wrapper, 'cast_dtype', None) is not None else 'chance'
        else:
            cause = 'learning rate'
        if not any(image['suspect'] for image in images):
            for image in images:
                image['suspect'] = True
        report.update(cause=cause, suggestion=SUGGESTIONS[cause], images=images)
        return report

    def _losses(self, model: nn.Module, batch: Any) -> tuple[dict[str, float], str | None]:
        """Losses of ``batch`` in float32 with the random numbers of the step, and the first module
        with a broken output."""
        first: list[str] = []
        handles = []

        def watch(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                if not first and any(not torch.isfinite(t).all() for t in _tensors(output)):
                    first.append(name)

            return hook

        for name, module in model.named_modules():
            if name:
                handles.append(module.register_forward_hook(watch(name)))
        set_rng_state(self._rng)
        device = next(model.parameters()).device.type
        try:
            with torch.no_grad(), torch.autocast(device, enabled=False):
                data = model.data_preprocessor(batch, True)
                if isinstance(data, dict):
                    losses = model(**data, mode='loss')
                else:
                    losses = model(*data, mode='loss')
        finally:
            for handle in handles:
                handle.remove()
        found = {
            name: float(sum(t.float().mean() for t in _tensors(value)))
            for name, value in losses.items()
        }
        return found, first[0] if first else None


def _running_statistics(model: nn.Module) -> list[Tensor]:
    """Buffers that a forward pass of training changes."""
    return [
        buffer
        for module in model.modules()
        if module.training and isinstance(module, nn.modules.batchnorm._NormBase)
        for buffer in (module.running_mean, module.running_var, module.num_batches_tracked)
        if buffer is not None
    ]


def _first_broken(tensors: Any) -> str | None:
    for name, tensor in tensors:
        if not torch.isfinite(tensor.detach()).all():
            return name
    return None


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _json(value: Any) -> Any:
    """``value`` with NaN and infinities as texts: JSON has no numbers for them."""
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _finite(losses: dict[str, float]) -> bool:
    return all(math.isfinite(value) for value in losses.values())


def _part(batch: Any, index: int) -> Any:
    if isinstance(batch, dict):
        return {key: value[index : index + 1] for key, value in batch.items()}
    return type(batch)(value[index : index + 1] for value in batch)


def _images(batch: Any) -> list[dict[str, Any]]:
    """What is known of each image of a batch; [] for a batch that is not one of detection
    samples."""
    if not isinstance(batch, dict) or 'data_samples' not in batch:
        return []
    found = []
    for inputs, sample in zip(batch['inputs'], batch['data_samples']):
        boxes = sample.gt_instances.bboxes if 'gt_instances' in sample else torch.empty(0, 4)
        boxes = torch.as_tensor(getattr(boxes, 'tensor', boxes)).float().cpu()
        size = boxes[:, 2:] - boxes[:, :2]
        bad = ~torch.isfinite(boxes).all(1) | (size <= 0).any(1)
        found.append(
            {
                'img_path': sample.get('img_path'),
                'img_id': sample.get('img_id'),
                'ori_shape': sample.get('ori_shape'),
                'img_shape': sample.get('img_shape'),
                'num_boxes': len(boxes),
                'boxes': boxes.tolist(),
                'bad_boxes': bad.nonzero().flatten().tolist(),
                'bad_pixels': not bool(torch.isfinite(inputs.float()).all()),
                'suspect': False,
            }
        )
    return found
