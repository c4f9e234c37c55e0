"""Errors that are the user's to fix, and how a command-line tool reports them.

Every message is one line that names what was found, what was expected and the file, key or value to
change.
"""

import difflib
import io
import os
import select
import sys
from collections.abc import Callable, Iterable

#: How torch's data loader hands on the error of a worker.
_OF_A_WORKER = '\nOriginal Traceback (most recent call last):\n'


class UserError(ValueError):
    """Bad input: a tool prints the message and exits with 2.

    ``str`` of it is one line whatever values it shows: control characters are escaped. One that
    comes from a data loader's worker, with the worker's traceback before it, has its own message
    again.
    """

    def __init__(self, message: object = '') -> None:
        text = str(message)
        if _OF_A_WORKER in text:  # torch makes the error anew, from its printed traceback
            text = text.strip().splitlines()[-1].partition(': ')[2]
        super().__init__(text)

    def __str__(self) -> str:
        return escaped(super().__str__().strip())


class ConfigError(UserError):
    """A config (or command-line override) that cannot be run; the message names the config path."""


class ArgumentError(ConfigError):
    """An argument that a component cannot be built with. Where it is built from a config, the name
    of the argument becomes the whole dotted key.

    Args:
        name: of the argument, with the keys below it.
        problem: what is wrong with it: ' is 5, expected ...'.
    """

    def __init__(self, name: str, problem: str = '') -> None:
        super().__init__(f'{name}{problem}')


class DataError(UserError):
    """An annotation file, image or data set that cannot be used; the message names the file."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or does not belong to the model; the message names the
    file.
    """


def escaped(text: str) -> str:
    """``text`` on one line that any terminal can show: what cannot be printed as its escape."""
    if text.isprintable():
        return text
    return ''.join(
        one if one.isprintable() else one.encode('unicode_escape').decode() for one in text
    )


def reason_of(error: BaseException) -> str:
    """What an error of another library says, on one line; its type where the text alone says
    little."""
    if isinstance(error, OSError) and error.strerror:
        return f'{error.strerror}: {error.filename!r}' if error.filename else error.strerror
    text = ' '.join(str(error.args[0] if error.args else error).split())
    if isinstance(error, ModuleNotFoundError) and error.name and 'install' not in text:
        text += f'; pip install {error.name.partition(".")[0]}'
    if isinstance(error, KeyError) and ' ' not in text:
        return f'{text!r} is missing'
    told = isinstance(error, (AssertionError, ImportError, TypeError, UserError))
    told |= isinstance(error, (KeyError, RuntimeError, ValueError)) and ' ' in text
    if told and text:
        return escaped(text)
    return escaped(': '.join(part for part in (type(error).__name__, text) if part))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' (did you mean ...?)' with the most similar of ``known``, '' if none is similar."""
    folded = {other.strip().lower(): other for other in known}
    match = difflib.get_close_matches(name.strip().lower(), folded, n=1)
    return f' (did you mean {folded[match[0]]!r}?)' if match else ''


def run_cli(main: Callable[[], object]) -> None:
    """Run a tool's ``main``: a :class:`UserError` becomes one line on stderr and exit code 2.

    Any other failure keeps its traceback and exits with 1.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # names of files may be bytes that are no UTF-8, which a strict stream fails to print
            stream.reconfigure(errors='backslashreplace')
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        output = select.poll()
        output.register(1, 0)
        if not any(event & select.POLLERR for _, event in output.poll(0)):
            raise  # of another pipe
        # the reader, such as `head`, has seen enough; Python flushes again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        sys.exit(130)
