"""``mmdet-r2 zoo download`` and, with --list, ``mmdet-r2 zoo list``."""

from mmdet_r2.cli import run_tool

if __name__ == '__main__':
    run_tool('download')
