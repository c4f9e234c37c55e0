"""Logs of a real run, and of logs whose numbers are known."""

import json

import numpy as np
import pytest
from analysis_run import EPOCHS, Run, small_run, tool

from mmdet_r2.analysis.curves import plot_curves
from mmdet_r2.analysis.logs import read_log, train_time
from mmdet_r2.errors import ConfigError, DataError

SCRIPT = 'tools/analysis_tools/analyze_logs.py'


@pytest.fixture(scope='module')
def run(tmp_path_factory) -> Run:
    return small_run(tmp_path_factory)


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(record) + '\n' for record in records))
    return path


def new_log(path, epochs=3, length=10, first=1, **more):
    """As mmengine writes it: every 5 iterations, validated after every epoch."""
    records = []
    for epoch in range(first, epochs + 1):
        for step in range((epoch - 1) * length + 5, epoch * length + 1, 5):
            time = epoch if step % length else epoch + 0.5
            record = dict(lr=0.1, loss=1 / step, time=time, epoch=epoch, iter=step, step=step)
            records.append(record | more)
        records.append({'coco/bbox_mAP': epoch / 10, 'coco/bbox_mAP_l': -1.0, 'step': epoch})
    return write(path, records)


def test_curves_of_a_real_run(run: Run, tmp_path):
    log = read_log(run.work_dir)
    losses, lr = log.series('loss'), log.series('lr')
    assert losses.iterations[-1] == 6 * EPOCHS and losses.values[-1] < losses.values[0] / 2
    assert lr.values.max() == pytest.approx(3e-3) and lr.epochs is not None
    assert lr.epochs[-1] == pytest.approx(EPOCHS)
    ap = log.series('bbox_mAP')
    assert ap.of_val and ap.epochs.tolist() == [7, 14, 21, 28]
    assert ap.iterations.tolist() == [42, 84, 126, 168]
    # validated and tested on the same images
    assert ap.values[-1] == pytest.approx(run.report['bbox']['AP'], abs=1e-3)
    out = tmp_path / 'sub' / 'curves.png'
    keys = ('loss', 'lr', 'bbox_mAP')
    printed = tool(
        SCRIPT, 'plot_curve', run.work_dir, run.work_dir, '--keys', *keys,
        '--legend', 'a', 'b', '--out', out,
    )  # fmt: skip
    assert str(out) in printed
    assert out.read_bytes().startswith(b'\x89PNG') and out.stat().st_size > 10000
    assert [p.name for p in out.parent.iterdir()] == ['curves.png']
    printed = tool(SCRIPT, 'cal_train_time', run.work_dir)
    assert f'over {EPOCHS} epochs' in printed and 's/iter' in printed


def test_what_is_drawn_is_what_was_logged(tmp_path):
    logs = [read_log(new_log(tmp_path / f'{name}.json')) for name in 'ab']
    figure = plot_curves(logs, ['loss', 'bbox_mAP'], title='both')
    left, right = figure.axes
    assert [line.get_label() for line in left.lines] == ['a', 'b']
    x, y = left.lines[0].get_data()
    assert x.tolist() == [5, 10, 15, 20, 25, 30] and y == pytest.approx(1 / x)
    assert right.lines[1].get_ydata().tolist() == [0.1, 0.2, 0.3]
    assert right.lines[1].get_xdata().tolist() == [10, 20, 30]
    only = plot_curves(logs[:1], ['bbox_mAP'], start_epoch=2).axes[0]
    assert only.get_xlabel() == 'epoch' and only.lines[0].get_xdata().tolist() == [2, 3]
    names = ['a loss', 'a AP', 'b loss', 'b AP']
    left, right = plot_curves(logs, ['loss', 'bbox_mAP'], legend=names).axes
    assert [line.get_label() for line in right.lines] == ['a AP', 'b AP']


def test_times_by_hand(tmp_path):
    log = read_log(new_log(tmp_path / 'a.json'))
    times = train_time(log, include_outliers=True)  # 1, 1.5; 2, 2.5; 3, 3.5
    assert times.means == {1: 1.25, 2: 2.25, 3: 3.25}
    assert (times.fastest, times.slowest, times.mean) == (1, 3, 2.25)
    assert times.std == pytest.approx(np.sqrt(2 / 3))
    assert times.total == pytest.approx(5 * (1 + 1.5 + 2 + 2.5 + 3 + 3.5))
    assert train_time(log).means == {1: 1.5, 2: 2.5, 3: 3.5}


