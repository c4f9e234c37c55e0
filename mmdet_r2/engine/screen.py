"""What of a run's log is kept off the screen, where hundreds of lines would hide the first losses:
mmengine's listings of the environment, the config and the hooks. The log file has them all."""

import logging
import platform
import sys
from functools import partial

import torch

from ..files import writing
from ..ops import backend

# How the listings begin, after dashes and empty lines.
_LISTINGS = (
    'System environment:',
    'Config:\n',
    'Hooks will be executed in the following order:\n',
    'Distributed training is not used, all SyncBatchNorm',  # said where there are any
)


def keep_listings_off(logger: logging.Logger) -> None:
    """Let the handlers of ``logger`` that write to the screen pass over listings."""
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler and _is_no_listing not in handler.filters:
            handler.addFilter(_is_no_listing)


def _is_no_listing(record: logging.LogRecord) -> bool:
    if record.levelno > logging.INFO:
        return True
    return not record.getMessage().lstrip('\n-').startswith(_LISTINGS)


def stop_on_full_disk(logger: logging.Logger) -> None:
    """Let the handlers of ``logger`` that write to files raise a :class:`DataError` where that
    fails; logging itself prints a traceback for each line, and goes on."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = partial(_unwritten, handler)  # type: ignore[method-assign]


def _unwritten(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]
    if not isinstance(error, OSError):
        logging.Handler.handleError(handler, record)
        return
    with writing(handler.baseFilename):
        raise error


def summary(logger: logging.Logger, name: str, processes: int, seed: int | None) -> str:
    """One line instead: ``name`` of the run, on what it runs, and where the rest stands."""
    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else 'CPU'
    files = [one.baseFilename for one in logger.handlers if isinstance(one, logging.FileHandler)]
    text = (
        f'{name}: {processes} process{"es" if processes > 1 else ""} on {device}, '
        f'Python {platform.python_version()}, torch {torch.__version__}, '
        f'operators of {backend("cuda" if gpu else "cpu")}, seed {seed}'
    )
    return f'{text}; config, environment and hooks: {files[0]}' if files else text
