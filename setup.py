"""Packaging: requirements from requirements/*.txt, and the configs inside the package.

A checkout finds configs/ beside the package. A wheel has no such folder, so the build puts a copy
of configs/ and model-index.yml into ``mmdet_r2/.mim/`` (where mmdetection's tools look as well).
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
SHIPPED = ('configs', 'model-index.yml')


def requirements(name: str) -> list:
    """Lines of requirements/NAME.txt without comments."""
    text = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8')
    lines = (line.partition('#')[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def version() -> str:
    """``__version__`` of the package, read without importing it."""
    text = (ROOT / 'mmdet_r2' / '__init__.py').read_text(encoding='utf-8')
    return re.search(r"^__version__ = '(.+)'", text, re.M)[1]


class BuildWithConfigs(build_py):
    """``build_py`` that also copies the configs into the build folder (never into the checkout)."""

    def run(self) -> None:
        super().run()
        if getattr(self, 'editable_mode', False):
            return  # a checkout's configs are found beside the package and stay editable
        target = Path(self.build_lib) / 'mmdet_r2' / '.mim'
        shutil.rmtree(target, ignore_errors=True)
        for name in SHIPPED:
            source = ROOT / name
            if source.is_dir():
                ignore = shutil.ignore_patterns('__pycache__', '*.pyc')
                shutil.copytree(source, target / name, ignore=ignore)
            elif source.exists():
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target / name)


FEATURES = {name: requirements(name) for name in ('vision', 'web', 'track')}
EVERY_FEATURE = [line for lines in FEATURES.values() for line in lines]

setup(
    name='mmdet_r2',
    version=version(),
    description='Two-stage detection and segmentation with Res2Net, ResNeSt and ResNet',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords='object detection, instance segmentation, Mask R-CNN, Res2Net, ResNeSt',
    packages=find_packages(include=['mmdet_r2', 'mmdet_r2.*']),
    package_data={'mmdet_r2': ['py.typed']},
    python_requires='>=3.10',
    install_requires=requirements('runtime'),
    extras_require={
        **FEATURES,
        'all': EVERY_FEATURE,
        'optional': EVERY_FEATURE,  # its earlier name
        'tests': requirements('tests'),
        'docs': requirements('docs'),
    },
    entry_points={'console_scripts': ['mmdet-r2 = mmdet_r2.cli:main']},
    cmdclass={'build_py': BuildWithConfigs},
    zip_safe=False,
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Intended Audience :: Developers',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
)