def test_a_run_by_iterations_has_parts_between_validations(tmp_path):
    records = [dict(lr=1, time=s // 30 + 1, iter=s, step=s) for s in (10, 20, 30, 40)]
    records.insert(2, {'coco/bbox_mAP': 0.5, 'step': 20})
    log = read_log(write(tmp_path / 'x.json', records))
    times = train_time(log)
    assert times.unit == 'part' and times.means == {1: 1, 2: 2}
    with pytest.raises(ConfigError, match='no epochs'):
        plot_curves([log], ['lr'], x='epoch')
    assert plot_curves([log], ['bbox_mAP']).axes[0].lines[0].get_xdata().tolist() == [20]
    with pytest.raises(ConfigError, match='not trained on a GPU'):
        log.series('memory')


def test_a_validation_by_iterations_is_at_its_step(tmp_path):
    # what is logged every 20 iterations is not logged at the last, 50
    records = [dict(lr=1, iter=s, step=s) for s in (20, 40)]
    log = read_log(write(tmp_path / 'x.json', [*records, {'coco/bbox_mAP': 0.5, 'step': 50}]))
    assert log.series('bbox_mAP').iterations.tolist() == [50]


def test_logs_of_mmdetection_2(tmp_path):
    records = [dict(env_info='python', seed=0)]
    for epoch in (1, 2):
        records += [
            dict(mode='train', epoch=epoch, iter=i, lr=0.1, memory=99, time=0.5, loss=epoch)
            for i in (50, 100)
        ]
        records.append(dict(mode='val', epoch=epoch, iter=625, lr=0.1, bbox_mAP=epoch / 10))
    write(tmp_path / 'work' / '20200101_000000.log.json', records)
    log = read_log(tmp_path / 'work')
    assert log.series('loss').iterations.tolist() == [50, 100, 150, 200]
    assert log.series('memory').values.tolist() == [99] * 4
    ap = log.series('bbox_mAP')
    assert (ap.values.tolist(), ap.epochs.tolist()) == ([0.1, 0.2], [1, 2])
    assert ap.iterations.tolist() == [100, 200]


def test_mmdetection_2_counts_on_in_runs_by_iterations(tmp_path):
    records = [
        dict(mode='train', epoch=1 + i // 120, iter=i, lr=0.1, loss=i) for i in range(50, 301, 50)
    ]
    log = read_log(write(tmp_path / 'a.log.json', records))
    assert log.series('loss').iterations.tolist() == [50, 100, 150, 200, 250, 300]


def test_a_resumed_run_is_one_run(tmp_path):
    new_log(tmp_path / '20200101_000000' / 'vis_data' / 'scalars.json', epochs=3)
    new_log(tmp_path / '20200102_000000' / 'vis_data' / 'scalars.json', first=2, epochs=4, lr=0.5)
    log = read_log(tmp_path)
    assert log.series('lr').iterations.tolist() == [5, 10, 15, 20, 25, 30, 35, 40]
    assert log.series('lr').values.tolist() == [0.1] * 2 + [0.5] * 6
    assert log.series('bbox_mAP').values.tolist() == [0.1, 0.2, 0.3, 0.4]


def test_a_log_that_is_being_written(tmp_path):
    path = new_log(tmp_path / 'a.json')
    path.write_text(path.read_text() + '{"lr": 0.1, "lo')
    assert len(read_log(path).series('loss').values) == 6


@pytest.mark.parametrize(
    ('key', 'message'),
    [('los', 'did you mean loss'), ('segm_mAP', 'bbox_mAP'), ('xyz', 'it has lr')],
)
def test_unknown_keys(tmp_path, key, message):
    log = read_log(new_log(tmp_path / 'a.json'))
    with pytest.raises(ConfigError, match=message):
        log.series(key)


def test_numbers_that_are_none_are_not_drawn(tmp_path):
    log = read_log(new_log(tmp_path / 'a.json', loss=float('nan')))
    assert len(log.series('loss').values) == 0
    assert len(log.series('bbox_mAP_l').values) == 0


@pytest.mark.parametrize(
    ('text', 'message'),
    [('no json\nat all\n', 'line 1'), ('', 'no line'), ('[1]\n{}\n', 'no record')],
)
def test_other_files(tmp_path, text, message):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(DataError, match=message):
        read_log(tmp_path / 'a.json')


def test_users_errors_are_one_line(run: Run, tmp_path):
    message = tool(SCRIPT, 'plot_curve', tmp_path / 'none', code=2)
    assert message.startswith('error: ') and 'no such log' in message
    assert 'no log in this folder' in tool(SCRIPT, 'cal_train_time', tmp_path, code=2)
    log = run.work_dir
    message = tool(SCRIPT, 'plot_curve', log, '--out', tmp_path / 'x.txt', code=2)
    assert '.png' in message
    message = tool(SCRIPT, 'plot_curve', log, '--legend', 'a', 'b', 'c', code=2)
    assert '--legend' in message
