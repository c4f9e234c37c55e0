"""The installer's judgement (what it accepts, keys, refuses), and what a wheel of ours contains."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope='module')
def install(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location('install', repo / 'tools' / 'install.py')
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(install: ModuleType):
    return install.Environment(Path(sys.executable))


def test_runs_before_anything_is_installed(repo: Path) -> None:
    command = [sys.executable, '-I', '-S', str(repo / 'tools/install.py'), '--help']  # no packages
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '--extras' in done.stdout


def test_torch_and_mmcv_are_left_to_their_own_steps(install: ModuleType) -> None:
    names = [line.partition('>')[0] for line in install.requirements('runtime')]
    assert 'onedl-mmengine' in names and 'pycocotools' in names
    assert not {'torch', 'onedl-mmcv'} & set(names)


def test_operators_of_this_environment_pass_the_probe(install: ModuleType, here) -> None:
    pytest.importorskip('mmcv._ext')
    here.evaluate(install.PROBE)


def test_wheel_without_operators_is_refused(install: ModuleType, here, tmp_path: Path) -> None:
    wheel = tmp_path / 'onedl_mmcv-9-py3-none-any.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('mmcv/__init__.py', '')
        archive.writestr('mmcv/ops/__init__.py', '')
    with pytest.raises(install.InstallError, match='without compiled operators'):
        install.check_wheel(here, wheel, tmp_path / 'unpacked')


def test_wheel_whose_operators_do_not_run_is_refused(
    install: ModuleType, here, tmp_path: Path
) -> None:
    wheel = tmp_path / 'onedl_mmcv-9-py3-none-any.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('mmcv/__init__.py', '')
        archive.writestr('mmcv/_ext.cpython-311-x86_64-linux-gnu.so', b'not a library')
    with pytest.raises(install.InstallError, match='do not run'):
        install.check_wheel(here, wheel, tmp_path / 'unpacked')


def test_cache_key_tells_apart_what_is_not_interchangeable(install: ModuleType) -> None:
    cpu = dict(torch='2.13.0+cpu', cuda=None, gpu=False, nvcc=False, python='cp311')
    gpu = dict(torch='2.13.0', cuda='13.0', gpu=True, nvcc=True, python='cp311', arch='9.0')
    variants = [
        cpu,
        {**cpu, 'torch': '2.14.0+cpu'},
        {**cpu, 'python': 'cp312'},
        gpu,
        {**gpu, 'arch': '8.0;9.0'},
        {**gpu, 'cuda': '12.8'},
    ]
    keys = {install.wheel_key('onedl-mmcv==2.3.6', facts) for facts in variants}
    keys.add(install.wheel_key('onedl-mmcv==2.3.7', cpu))
    assert len(keys) == len(variants) + 1
    assert all('/' not in key and ' ' not in key for key in keys)
    # A GPU without nvcc gets operators for the CPU: the same wheel.
    without = {**cpu, 'gpu': True, 'cuda': '13.0', 'arch': '9.0'}
    assert install.wheel_key('x', without) == install.wheel_key('x', cpu)


def test_cached_wheel_is_installed_without_compiling(
    install: ModuleType, here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MMDET_R2_CACHE', str(tmp_path))
    facts = json.loads(here.evaluate(install.TORCH_FACTS))
    home = tmp_path / 'wheels' / install.wheel_key('onedl-mmcv==9', facts)
    home.mkdir(parents=True)
    (home / 'onedl_mmcv-9-py3-none-any.whl').touch()
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(install, 'check_wheel', lambda env, wheel, folder: None)
    monkeypatch.setattr(install, 'build_mmcv', lambda *a: pytest.fail('compiled'))
    monkeypatch.setattr(here, 'pip', lambda *a, constrain=True: calls.append(a))
    install.install_mmcv(here, 'onedl-mmcv==9', jobs=1, rebuild=False)
    assert calls[0][-1].endswith('onedl_mmcv-9-py3-none-any.whl') and '--no-deps' in calls[0]


def test_bad_cached_wheel_is_replaced_and_a_bad_build_never_cached(
    install: ModuleType, here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MMDET_R2_CACHE', str(tmp_path))
    facts = json.loads(here.evaluate(install.TORCH_FACTS))
    home = tmp_path / 'wheels' / install.wheel_key('onedl-mmcv==9', facts)
    home.mkdir(parents=True)
    (home / 'onedl_mmcv-9-py3-none-any.whl').write_bytes(b'cut short')

    def build(env: object, spec: str, facts: dict, folder: Path, jobs: int) -> Path:
        wheel = folder / 'onedl_mmcv-9-py3-none-any.whl'
        with zipfile.ZipFile(wheel, 'w') as archive:
            archive.writestr('mmcv/__init__.py', '')
        return wheel

    monkeypatch.setattr(install, 'build_mmcv', build)
    monkeypatch.setattr(here, 'pip', lambda *a, constrain=True: pytest.fail('installed'))
    with pytest.raises(install.InstallError, match='without compiled operators'):
        install.install_mmcv(here, 'onedl-mmcv==9', jobs=1, rebuild=False)
    assert (home / 'onedl_mmcv-9-py3-none-any.whl').read_bytes() == b'cut short'  # as it was
    assert not [p for p in (tmp_path / 'wheels').iterdir() if p.name.startswith('.build')]
    monkeypatch.setattr(install, 'check_wheel', lambda env, wheel, folder: None)
    monkeypatch.setattr(here, 'pip', lambda *a, constrain=True: None)
    install.install_mmcv(here, 'onedl-mmcv==9', jobs=1, rebuild=True)
    assert zipfile.is_zipfile(home / 'onedl_mmcv-9-py3-none-any.whl')


def test_missing_compiler_is_said(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv('PATH', str(tmp_path))
    monkeypatch.delenv('CXX', raising=False)
    with pytest.raises(install.InstallError, match='apt-get install g'):
        install.find_compiler()


def test_stamp_covers_requirements_extras_and_versions(
    install: ModuleType, here, tmp_path: Path
) -> None:
    wanted = install.digest({'tests'}, 'default', install.MMCV)
    stamp = tmp_path / 'stamp.json'
    assert not install.up_to_date(here, wanted, stamp)
    have = here.installed()
    versions = {'torch': have['torch']}
    stamp.write_text(json.dumps({**wanted, 'versions': versions}))
    assert install.up_to_date(here, wanted, stamp)
    assert install.up_to_date(here, install.digest(set(), 'default', install.MMCV), stamp)
    for other in (
        install.digest(set(), 'default', install.MMCV, operators=True),
        install.digest({'docs'}, 'default', install.MMCV),
        install.digest({'tests'}, 'torch==1', install.MMCV),
        install.digest({'tests'}, 'default', 'onedl-mmcv==1'),
        {**wanted, 'inputs': 'changed'},
    ):
        assert not install.up_to_date(here, other, stamp)
    stamp.write_text(json.dumps({**wanted, 'versions': {'torch': '0.0'}}))
    assert not install.up_to_date(here, wanted, stamp)


def test_unknown_extra_is_one_line_and_exit_code_2(repo: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(repo / 'tools/install.py'), '--extras', 'test'],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "no extra 'test'" in done.stderr and 'tests' in done.stderr


def test_wheel_of_ours_has_the_configs_inside(repo: Path, tmp_path: Path) -> None:
    """Built, unpacked, and imported from there: configs are found by name without a checkout."""
    pytest.importorskip('setuptools')
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-build-isolation', '--no-index',
         '--quiet', '--wheel-dir', str(tmp_path), str(_copy(repo, tmp_path / 'source'))],
        capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / 'site')
    code = (
        'import mmdet_r2; from mmdet_r2.config import load_config; from mmdet_r2.zoo import models;'
        "config = load_config('mask_rcnn_r2_101_fpn_2x_coco');"
        'print(mmdet_r2.__file__, config.filename, config.model.type, len(models()))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code],
        env={**os.environ, 'PYTHONPATH': str(tmp_path / 'site')},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    module, config, name, count = done.stdout.split()[-4:]
    assert module.startswith(str(tmp_path / 'site')) and config.startswith(str(tmp_path / 'site'))
    assert name == 'MaskRCNN' and int(count) > 10


def _copy(repo: Path, target: Path) -> Path:
    """The tracked kinds of files that a build reads: it would leave build/ in the checkout."""
    ignore = shutil.ignore_patterns('__pycache__', '.mim')
    for name in ('mmdet_r2', 'configs', 'requirements'):
        shutil.copytree(repo / name, target / name, ignore=ignore)
    for name in (
        'setup.py',
        'pyproject.toml',
        'README.md',
        'LICENSE',
        'model-index.yml',
        'MANIFEST.in',
    ):
        shutil.copy(repo / name, target / name)
    return target
