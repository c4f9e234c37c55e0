"""Draw the curves of training runs, or print how long they took.

python tools/analysis_tools/analyze_logs.py {plot_curve,cal_train_time} LOG [LOG ...] ...
"""

import argparse
from datetime import timedelta

from mmdet_r2.analysis.curves import plot_curves
from mmdet_r2.analysis.files import show, write_figure
from mmdet_r2.analysis.logs import read_log, train_time
from mmdet_r2.errors import ConfigError, run_cli

EPILOG = """\
LOG is a work folder (all its logs together, resumed runs joined), or a file: vis_data/scalars.json
of this package and of mmdetection 3.x, *.log.json of mmdetection 2.x.

examples:
  python tools/analysis_tools/analyze_logs.py plot_curve work_dirs/a work_dirs/b \\
      --keys loss lr memory bbox_mAP --legend small large --out curves.png
  python tools/analysis_tools/analyze_logs.py cal_train_time work_dirs/a
"""


def parse_args() -> argparse.Namespace:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description='Analyse training logs.', epilog=EPILOG, formatter_class=raw
    )
    tasks = parser.add_subparsers(dest='task', required=True)
    plot = tasks.add_parser('plot_curve', help='draw curves', epilog=EPILOG, formatter_class=raw)
    plot.add_argument('json_logs', nargs='+', metavar='log', help='work folders or log files')
    plot.add_argument(
        '--keys', nargs='+', default=['bbox_mAP'], help='what to draw, a panel each (%(default)s)'
    )
    plot.add_argument('--legend', nargs='+', help='names of the runs (their folders)')
    plot.add_argument('--title', help='above the curves')
    plot.add_argument('--out', help='picture to write (curves.png, unless --show)')
    plot.add_argument('--show', action='store_true', help='open a window')
    plot.add_argument('--x', choices=('iter', 'epoch'), help='what goes to the right')
    plot.add_argument('--start-epoch', type=float, default=1, help='first epoch to draw')
    plot.add_argument('--style', help='style of matplotlib, such as ggplot')
    plot.add_argument('--eval-interval', help='accepted for compatibility; read from the log')
    plot.add_argument('--backend', help='accepted for compatibility; no display is needed')
    time = tasks.add_parser(
        'cal_train_time', help='seconds per iteration', epilog=EPILOG, formatter_class=raw
    )
    time.add_argument('json_logs', nargs='+', metavar='log', help='work folders or log files')
    time.add_argument(
        '--include-outliers', action='store_true', help='count the first record of every epoch, too'
    )
    return parser.parse_args()


def plot_curve(args: argparse.Namespace) -> None:
    """Draw."""
    import matplotlib.style

    logs = [read_log(path) for path in args.json_logs]
    if args.style and args.style not in matplotlib.style.available:
        known = ', '.join(matplotlib.style.available)
        raise ConfigError(f'--style {args.style}: unknown; matplotlib has {known}.')
    with matplotlib.style.context(args.style or 'default'):
        figure = plot_curves(
            logs,
            args.keys,
            legend=args.legend,
            title=args.title,
            x=args.x,
            start_epoch=args.start_epoch,
        )
        out = write_figure(figure, args.out or 'curves.png')
    print(f'written to {out}')
    if args.show:
        show(out)


def cal_train_time(args: argparse.Namespace) -> None:
    """Print."""
    for path in args.json_logs:
        times = train_time(read_log(path), include_outliers=args.include_outliers)
        means, unit = times.means, times.unit
        print(f'{path}')
        print(f'  slowest {unit} {times.slowest}: {means[times.slowest]:.4f} s/iter')
        print(f'  fastest {unit} {times.fastest}: {means[times.fastest]:.4f} s/iter')
        print(f'  std over {len(means)} {unit}s: {times.std:.4f} s/iter')
        print(f'  mean: {times.mean:.4f} s/iter')
        print(f'  all iterations: {timedelta(seconds=round(times.total))}')


def main() -> None:
    """Parse, and do it."""
    args = parse_args()
    plot_curve(args) if args.task == 'plot_curve' else cal_train_time(args)


if __name__ == '__main__':
    run_cli(main)
