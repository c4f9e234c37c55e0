"""What happened to every tensor when weights were loaded."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .identify import UNKNOWN, Architecture, guess_models
from .layouts import MMDETECTION

# Parts that feed what is behind them, and words of the families for which that holds: offsets of
# deformable convolutions, and HTC's branches
_FEEDS = (
    ('backbone.conv_offset', re.compile(r'(backbone\.)?layer.*\.conv_offset\.'), ('',)),
    ('roi_head.semantic_head', re.compile(r'roi_head\.semantic_head\.'), ('cascade', 'htc')),
    (
        'roi_head.mask_head.conv_res',
        re.compile(r'roi_head\.mask_head\.\d+\.conv_res\.'),
        ('mask', 'htc'),
    ),
)


@dataclass(frozen=True)
class Mismatch:
    """A tensor that has another shape in the file than in the model."""

    key: str
    found: tuple[int, ...]
    expected: tuple[int, ...]


@dataclass
class LoadReport:
    """What :func:`load_checkpoint` did. ``str(report)`` is the one-line summary, :meth:`table` the
    details.

    ``num_batches_tracked`` counters are never counted: old files lack them and nothing depends on
    them.

    Attributes:
        source: what was asked for.
        layout: name of the layout the file was recognised as.
        loaded, total: tensors copied, and tensors that the model has.
        weight_fraction: share of the model's weights (elements) that was copied, in [0, 1].
        mismatched: in both, with different shapes; the model keeps its initial values.
        missing: the model's tensors that the file lacks; they keep their initial values.
        unexpected: the file's tensors that the model lacks; ignored.
        found, expected: the architectures of the file and of the model.
        note: what the weights alone do not bring along, or ''; logged as a warning.
        dataset_meta: ``classes`` and ``palette`` as the file carries them, or None.
    """

    source: str
    layout: str
    loaded: int
    total: int
    weight_fraction: float
    mismatched: list[Mismatch] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    found: Architecture = UNKNOWN
    expected: Architecture = UNKNOWN
    note: str = ''
    dataset_meta: dict[str, Any] | None = None

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model was loaded, and nothing that their outputs depend on
        was left out (otherwise the file may have had more)."""
        return not self.problem

    @property
    def problem(self) -> str:
        """What the results would suffer from, as the end of a sentence that begins with the file;
        '' where the load is :attr:`complete`."""
        if self.loaded < self.total:
            return 'does not fill the model, whose other parts would be untrained'
        if self.cut_off:
            return 'does not belong to the model, which lacks what its heads were trained with'
        return ''

    @property
    def cut_off(self) -> list[str]:
        """Parts of the file without which the heads that were loaded compute something else:
        offsets of deformable convolutions; HTC's semantic branch and mask information flow, in a
        model that has HTC's heads but not those."""
        return [
            part
            for part, pattern, fed in _FEEDS
            if any(word in self.expected.family for word in fed)
            and any(pattern.match(key) for key in self.unexpected)
        ]

    def __str__(self) -> str:
        percent = 100 * self.weight_fraction
        # 99.96 must not read as 100.0: something was left out
        shown = '100' if self.loaded == self.total else f'{min(percent, 99.9):.1f}'
        text = f'loaded {self.loaded}/{self.total} tensors ({shown} % of weights)'
        if self.layout != MMDETECTION.name:
            text += f' from the layout {self.layout!r}'
        if self.mismatched:
            text += f'; re-initialised: {grouped_shapes(self.mismatched)}'
        if self.missing:
            text += f'; not in the file: {grouped(self.missing)}'
        if self.unexpected:
            text += f'; ignored: {grouped(self.unexpected)}'
        if self.cut_off:
            text += f'; its heads were trained with {" and ".join(self.cut_off)}'
        here, there = self.expected, self.found
        if there.family and here.family and there.family != here.family:
            text += f'; the file is {described(there)}, the model {here.family}'
        return text

    def table(self, limit: int = 60) -> str:
        """Table with a row per tensor that was not loaded or not used (at most ``limit``); '' if
        there is none."""
        rows = [('tensor', 'in the file', 'in the model')]
        rows += [(m.key, str(list(m.found)), str(list(m.expected))) for m in self.mismatched]
        rows += [(key, 'missing', '') for key in self.missing]
        rows += [(key, '', 'missing') for key in self.unexpected]
        if len(rows) == 1:
            return ''
        left_out = max(0, len(rows) - 1 - limit)
        rows = rows[: limit + 1]
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        lines = [
            '  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows
        ]
        lines.insert(1, '  '.join('-' * width for width in widths))
        if left_out:
            lines.append(f'... and {left_out} more')
        return '\n'.join(lines)


def described(found: Architecture) -> str:
    names = guess_models(found)
    return f'{found} ({", ".join(names)})' if names else str(found)


def _module_of(key: str) -> str:
    return key.rpartition('.')[0] or key


def grouped(keys: Sequence[str], limit: int = 6) -> str:
    """Keys by module: 'fc (2 tensors), neck.fpn_convs.0.conv (2 tensors), ...'; by first parts
    where they are many."""
    for depth in (None, 4, 3, 2, 1):
        groups: dict[str, int] = {}
        for key in keys:
            module = _module_of(key)
            module = module if depth is None else '.'.join(module.split('.')[:depth])
            groups[module] = groups.get(module, 0) + 1
        if len(groups) <= limit:
            break
    shown = [
        f'{module} ({count} tensor{"s" if count > 1 else ""})' for module, count in groups.items()
    ]
    return ', '.join(shown[:limit]) + (
        f', ... {len(shown) - limit} more' if len(shown) > limit else ''
    )


def grouped_shapes(mismatched: Sequence[Mismatch], limit: int = 8) -> str:
    """'roi_head.bbox_head.fc_cls (81 -> 6 rows), ...': one entry per module, with what changed."""
    groups: dict[str, str] = {}
    for item in mismatched:
        same_rest = len(item.found) == len(item.expected) and item.found[1:] == item.expected[1:]
        if same_rest and item.found:
            change = f'{item.found[0]} -> {item.expected[0]} rows'
        else:
            change = f'{list(item.found)} -> {list(item.expected)}'
        groups.setdefault(_module_of(item.key), change)
    shown = [f'{module} ({change})' for module, change in groups.items()]
    return ', '.join(shown[:limit]) + (
        f', ... {len(shown) - limit} more' if len(shown) > limit else ''
    )
