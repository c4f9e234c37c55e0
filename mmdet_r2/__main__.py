"""``python -m mmdet_r2 COMMAND ...``: the command line ``mmdet-r2``."""

from .cli import main

main()
