"""How the documentation site is built: ``make docs``."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = 'mmdet_r2'
author = 'the mmdet_r2 authors'
html_show_copyright = False
release = re.search(r"'(.+)'", (ROOT / 'mmdet_r2/__init__.py').read_text().split('__version__')[1])[
    1
]

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
]
html_theme = 'furo'
html_title = f'mmdet_r2 {release}'
html_static_path = ['static']
html_css_files = ['site.css']
exclude_patterns = ['_build']

# Headings may be linked to as on GitHub, whose readers see the same pages.
myst_heading_anchors = 3
# Files outside docs/ (configs, tools) are linked for GitHub's readers; the site has no copy.
suppress_warnings = ['myst.xref_missing']

autodoc_typehints = 'signature'
autodoc_typehints_format = 'short'
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
autodoc_member_order = 'bysource'
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def plain_returns(app, what, name, obj, options, lines: list[str]) -> None:
    """Have napoleon read what stands under Returns as text: it would take all before the first
    colon for a type, which the signature has."""
    for i, line in enumerate(lines[:-1]):
        if line.strip() == 'Returns:':
            lines[i + 1] = re.sub(r'(\S)', r': \1', lines[i + 1], count=1)


def setup(app) -> None:
    app.connect('autodoc-process-docstring', plain_returns, priority=400)  # before napoleon's
