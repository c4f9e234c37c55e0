"""Write the tables of models into docs/model_zoo.md and README.md, from configs/*/metafile.yml."""

import argparse
import re
import sys
from pathlib import Path

from mmdet_r2.errors import ConfigError, run_cli
from mmdet_r2.zoo import catalogue

ROOT = Path(__file__).resolve().parents[2]
PAGES = {'docs/model_zoo.md': catalogue.page, 'README.md': catalogue.readme}
BEGIN, END = '<!-- models: written by tools/misc/make_model_table.py -->', '<!-- end of models -->'


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='example: python tools/misc/make_model_table.py --check',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='write nothing; exit with 1 if a page is not up to date',
    )
    return parser.parse_args()


def with_table(text: str, table: str, page: str) -> str:
    """A page's text with the lines between the two marks replaced."""
    pattern = re.compile(f'(?<={re.escape(BEGIN)}\n).*(?=\n{re.escape(END)})', re.S)
    if not pattern.search(text):
        raise ConfigError(f'{page}: lacks the marks {BEGIN!r} and {END!r}.')
    return pattern.sub(lambda _: f'\n{table}\n', text)  # a table needs blank lines around it


def main() -> None:
    args = parse_args()
    old = 0
    for page, table in PAGES.items():
        path = ROOT / page
        text = path.read_text(encoding='utf-8')
        new = with_table(text, table(), page)
        if new == text:
            print(f'{page} is up to date')
        elif args.check:
            print(f'{page} is not up to date: run tools/misc/make_model_table.py', file=sys.stderr)
            old += 1
        else:
            path.write_text(new, encoding='utf-8')
            print(f'{page} was written')
    sys.exit(1 if old else 0)


if __name__ == '__main__':
    run_cli(main)
