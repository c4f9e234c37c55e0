"""Write ``messages.md``: every error message that is raised for users, its cause and its cure.

The messages are read from the source's syntax tree, so that the list cannot go out of date. What a
message does not say itself is in ``cures.py``.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cures import CURES, TOPICS, Topic

ERRORS = {'ConfigError', 'DataError', 'CheckpointError', 'UserError', 'InstallError'}
#: Functions (of a module all, or those named) and constants that hold messages which others raise.
MAKERS: dict[str, tuple[str, ...]] = {
    'config_check': (),
    'engine.invalid_loss': ('_stop',),
    'ops.__init__': ('_FIX',),
    'zoo.download': ('_unknown_content',),
    'zoo.names': ('no_weights',),
    'zoo.reader': ('_reason', '_refusal'),
}
#: A message that says what to do: it has one of these words.
ADVICE = re.compile(
    r'\b(expected|give|use|(?<!data )set|correct|see|write|add|put|choose|leave|needs?|must|make|'
    r'run|take|remove|install|pass|raise|convert|try|known are|there are|nearest known|'
    r'did you mean|name at least|download it|download or copy|swap|save it|save only|save the file|'
    r'apt-get)\b',
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Message:
    """``text`` has names in capitals for what is filled in."""

    module: str
    text: str

    @property
    def cure(self) -> str | None:
        """What ``cures.py`` says of this message, if it does not say itself what to do."""
        if ADVICE.search(self.text):
            return None
        found = [cure for part, cure in CURES.items() if part in self.text]
        return found[0] if found else None

    @property
    def explained(self) -> bool:
        """Whether a reader learns what to do: from the message, its entry, or its topic's text."""
        return bool(ADVICE.search(self.text) or self.cure or topic_of(self.module).cures)


def messages(package: Path) -> Iterator[Message]:
    """All messages of a package and of ``tools/install.py`` beside it, each once per module."""
    files = [(path, _module(path, package)) for path in sorted(package.rglob('*.py'))]
    files.append((package.parent / 'tools/install.py', 'tools.install'))
    for path, module in files:
        tree = ast.parse(path.read_text(encoding='utf-8'))
        for text in dict.fromkeys(_in(tree, module)):
            yield Message(module, text)


def topic_of(module: str) -> Topic:
    """The topic with the longest prefix of a module's name."""
    fitting = [
        (len(prefix), topic)
        for topic in TOPICS
        for prefix in topic.modules
        if f'{module}.'.startswith(f'{prefix}.')
    ]
    return max(fitting, key=lambda pair: pair[0])[1]


def page(package: Path) -> str:
    """The page, in Markdown."""
    found = list(messages(package))
    lines = [
        '# All messages',
        '',
        'Every message that is raised for users to act on, with what it leaves unsaid. Capitals',
        'stand for what is filled in. Search this page for a few words of yours. The frequent ones',
        'are under [Troubleshooting](troubleshooting.md).',
    ]
    for topic in TOPICS:
        own = [message for message in found if topic_of(message.module) is topic]
        lines += ['', f'## {topic.title}', '', *([topic.text, ''] if topic.text else [])]
        for quoted, cure in dict.fromkeys((_quoted(m.text), m.cure) for m in own):
            lines += [f'- {quoted}', *([f'  <br>{cure}'] if cure else [])]
    return '\n'.join(lines) + '\n'


def _module(path: Path, package: Path) -> str:
    return '.'.join(path.relative_to(package).with_suffix('').parts)


def _in(tree: ast.Module, module: str) -> Iterator[str]:
    """The texts of raised errors, and those that a maker of messages returns, yields or lists."""
    makers = MAKERS.get(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, 'id', None) in ERRORS and node.args:
            yield from _worth(node.args[0])
        elif isinstance(node, ast.FunctionDef) and makers is not None:
            yield from _made(node) if node.name in makers or not makers else ()
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) in (
            makers or ()
        ):
            yield from _worth(node.value)


def _made(function: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(function):
        if isinstance(node, ast.Return | ast.Yield) and node.value is not None:
            parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            yield from (text for part in parts for text in _worth(part))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
            'problem',
            'message',
        ):
            yield from _worth(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith('problems.append'):
            yield from _worth(node.args[0])


def _worth(node: ast.expr) -> Iterator[str]:
    """The text of an expression, where it has words of its own."""
    if isinstance(node, ast.Subscript):
        node = node.value
    text = ' '.join(_text(node).split())
    if len(re.findall(r'\b[a-z]{2,}\b', text)) >= 2:
        yield text


def _text(node: ast.expr) -> str:
    """The literal parts of an expression, and a name in capitals for each of the others."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        text = ''.join(f'\0{_text(part)}' for part in node.values)
        # a name that touches a word or another name stands for a part of the sentence
        name = r'\0[A-Z][A-Z_]*(?=\0|$)'
        text = re.sub(
            rf'(?<=\w)({name})+|{name}(?=\0[a-z])|(\0\.\.\.)({name}|\0\.\.\.)+', '...', text
        )
        return text.replace('\0', '')
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    if isinstance(node, ast.FormattedValue):
        name = _name(node.value)
        return f"'{name}'" if node.conversion == ord('r') else name
    return '...'


def _name(node: ast.expr) -> str:
    """A capitalised name for what an expression gives: that of its variable, if it says enough."""
    name = getattr(node, 'attr', getattr(node, 'id', ''))
    name = name.strip('_').upper()
    return name if len(name) > 3 and name not in {'HINT', 'NEAR'} else '...'


def _quoted(text: str) -> str:
    fence, space = ('``', ' ') if '`' in text else ('`', '')
    return f'{fence}{space}{text}{space}{fence}'


if __name__ == '__main__':
    here = Path(__file__).resolve().parent
    (here / 'messages.md').write_text(page(here.parent / 'mmdet_r2'), encoding='utf-8')
