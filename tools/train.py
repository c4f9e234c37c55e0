"""``mmdet-r2 train`` under the name that it has in mmdetection."""

from mmdet_r2.cli import run_tool

if __name__ == '__main__':
    run_tool('train')
