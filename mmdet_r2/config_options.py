"""``--cfg-options KEY=VALUE ...`` of the tools."""

import argparse
from collections.abc import Sequence
from typing import Any

from mmengine.config import DictAction as _DictAction


class DictAction(_DictAction):
    """mmengine's; what is no ``KEY=VALUE``, or has unbalanced brackets, is a wrong argument."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the values to those of earlier options."""
        for value in [values] if isinstance(values, str) else values or ():
            key, equals, _ = str(value).partition('=')
            if not equals or not key.strip():
                parser.error(f'{option_string} {value!r}: expected KEY=VALUE')
            try:
                super().__call__(parser, namespace, [value], option_string)
            except (AssertionError, ValueError, IndexError) as error:
                parser.error(f'{option_string} {value!r}: {error}')
