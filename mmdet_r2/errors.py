"""Errors that are the user's to fix, and how a command-line tool reports them.

Every message is one line that names what was found, what was expected and the file, key or value to
change.
"""

import difflib
import sys
from collections.abc import Callable, Iterable


class UserError(ValueError):
    """Bad input: a tool prints the message and exits with 2."""


class ConfigError(UserError):
    """A config (or command-line override) that cannot be run; the message names the config path."""


class DataError(UserError):
    """An annotation file, image or data set that cannot be used; the message names the file."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or does not belong to the model; the message names the
    file.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' with the most similar of ``known``, '' if none is similar."""
    folded = {other.strip().lower(): other for other in known}
    match = difflib.get_close_matches(name.strip().lower(), folded, n=1)
    return f' (did you mean {folded[match[0]]!r}?)' if match else ''


def run_cli(main: Callable[[], object]) -> None:
    """Run a tool's ``main``: a :class:`UserError` becomes one line on stderr and exit code 2.

    Any other failure keeps its traceback and exits with 1.
    """
    try:
        main()
    except UserError as error:
        # A data loader's worker puts its traceback before the message; the last line is ours.
        print(f'error: {str(error).strip().splitlines()[-1]}', file=sys.stderr)
        sys.exit(2)
