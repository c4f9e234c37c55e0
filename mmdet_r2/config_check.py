"""Every key of a component is one that it reads, or loading the config is an error. A top-level
variable that nothing reads is a warning, unless it looks like a misspelt key or came from the
command line.

A dictionary with a ``type`` is a component: its keys are compared with the signature of the class
(or function) that the registries find, base classes included where it passes ``**kwargs`` on. All
others are in the tables of :mod:`mmdet_r2.config_keys`.
"""

import difflib
import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.registry import Registry
from torch import nn
from torch.utils.data import DataLoader

from . import registry
from .config import ConfigFile, Origin, config_files, origin_of, origins
from .config_imports import import_problem
from .config_keys import (
    DEFAULT_TYPES,
    GIVEN,
    HINTS,
    KEY_ROLES,
    KEY_ROLES_WITHIN,
    KEY_SHAPES,
    OF_WORKERS,
    OPEN,
    OPS,
    PASSED_ON,
    PLAIN,
    PLAIN_VALUES,
    REQUIRED,
    REQUIRED_WITH,
    ROLES,
    TAKEN_BY_PARENT,
    TOP_KEYS,
    TOP_PLAIN,
    TOP_ROLES,
    TOP_SHAPES,
    TOP_VALUES,
    UNUSED,
    VARIABLES,
)
from .config_values import annotations_of, fits, readable
from .errors import ConfigError
from .registry import find_component, without_scope

#: What ``PackDetInputs`` has to keep of a view for test-time augmentation to merge it.
VIEW_META_KEYS = ('ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')

# Similarity (difflib's) of a top-level name with a key from which it counts as a typing error;
# helper variables of published configs stay below it, apart from VARIABLES.
_MISSPELT_RATIO = 0.85
# Parameters by which a norm is told how many channels there are.
_NORM_SIZES = {'num_features', 'num_channels', 'normalized_shape'}
_KNOWN_PACKAGES = ('mmdet_r2', 'mmengine', 'mmcv', 'torch')
#: Values that are neither a component's dictionary nor an object.
_NO_COMPONENT = (str, bytes, int, float, list, tuple, type(None))
_SHAPES = {
    'component': 'a dictionary',
    'components': 'a list of dictionaries',
    'either': 'a dictionary or a list of them',
}


def check_config(config: Config, overrides: dict[str, Any] | None = None) -> None:
    """Raise if ``config`` has a key that nothing reads; drop (in place) the unused keys that
    mmdetection's configs carry.

    Args:
        config: resolved config in our scope.
        overrides: dotted keys that the command line set; those that only set a helper variable are
            errors too.

    Raises:
        ConfigError: one line for the first few mistakes, each with its dotted key and the nearest
            valid one.
    """
    checker = _Checker(config, overrides or {})
    checker.run()
    problems = checker.problems + checker.missing
    if problems:
        shown = '; '.join(problems[:5])
        more = len(problems) - 5
        name = f'{config.filename}: ' if config.filename else ''
        rest = f'; and {more} more' if more > 0 else ''
        if any('mmdetection 2.x' in problem for problem in problems):
            rest += '; "Configs of 2.x" in docs/coming_from_mmdetection.md has all new names'
        raise ConfigError(f'{name}{shown}{rest}')
    if checker.unread:
        _warn_once(f'{config.filename or "config"}: {"; ".join(checker.unread)}')


@functools.cache
def _warn_once(message: str) -> None:
    print_log(message, 'current', logging.WARNING)


