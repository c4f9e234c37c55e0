"""``mmdet-r2 config`` under the name that it has in mmdetection."""

from mmdet_r2.cli import run_tool

if __name__ == '__main__':
    run_tool('config')
