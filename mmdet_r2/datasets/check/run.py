"""The whole check, and its report."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmdet_r2.datasets.check.content import check_content, check_together
from mmdet_r2.datasets.check.findings import KINDS, Finding, problems
from mmdet_r2.datasets.check.statistics import Statistics, bars
from mmdet_r2.datasets.check.subject import Subject


def check_subjects(
    subjects: Sequence[Subject], workers: int | None = None, decode: bool = True
) -> dict[str, list[Finding]]:
    """Findings of every data set, and of training against validation data, by data set name.

    Args:
        workers: processes that read images; None is one per CPU core.
        decode: read whole files; False looks at the headers only, and cannot tell truncated files
            or compare contents.
    """
    for subject in subjects:
        if not subject.files:
            subject.look_at_files(workers, decode)
    found = {subject.name: check_content(subject) for subject in subjects}
    for name, together in check_together(subjects).items():
        found[name] += together
    for subject in subjects:
        others = [other for other in subjects if other is not subject]
        for name in subject.unlisted(others):
            found[subject.name].append(Finding('file-unlisted', 'not in the annotations', name))
    return found


def report_lines(
    subject: Subject,
    findings: Sequence[Finding],
    numbers: Statistics,
    most: int = 5,
    anchors: np.ndarray | None = None,
) -> list[str]:
    """The report of a data set, for reading.

    Args:
        most: findings of a kind that are shown one by one; 0 shows all.
        anchors: of :func:`anchor_coverage`.
    """
    lines = [
        f'{subject.name}: {numbers.num_images} images ({numbers.num_empty} without objects) in '
        f'{subject.image_dir or "."}, {len(numbers.sides)} objects, {numbers.num_crowds} crowds, '
        f'{len(numbers.per_class)} classes'
    ]
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding)
    wrong = problems(findings)
    for title, is_problem in (('problems', True), ('notes', False)):
        kinds = [kind for kind in KINDS if kind in by_kind and KINDS[kind].problem == is_problem]
        if not kinds:
            continue
        total = sum(len(by_kind[kind]) for kind in kinds)
        lines.append(f'{total} {title}:')
        for kind in kinds:
            lines.append(
                f'  {len(by_kind[kind])} {KINDS[kind].title} ({KINDS[kind].effect}) [{kind}]'
            )
            shown = by_kind[kind][: most or None]
            lines += [f'    {finding.line()}' for finding in shown]
            if len(shown) < len(by_kind[kind]):
                lines.append(f'    ... and {len(by_kind[kind]) - len(shown)} more')
    if not wrong:
        lines.append('no problems')
    lines.append('objects per class:')
    rows = sorted(numbers.per_class.items(), key=lambda row: -row[1])
    lines += [f'  {line}' for line in bars(rows)]
    sizes = ', '.join(f'{count} {name}' for name, count in numbers.sizes.items())
    lines.append(f'objects by side (square root of the area, pixels): {sizes}')
    lines += [f'  {line}' for line in bars(numbers.histogram)]
    if anchors is not None and len(anchors):
        share = [100 * float((anchors >= limit).mean()) for limit in (0.5, 0.7)]
        lines.append(
            f'anchors: {share[0]:.1f} % of the objects have one of their shape with IoU >= 0.5, '
            f'{share[1]:.1f} % >= 0.7'
        )
    return lines


def report_record(
    subject: Subject, findings: Sequence[Finding], numbers: Statistics
) -> Mapping[str, Any]:
    """The report of a data set as JSON: everything, not only the first of a kind."""
    return dict(
        name=subject.name,
        image_dir=subject.image_dir,
        role=subject.role,
        clean=not problems(findings),
        findings=[finding.record() for finding in findings],
        statistics=numbers.record(),
    )