@dataclass
class _Checker:
    config: Config
    overrides: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # warnings
    missing: list[str] = field(default_factory=list)  # shown last: a misspelt key explains them

    def run(self) -> None:
        for key, value in self.config._cfg_dict.items():
            if not self.shaped(value, (key,), TOP_SHAPES.get(key, 'any')):
                continue
            if value is not None and not fits(value, TOP_VALUES.get(key, Any)):
                self.problems.append(
                    f'{key} is {value!r}, expected {readable(TOP_VALUES[key])}{self.place((key,))}'
                )
            if key in TOP_ROLES:
                if value is not None:
                    self.visit(value, (key,), TOP_ROLES[key])
            elif key in TOP_PLAIN and isinstance(value, dict):
                self.plain(value, (key,), 'plain')
            # anything else is a variable or a mistake: see top_level
        self.top_level()

    def shaped(self, value: Any, path: tuple[str, ...], shape: str) -> bool:
        """Whether ``value`` can be a component, or components; if not, note what cannot."""
        if shape == 'any' or value is None:
            return True
        lists = isinstance(value, (list, tuple))
        if isinstance(value, dict):
            fine = shape != 'components'
        elif lists:
            fine = shape != 'component'
        else:
            fine = not isinstance(value, _NO_COMPONENT)  # an object
        if not fine:
            expected = _SHAPES[shape]
            self.problems.append(
                f'{".".join(path)} is {value!r}, expected {expected}{self.place(path)}'
            )
            return False
        items: Iterable[tuple[Any, Any]] = enumerate(value) if lists else ()
        if path == ('default_hooks',):
            items = [(key, hook) for key, hook in value.items() if hook is not None]
        wrong = [(i, item) for i, item in items if isinstance(item, _NO_COMPONENT)]
        for i, item in wrong:
            where = (*path, str(i))
            self.problems.append(
                f'{".".join(where)} is {item!r}, expected a dictionary with type{self.place(where)}'
            )
        return not wrong

    # ---- components

    def visit(self, node: Any, path: tuple[str, ...], role: str, of_ours: bool = False) -> None:
        """Check ``node``; ``of_ours``: it is an argument of a model part of ours."""
        if isinstance(node, (list, tuple)):
            for index, item in enumerate(node):
                self.visit(item, (*path, str(index)), role, of_ours)
        elif isinstance(node, dict):
            of_function = _name(path) == 'clip_grad'  # whose type is no component's
            if ('type' in node and not of_function) or (
                _name(path) in DEFAULT_TYPES and len(path) == 1
            ):
                self.component(node, path, role)
            else:
                self.plain(node, path, role)
                if _is_component(node, path, role, of_ours):
                    self.missing.append(
                        f'{".".join((*path, "type"))}: missing{self.place((*path, "type"))}'
                    )

    def component(self, node: dict, path: tuple[str, ...], role: str) -> None:
        kind = node.get('type', DEFAULT_TYPES.get(_name(path)))
        target = self.find(kind, path, role)
        name = getattr(target, '__name__', kind)
        if target is not None:
            accepted = _accepted(target) if callable(target) else frozenset(target.split())
            if accepted is not None and path == ('tta_model',):
                accepted -= {'module'}  # that is `model`
            if accepted is not None:
                self.keys(node, path, name, accepted | self.extra(path, role, str(kind)))
                self.required(node, path, name, _needed(target, str(kind), role))
            if _name(path) == 'norm_cfg' and accepted is not None and not accepted & _NORM_SIZES:
                self.problems.append(
                    f'{".".join((*path, "type"))}: {name} is no norm{self.place((*path, "type"))}'
                )
            if name == 'TestTimeAug':
                for below, problem in view_problems(node):
                    where = (*path, *below)
                    self.problems.append(f'{".".join(where)}: {problem}{self.place(where)}')
        if role == 'optim_wrapper' and node.get('constructor') is not None:
            self.find(node['constructor'], path, 'constructor', 'constructor')
        hints = annotations_of(target) if callable(target) else {}
        hints = {key: hint for key, hint in hints.items() if key != 'type'}
        self.below(node, path, role, hints, role == 'model' and _is_ours(target))

    def required(self, node: dict, path: tuple[str, ...], name: str, needed: Iterable[str]) -> None:
        """Note those of the keys ``needed`` that ``node`` lacks; 'a|b' is met by either."""
        for key in sorted(needed):
            choices = key.split('|')
            if all(node.get(choice) is None for choice in choices):
                self.missing.append(
                    f'{".".join((*path, choices[0]))}: missing; {name} needs '
                    f'{" or ".join(choices)}{self.place(path)}'
                )

    def below(
        self,
        node: dict,
        path: tuple[str, ...],
        role: str,
        hints: Mapping[str, Any],
        of_ours: bool = False,
    ) -> None:
        """Visit what stands below ``node``, and note values that are not of the type that their
        parameter is annotated with."""
        for key, value in node.items():
            if key in hints and not fits(value, hints[key]):
                where = (*path, key)
                self.problems.append(
                    f'{".".join(where)} is {value!r}, expected {readable(hints[key])}'
                    f'{self.place(where)}'
                )
            elif (
                key != 'type'
                and self.shaped(value, (*path, str(key)), _shape(role, path, key))
                and isinstance(value, (dict, list, tuple))
            ):
                self.visit(value, (*path, str(key)), _role_below(role, str(key)), of_ours)

    def extra(self, path: tuple[str, ...], role: str, kind: str) -> set[str]:
        words = ['type', *PASSED_ON.get(kind, '').split()]
        words += TAKEN_BY_PARENT.get(_name(path), '').split()
        words += TAKEN_BY_PARENT.get(f'role:{role}', '').split()
        return set(words)

    def keys(self, node: dict, path: tuple[str, ...], name: str, accepted: frozenset[str]) -> None:
        unknown = []
        for key in list(node):
            if key not in accepted and not self.drop(node, key, name, path):
                unknown.append(key)
        if not unknown:
            return
        leftover = self.leftover(path, unknown, name)
        if leftover:
            self.problems.append(leftover)
            return
        for key in unknown:
            self.problems.append(
                f'{".".join((*path, key))}: {name} has no such key{_nearest(key, accepted)}'
                f'{self.place((*path, key))}'
            )

    def drop(self, node: dict, key: str, name: str, path: tuple[str, ...]) -> bool:
        """Take an unused key out of ``node``; False if it is not one of those."""
        values = UNUSED.get(name, {}).get(key, UNUSED['*'].get(key))
        if values is None:
            return False
        if values and node[key] not in values:
            only = ' or '.join(repr(value) for value in values)
            self.problems.append(
                f'{".".join((*path, key))}: nothing uses this key; only {only} is let pass'
                f'{self.place((*path, key))}'
            )
        del node[key]
        return True

    def find(
        self, kind: Any, path: tuple[str, ...], role: str, key: str = 'type'
    ) -> Callable | str | None:
        """The class or function called ``kind``, or a string with its keys; None after an error was
        noted. ``key`` is where ``kind`` stands, below ``path``."""
        if callable(kind):
            return kind
        if not isinstance(kind, str):
            self.problems.append(
                f'{".".join((*path, key))}: {kind!r} is neither a name nor a class'
            )
            return None
        registries = ROLES[role]
        if role == 'model' and kind in OPS:  # before the registry, which may know mmcv's by now
            parents = [part for part in path[:-1] if not part.isdigit()]
            return OPS.get(f'{parents[-1] if parents else ""}.{kind}', OPS[kind])
        for candidate in registries:
            try:
                found = find_component(candidate, without_scope(kind))
            except RuntimeError:  # a dotted name that cannot be imported
                continue
            if callable(found):  # mmengine also finds modules that are called so
                return found
        if role == 'loop' and path[0] == 'train_cfg' and kind == 'TrainLoop':
            return None
        known = {name for registry_ in registries for name in _names(registry_)}
        if role == 'model':
            known |= set(OPS)
        near = difflib.get_close_matches(kind, sorted(known), n=3, cutoff=0.6)
        hint = f' (did you mean {" or ".join(near)}?)' if near else ''
        if path == ('model',):
            hint = f' (the detectors here: {", ".join(sorted(_detectors()))})'
        if '.' in kind and (reason := import_problem(kind)):
            hint = f' and cannot be imported ({reason})'
        where = ' or '.join(dict.fromkeys(registry_.name for registry_ in registries))
        self.problems.append(
            f"{'.'.join((*path, key))}: '{kind}' is not registered as {where}{hint}"
            f'{self.place((*path, key))}'
        )
        return None

    def leftover(self, path: tuple[str, ...], unknown: list[str], name: str) -> str | None:
        """A message for the keys that a base file set for another ``type``, or None if that is not
        what happened."""
        kinds = origin_of(self.origins, '.'.join((*path, 'type')))
        kinds = [kind for kind in kinds if isinstance(kind.value, str)]
        if len(kinds) < 2 or kinds[-1].value == kinds[-2].value:
            return None
        old = [
            (key, made[-1])
            for key in unknown
            if (made := self.origins.get('.'.join((*path, key))))
            and made[-1].file != kinds[-1].file
        ]
        if len(old) < len(unknown):
            return None
        keys = ', '.join(f'{key} ({place})' for key, place in old)
        return (
            f'{".".join(path)}: type was changed from {kinds[-2].value} to {name} ({kinds[-1]}), '
            f'which has no such keys: {keys}; add _delete_=True to {_name(path)} or remove them'
        )

    # ---- dictionaries without type

    def plain(self, node: dict, path: tuple[str, ...], role: str) -> None:
        names = [part for part in path if not part.isdigit()]
        name, parent = names[-1], names[-2] if len(names) > 1 else ''
        table = PLAIN
        for key in (f'{parent}.{name}', f'{parent}.*', name):
            if key in table:
                listed = table[key]
                break
        else:
            listed = OPEN
        if name == 'paramwise_cfg':
            constructor = self.config.optim_wrapper.get('constructor')
            if constructor not in (None, 'DefaultOptimWrapperConstructor'):
                listed = table.get(f'{constructor}.{name}', OPEN)  # OPEN: one of the user's own
        if len(path) == 1 and name == 'train_cfg':  # by_epoch picks the loop
            loop = 'EpochBasedTrainLoop' if node.get('by_epoch', True) else 'IterBasedTrainLoop'
            target = registry.LOOPS.get(loop)
            self.keys(node, path, loop, _accepted(target) | {'type', 'by_epoch'})
            self.required(node, path, loop, _needed(target, loop, 'loop'))
            self.below(node, path, role, annotations_of(target))
            return
        if listed is not None:
            words = set(listed.split())
            free = '~' in words
            words -= {'~'}
            if name.endswith('_dataloader'):
                words |= _accepted(DataLoader)
                if not node.get('num_workers'):
                    for key in OF_WORKERS & set(node):
                        del node[key]
            for key in list(node):
                if key in words or self.drop(node, key, f'{parent}.{name}', path):
                    continue
                small = str(key).lower()  # CLASSES
                near = _nearest(small, words)
                if free and not (
                    any(_one_letter_apart(small, word) for word in words)
                    or difflib.get_close_matches(small, words, n=1, cutoff=0.75)
                ):
                    continue
                self.problems.append(
                    f'{".".join((*path, str(key)))}: {name} has no such key{near}'
                    f'{self.place((*path, str(key)))}'
                )
        elif name != 'custom_keys':
            for key in node:  # a component whose `type` is mistyped looks like a plain dictionary
                if difflib.SequenceMatcher(None, str(key), 'type').ratio() > 0.7:
                    self.problems.append(
                        f'{".".join((*path, str(key)))}: no such key (did you mean type?)'
                        f'{self.place((*path, str(key)))}'
                    )
        needed = REQUIRED.get(f'{parent}.{name}', REQUIRED.get(name, '')).split()
        for key, more in REQUIRED_WITH.get(name, {}).items():
            if node.get(key):
                self.required(node, path, key, more.split())
        self.required(node, path, name, needed)
        ours = role == 'model' and listed is not None
        self.below(node, path, role, PLAIN_VALUES.get(f'{parent}.{name}', {}), ours)

    # ---- top level

    def top_level(self) -> None:
        tree = self.config._cfg_dict
        unknown = [key for key in tree if key not in TOP_KEYS and not key.startswith('_')]
        if not unknown and not self.overrides:
            return
        files = self.files
        given = {key.split('.')[0] for key in self.overrides}
        values: list[Any] | None = None
        dead: list[str] = []
        late: list[str] = []
        for key in unknown:
            if key in given:
                where = self.place((key,), base=True)
                if where and files and any(key in file.assigned for file in files.chain()):
                    problem = f'{key}: has no effect from the command line; it is a variable that '
                    problem += f'was used while the file was read{where}; set the key that uses it'
                else:
                    problem = f'{key}: nothing reads this key{_hint(key)}'
                self.problems.append(problem)
                continue
            assigned = files is not None and any(key in f.assigned for f in files.chain())
            if assigned and files is not None and _is_read(key, files):
                continue
            # Made in Python, or written out by Config.dump: a variable that was used has left its
            # value elsewhere.
            if not assigned or (files is not None and not files.bases):
                values = _values(tree) if values is None else values
                mistyped = _is_misspelt(key, TOP_KEYS - set(tree))
                if not mistyped and any(_same(tree[key], value) for value in values):
                    continue
            if _is_misspelt(key):
                self.problems.append(
                    f'{key}: nothing reads this key{_hint(key)}{self.place((key,))}'
                )
            elif assigned and files is not None and any(key in f.read for f in files.chain()):
                late.append(f'{key}{self.place((key,))}')
            else:
                dead.append(f'{key}{self.place((key,))}')
        if dead:
            self.unread.append(f'nothing reads {", ".join(dead)}')
        if late:
            self.unread.append(
                f'assigned after the base files that use them were read, so without effect: '
                f'{", ".join(late)} (set the keys that use them)'
            )

    # ---- provenance, read only when there is something to explain

    @functools.cached_property
    def files(self) -> ConfigFile | None:
        name = self.config.filename
        if not name or not Path(name).is_file():
            return None
        try:
            return config_files(name)
        except (OSError, SyntaxError, ValueError):
            return None

    @functools.cached_property
    def origins(self) -> dict[str, list[Origin]]:
        if self.files is None:
            return {}
        return origins(self.config.filename, self.overrides)

    def place(self, path: tuple[str, ...], base: bool = False) -> str:
        made = origin_of(self.origins, '.'.join(path))
        made = [origin for origin in made if origin.line] if base else made
        return f' [{made[-1]}]' if made else ''


