"""The index as text: the listing of ``mmdet-r2 zoo list``, and the tables of ``docs/model_zoo.md``
and README.md, which ``tools/misc/make_model_table.py`` writes."""

from collections.abc import Iterable, Sequence

from . import index
from .index import ZooModel
from .names import urls_of

# What each folder of configs holds; those of the published systems first.
TITLES = {
    'res2net': 'Res2Net, mmdetection',
    'resnest': 'ResNeSt, detectron2 and mmdetection',
    'maskrcnn_benchmark': 'Res2Net, maskrcnn-benchmark',
    'panoptic_fpn': 'Panoptic FPN, detectron2 and mmdetection',
    'faster_rcnn': 'Faster R-CNN, mmdetection',
    'mask_rcnn': 'Mask R-CNN, mmdetection',
    'cascade_rcnn': 'Cascade R-CNN and Cascade Mask R-CNN, mmdetection',
    'htc': 'Hybrid Task Cascade, mmdetection',
    'pascal_voc': 'Pascal VOC',
    'legacy_1.x': 'Weights of mmdetection 1.x',
}
# The rows of README.md.
CHOSEN = (
    'faster_rcnn_r50_fpn_1x_coco',
    'mask_rcnn_r50_fpn_1x_coco',
    'faster_rcnn_r2_101_fpn_2x_coco',
    'mask_rcnn_r2_101_fpn_2x_coco',
    'cascade_rcnn_r2_101_fpn_20e_coco',
    'cascade_mask_rcnn_r2_101_fpn_20e_coco',
    'htc_r2_101_fpn_20e_coco',
    'mask_rcnn_r2_101_26w4s_fpn_maskrcnnbench_2x_coco2014',
    'mask_rcnn_s101_fpn_syncbn-all_mstrain_1x_coco',
    'cascade_rcnn_s200_fpn_syncbn-all_mstrain-range_1x_coco',
    'cascade_mask_rcnn_s200_fpn_mdconv_c3-c5_group2_syncbn-all_tricks_3x_coco',
    'panoptic_fpn_r2_101_fpn_mstrain_3x_coco',
    'panoptic_cascade_fpn_s200_fpn_syncbn_tricks_3x_coco',
)
MAIN = ('box AP', 'mask AP', 'PQ')
_VOC = 'box AP50'


def listing(patterns: Sequence[str]) -> str:
    """Lines that say which models the patterns match, with what was published for them."""
    wanted = {model.name for pattern in patterns for model in index.search(pattern)}
    found = [model for model in index.models() if model.name in wanted]
    if not found:
        return f'no model matches {" ".join(patterns)}'
    rows: list[tuple[str, ...]] = [('name', 'backbone', 'parameters', *MAIN, 'weights')]
    rows += [
        (m.name, m.backbone, m.parameters, *(figure(m, k) for k in MAIN), _state(m)) for m in found
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )


def figure(model: ZooModel, metric: str) -> str:
    """A published metric as text; '' where there is none."""
    value = model.results.get(metric)
    if value is None:
        return ''
    return f'{value:.1f}' if value == round(value, 1) else f'{value:g}'


def schedule(model: ZooModel) -> str:
    """Length of training: '12 epochs' or '90k iterations'."""
    if model.iterations:
        return f'{model.iterations / 1000:g}k iterations'
    return f'{model.epochs} epochs' if model.epochs else ''


def _state(model: ZooModel) -> str:
    if not model.weights:
        return 'by hand' if model.page else 'none'
    return model.hash or 'no hash'


# --------------------------------------------------------------------------------- Markdown


def page() -> str:
    """The tables of ``docs/model_zoo.md``, one section per folder of configs."""
    models = index.models()
    folders = {model.folder: None for model in models}
    parts = []
    for folder in [*TITLES, *(f for f in folders if f not in TITLES)]:
        group = [model for model in models if model.folder == folder]
        if group:
            title = TITLES.get(folder, folder)
            parts.append(f'## {title}\n\n{_sources(group)}\n\n{_section(group)}')
    return '\n\n'.join(parts)


def readme() -> str:
    """The table of README.md."""
    models = {model.name: model for model in index.models()}
    rows: list[tuple[str, ...]] = [('model', 'backbone', 'parameters', *MAIN)]
    for name in CHOSEN:
        model = models[name]
        rows.append(
            (
                _config_link(model, ''),
                model.backbone,
                model.parameters,
                *(figure(model, metric) for metric in MAIN),
            )
        )
    return _markdown(rows)


def _sources(group: Sequence[ZooModel]) -> str:
    """One line: papers, data, and the layout of the weights."""
    papers = ', '.join(f'<{paper}>' for paper in dict.fromkeys(m.paper for m in group if m.paper))
    data = ' or '.join(dict.fromkeys(m.training_data for m in group))
    layouts = ' or '.join(dict.fromkeys(m.layout for m in group))
    text = f'Papers: {papers}. Trained on {data}; measured on {_full_name(_usual_data(group))}.'
    return f'{text} Layout of the weights: {layouts}.'


def _usual_data(group: Sequence[ZooModel]) -> str:
    """The data set that most of the models were measured on."""
    found = [name for model in group for name in model.measured_on]
    return max(found, key=found.count) if found else ''


def _full_name(data: str) -> str:
    """OpenMMLab's metafiles say COCO of its validation images of 2017."""
    return 'COCO val2017' if data == 'COCO' else data


def _section(group: Sequence[ZooModel]) -> str:
    metrics = [key for key in (*MAIN, _VOC) if any(key in model.results for model in group)]
    if 'box AP' in metrics:
        metrics = [key for key in metrics if key != _VOC]
    columns = ['model', 'backbone', 'schedule', 'GB', 'parameters', *metrics, 'weights']
    rows = [(*columns, 'other names')]
    usual = _usual_data(group)
    for model in group:
        where = ', '.join(name for name in model.measured_on if name != usual)
        shown = [figure(model, metric) for metric in metrics]
        rows.append(
            (
                _config_link(model, '../'),
                model.backbone,
                schedule(model),
                '' if model.memory is None else f'{model.memory:g}',
                model.parameters,
                *(f'{text} ({where})' if text and where else text for text in shown),
                _weights_link(model),
                '<br>'.join(f'`{alias}`' for alias in model.aliases),
            )
        )
    return _markdown(rows)


def _config_link(model: ZooModel, base: str) -> str:
    return f'[{model.name}]({base}configs/{model.folder}/{model.config.name})'


def _weights_link(model: ZooModel) -> str:
    if not model.weights:
        return f'[by hand]({model.page})' if model.page else ''
    return f'[{_state(model)}]({urls_of(model.name)[0]})'


def _markdown(rows: Iterable[Sequence[str]]) -> str:
    lines = [f'| {" | ".join(row)} |'.replace('|  |', '| |').replace('|  |', '| |') for row in rows]
    lines.insert(1, '|' + '---|' * (lines[0].count('|') - 1))
    return '\n'.join(lines)