def view_problems(node: dict) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with a ``TestTimeAug``: (keys below it, what to do) for each mistake that would
    otherwise show as boxes in wrong places, or as an error that names no key.
    """
    steps = node.get('transforms')
    if not isinstance(steps, list) or not all(isinstance(step, list) and step for step in steps):
        yield ('transforms',), 'expected a list of lists: the choices of each step'
        return
    flipped = padded = False
    for i, step in enumerate(steps):
        kinds = [str(t.get('type')).rpartition('.')[2] for t in step if isinstance(t, dict)]
        for j, transform in enumerate(step):
            if kinds[j : j + 1] == ['PackDetInputs'] and 'meta_keys' in transform:
                missing = [key for key in VIEW_META_KEYS if key not in transform['meta_keys']]
                if missing:
                    where = ('transforms', str(i), str(j), 'meta_keys')
                    yield (
                        where,
                        f'{", ".join(missing)} missing; without them boxes cannot be mapped back '
                        'to the original image',
                    )
        if 'RandomFlip' in kinds and padded:
            where = ('transforms', str(i))
            yield where, 'RandomFlip after Pad: the padding would move to the other side; swap them'
        flipped |= 'RandomFlip' in kinds
        padded |= 'Pad' in kinds
    if not flipped:
        where = ('transforms',)
        yield where, "no RandomFlip; add [dict(type='RandomFlip', prob=0.)] for views without flips"


def _name(path: tuple[str, ...]) -> str:
    """The last part of ``path`` that is a key, not a list index."""
    return next((part for part in reversed(path) if not part.isdigit()), '')


def _is_component(node: dict, path: tuple[str, ...], role: str, of_ours: bool) -> bool:
    """Whether a dictionary without ``type`` stands where a component is built from it."""
    names = [part for part in path if not part.isdigit()]
    if len(names) == 1:
        if role == 'metric' and 'metrics' in node:
            return False
        return role in ('model', 'transform', 'metric', 'scheduler') or names[0] == 'custom_hooks'
    if names[0] == 'default_hooks' and len(names) == 2:
        return True
    if role == 'model':
        plain = names[-1] in PLAIN or '.'.join(names[-2:]) in PLAIN
        return of_ours and not plain and names[-1] != 'nms'  # that has a default type
    return KEY_ROLES.get(names[-1]) == role and names[-1] != 'override'


def _detectors() -> list[str]:
    return [
        name
        for name, kind in registry.MODELS.module_dict.items()
        if inspect.isclass(kind)
        and issubclass(kind, BaseModel)
        and not issubclass(kind, BaseTTAModel)
    ]


def _is_ours(target: Any) -> bool:
    return getattr(target, '__module__', '').split('.')[0] == 'mmdet_r2'


def _needed(target: Any, kind: str, role: str) -> set[str]:
    """Keys that a component cannot be built without, apart from those that its parent gives."""
    needed = set(REQUIRED.get(kind, '').split())
    if callable(target) and (role != 'model' or _is_ours(target)):
        needed |= _without_default(target) - set(GIVEN.get(role, '').split())
    return needed


def _role_below(role: str, key: str) -> str:
    return KEY_ROLES[key] if key in KEY_ROLES_WITHIN.get(role, ()) else role


def _shape(role: str, path: tuple[str, ...], key: str) -> str:
    """What may stand at ``key`` below ``path``."""
    if f'{_name(path)}.{key}' in PLAIN:
        return 'either'  # of cascades one for each stage
    return KEY_SHAPES[key] if key in KEY_ROLES_WITHIN.get(role, ()) else 'any'


def _nearest(key: str, known: Iterable[str], cutoff: float = 0.45) -> str:
    known = sorted(known)
    near = [name for name in known if _one_letter_apart(str(key), name)]
    near = near or difflib.get_close_matches(str(key), known, n=1, cutoff=cutoff)
    return f' (did you mean {near[0]}?)' if near else ''


def _one_letter_apart(one: str, other: str) -> bool:
    """Whether a letter added, left out, changed, or swapped with the next makes ``other`` of
    ``one``."""
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    short, long = sorted((one, other), key=len)
    start = next((i for i, letter in enumerate(short) if letter != long[i]), len(short))
    if len(short) < len(long):
        return short[start:] == long[start + 1 :]
    swapped = short[start + 1 : start + 2] + short[start] + short[start + 2 :]
    return short[start + 1 :] == long[start + 1 :] or swapped == long[start:]


def _is_misspelt(key: str, names: Iterable[str] = TOP_KEYS) -> bool:
    """Whether a top-level name looks like one of ``names`` with letters wrong, or is a key of
    mmdetection 2.x and the like that has another name now."""
    if key in HINTS:
        return True
    if any(_one_letter_apart(key, name) for name in names):
        return True
    if key in VARIABLES or any(key.startswith(f'{name}_') for name in TOP_KEYS):
        return False
    alike = difflib.SequenceMatcher
    return any(alike(None, key, name).ratio() > _MISSPELT_RATIO for name in names)


def _hint(key: str) -> str:
    if key in HINTS:
        return f' ({HINTS[key]})'
    return _nearest(key, TOP_KEYS, cutoff=0.7)


def _is_read(key: str, files: ConfigFile) -> bool:
    """Whether the last file that assigns ``key``, or one that inherits from it, uses it."""
    chain = list(files.chain())
    last = max(index for index, file in enumerate(chain) if key in file.assigned)
    if key in chain[last].read:
        return True
    heirs = [file for file in chain if file is not chain[last] and chain[last] in file.chain()]
    return any(key in file.read_from_base for file in heirs)


def _values(tree: dict) -> list[Any]:
    """Every value under the known top-level keys: what a helper variable may have been used for."""
    found: list[Any] = []

    def collect(value: Any) -> None:
        found.append(value)
        if isinstance(value, dict):
            for child in value.values():
                collect(child)
        elif isinstance(value, (list, tuple)):
            for child in value:
                collect(child)

    for key in TOP_KEYS & set(tree):
        collect(tree[key])
    return found


def _same(variable: Any, value: Any) -> bool:
    if isinstance(variable, str) and isinstance(value, str) and variable:
        return variable in value  # data_root + 'annotations/...'
    if type(variable) is not type(value) and not (
        isinstance(variable, (list, tuple)) and isinstance(value, (list, tuple))
    ):
        return False
    try:
        return bool(variable == value)
    except (ValueError, RuntimeError):  # arrays
        return False


@functools.cache
def _names(candidate: Registry) -> frozenset[str]:
    names = set(candidate.module_dict)
    return frozenset(names | (_names(candidate.parent) if candidate.parent is not None else set()))


@functools.cache
def _accepted(target: Callable) -> frozenset[str] | None:
    """Keywords that ``target`` can be called with; None if it takes any (a user's class with
    ``**kwargs``)."""
    if isinstance(target, functools.partial):
        target = target.func
    if not inspect.isclass(target):
        names, more = _parameters(target)
        return None if more else names
    names: frozenset[str] = frozenset()
    for base in target.__mro__:
        if base in (object, nn.Module):
            break
        if '__init__' not in vars(base):
            continue
        found, more = _parameters(vars(base)['__init__'])
        names |= found
        if not more:
            return names
    ours = target.__module__.split('.')[0] in _KNOWN_PACKAGES
    return names if ours else None


@functools.cache
def _without_default(target: Callable) -> frozenset[str]:
    """Parameters of a class that have no default value; of a user's class, its own only, as it may
    give values to those of its bases."""
    if not inspect.isclass(target):
        return frozenset()
    names: frozenset[str] = frozenset()
    for base in target.__mro__:
        if '__init__' not in vars(base) or base in (object, nn.Module):
            continue
        try:
            parameters = inspect.signature(vars(base)['__init__']).parameters.values()
        except (ValueError, TypeError):
            break
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names |= {
            p.name
            for p in parameters
            if p.kind in named and p.default is inspect.Parameter.empty and p.name != 'self'
        }
        passes_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        if not passes_on or base.__module__.split('.')[0] not in _KNOWN_PACKAGES:
            break
    return names


def _parameters(function: Callable) -> tuple[frozenset[str], bool]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):
        return frozenset(), True
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = frozenset(p.name for p in parameters if p.kind in named and p.name != 'self')
    return names, any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)


def known_keys(config: Config) -> Config:
    """A copy without helper variables: what is worth writing to a file."""
    kept = {key: value for key, value in config._cfg_dict.items() if key in TOP_KEYS}
    return Config(kept, filename=None, format_python_code=False)
