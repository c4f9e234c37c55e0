#!/usr/bin/env python3
"""Create the environment: torch, mmcv with its compiled operators, everything else, this project.

    python3 tools/install.py                      # into .venv beside the repository's files
    python3 tools/install.py --extras tests       # with what the tests need
    python3 tools/install.py --torch torch==2.10.0 --venv ~/envs/r2
    python3 tools/install.py --here               # into the running interpreter's environment

Standard library only, so that it runs before anything is installed. Running it again is quick when
there is nothing to do.

Why a script and not ``pip install -e .``: pip builds mmcv in an isolated environment without torch,
and mmcv then silently installs itself *without* compiled operators (``No module named 'mmcv._ext'``
much later). Here mmcv is compiled against the torch of the environment, the operators are run once
before the wheel may enter the cache, and no later step may replace that torch.

pip's own configuration (index, proxies, find-links) is honoured throughout.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
TORCH = 'torch==2.13.0'  # the version the tests run with; TORCH=... or --torch takes another
MMCV = 'onedl-mmcv==2.3.6'  # likewise MMCV=... or --mmcv
STAMP = '.mmdet_r2_install.json'
# Installed apart from requirements/runtime.txt: torch once and never replaced, mmcv compiled here.
APART = ('torch', 'onedl-mmcv')

# What "the operators work" means: both kinds of operator that every model here needs really run.
PROBE = """
import torch, mmcv, mmcv._ext
from mmcv.ops import nms, roi_align
boxes = torch.tensor([[0., 0., 10., 10.], [0., 0., 10., 9.], [20., 20., 30., 30.]])
kept = nms(boxes, torch.tensor([.9, .8, .7]), 0.5)[1].tolist()
assert kept == [0, 2], f'nms kept {kept}, expected [0, 2]'
feature = torch.ones(1, 1, 8, 8, requires_grad=True)
pooled = roi_align(feature, torch.tensor([[0., 1., 1., 5., 5.]]), (2, 2), 1.0, 0, 'avg', True)
pooled.sum().backward()
assert torch.allclose(pooled, torch.ones(1, 1, 2, 2)) and feature.grad.sum() > 3.9, pooled
"""

# What the operators are compiled for; printed as JSON by the environment's own interpreter.
TORCH_FACTS = """
import json, os, sys, torch
facts = dict(torch=torch.__version__, cuda=torch.version.cuda, gpu=torch.cuda.is_available())
facts['python'] = 'cp%d%d' % sys.version_info[:2]
facts['nvcc'] = False
if facts['gpu'] or os.environ.get('FORCE_CUDA') == '1':
    from torch.utils.cpp_extension import CUDA_HOME
    facts['nvcc'] = bool(CUDA_HOME) and os.path.exists(os.path.join(CUDA_HOME, 'bin', 'nvcc'))
if facts['gpu']:
    capabilities = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    facts['arch'] = ';'.join('%d.%d' % c for c in sorted(capabilities))
print(json.dumps(facts))
"""


class InstallError(Exception):
    """Something the user has to repair; the message says how."""


def say(message: str) -> None:
    """Print one line at once, also when the output is a pipe."""
    print(f'[install] {message}', flush=True)


def took(start: float) -> str:
    """Seconds since ``start`` as ``3.4 s`` or ``2 min 05 s``."""
    seconds = time.monotonic() - start
    if seconds < 60:
        return f'{seconds:.1f} s'
    return f'{int(seconds) // 60} min {int(seconds) % 60:02d} s'


def digest(
    extras: set[str], torch_spec: str, mmcv_spec: str, operators: bool = False
) -> dict[str, object]:
    """What the stamp compares: every input of the installation except the extras, plus the extras.

    A change of any requirements file, of the packaging files or of this script makes it run again.
    """
    md5 = hashlib.md5(usedforsecurity=False)
    files = [*sorted((REPO / 'requirements').glob('*.txt')), REPO / 'setup.py', Path(__file__)]
    for file in [*files, REPO / 'pyproject.toml']:
        # pyproject.toml by its build part alone: a lint rule is no reason to install again.
        text = file.read_text() if file.exists() else ''
        if file.name == 'pyproject.toml':
            text = text.partition('[tool.')[0]
        md5.update(text.encode())
    return {
        'inputs': md5.hexdigest(),
        'repo': str(REPO),
        'torch_spec': torch_spec,
        'mmcv_spec': mmcv_spec,
        'extras': sorted(extras),
        'operators': operators,
    }


class Environment:
    """One Python environment: its interpreter, and pip run inside it."""

    def __init__(self, python: Path) -> None:
        self.python = python
        self.env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'PYTHONHOME')}
        # Tools that are looked up by name (ninja) come from this environment first.
        self.env['PATH'] = f'{python.parent}{os.pathsep}{self.env.get("PATH", "")}'
        self.env['PIP_DISABLE_PIP_VERSION_CHECK'] = '1'
        self.constraints: Path | None = None

    @property
    def prefix(self) -> Path:
        """Root of the environment (``sys.prefix``)."""
        return Path(self.evaluate('import sys; print(sys.prefix)').strip())

    def evaluate(self, code: str, extra_path: Path | None = None) -> str:
        """Standard output of ``code``; raises InstallError with the last lines of its errors."""
        env = dict(self.env)
        if extra_path is not None:
            env['PYTHONPATH'] = str(extra_path)
        # From a folder without packages: a stray mmcv/ in the current one must not be imported.
        done = subprocess.run(
            [str(self.python), '-c', code],
            env=env,
            cwd=tempfile.gettempdir(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise InstallError('\n'.join(done.stderr.strip().splitlines()[-4:]))
        return done.stdout

    def installed(self) -> dict[str, str]:
        """Versions of the installed distributions by normalised name; imports none of them."""
        code = (
            'import json, re; from importlib.metadata import distributions as d; '
            'print(json.dumps({re.sub("[-_.]+", "-", x.metadata["Name"]).lower(): x.version '
            'for x in d() if x.metadata["Name"]}))'
        )
        return json.loads(self.evaluate(code))

    def pip(self, *arguments: str, constrain: bool = True) -> None:
        """Run pip here, keeping torch as it is; raises InstallError when it fails."""
        command = [str(self.python), '-m', 'pip', *arguments]
        if constrain and self.constraints is not None:
            command += ['--constraint', str(self.constraints)]
        # Quiet unless something goes wrong; warnings about unreachable extra indexes are noise.
        done = subprocess.run(
            command, env=self.env, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT
        )
        if done.returncode:
            tail = '\n'.join(done.stdout.strip().splitlines()[-25:])
            raise InstallError(f'{tail}\npip failed: {" ".join(command[1:])}')


def make_venv(folder: Path) -> Environment:
    """The virtual environment at ``folder``, created where it is missing."""
    python = folder / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    if python.exists():
        return Environment(python)
    package = f'python3.{sys.version_info[1]}-venv'
    try:
        import ensurepip  # noqa: F401
        import venv
    except ImportError:
        raise InstallError(
            f'this Python cannot create virtual environments ({sys.executable} has no ensurepip). '
            f'On Debian or Ubuntu: apt-get install {package}'
        ) from None
    start = time.monotonic()
    try:
        venv.EnvBuilder(with_pip=True, symlinks=os.name != 'nt').create(folder)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(folder, ignore_errors=True)  # half an environment would be taken for one
        raise InstallError(
            f'could not create {folder}: {error}. On Debian or Ubuntu: apt-get install {package}'
        ) from None
    say(f'created {folder} with Python {platform.python_version()} ({took(start)})')
    return Environment(python)


def install_torch(env: Environment, spec: str, explicit: bool) -> None:
    """Install torch unless one is there; a version the user asks for explicitly always wins."""
    have = env.installed().get('torch')
    if have and not explicit:
        say(f'torch {have} is already there: kept')
        return
    start = time.monotonic()
    if not have:
        say(f'installing {spec} (a large download the first time)')
    env.pip('install', spec)
    say(f'torch {env.installed()["torch"]} ({took(start)})')


def write_constraints(env: Environment, folder: Path) -> None:
    """From here on pip keeps torch (and a torchvision built for it) exactly as installed."""
    have = env.installed()
    pins = [f'{name}=={have[name]}' for name in ('torch', 'torchvision') if name in have]
    path = folder / 'constraints.txt'
    path.write_text('\n'.join(pins) + '\n')
    env.constraints = path


def requirements(name: str) -> list[str]:
    """Lines of requirements/NAME.txt without comments and without what is installed apart."""
    path = REPO / 'requirements' / f'{name}.txt'
    if not path.exists():
        known = ', '.join(sorted(p.stem for p in path.parent.glob('*.txt')))
        raise InstallError(f'no extra {name!r}; there are: {known}')
    lines = (line.partition('#')[0].strip() for line in path.read_text().splitlines())
    return [x for x in lines if x and re.split(r'[<>=!~\[; ]', x)[0].lower() not in APART]


def install_requirements(env: Environment, extras: set[str]) -> None:
    """Everything but torch, mmcv and the project itself, in one resolution."""
    start = time.monotonic()
    wanted = [x for name in ('build', 'runtime', *sorted(extras)) for x in requirements(name)]
    have = env.installed()
    if not any(name.startswith('opencv-') for name in have):
        # mmcv asks for opencv-python, whose windows need libGL; the headless one has no such need
        # and is the same module. An OpenCV that is there is left alone.
        wanted.append('opencv-python-headless')
    env.pip('install', *wanted)
    say(f'requirements: build, runtime{"".join(", " + x for x in sorted(extras))} ({took(start)})')


def cache_folder() -> Path:
    """Where compiled wheels are kept: $MMDET_R2_CACHE or ~/.cache/mmdet_r2, then ``wheels``."""
    base = os.environ.get('MMDET_R2_CACHE')
    if not base:
        base = os.path.join(os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'mmdet_r2')
    return Path(base).expanduser() / 'wheels'


def find_compiler() -> str:
    """The C++ compiler that torch's extension builder would use."""
    wanted = os.environ.get('CXX') or 'c++'
    if found := shutil.which(wanted.split()[0]):
        return found
    raise InstallError(
        f"no C++ compiler found ({wanted}): mmcv's operators are compiled on this machine. "
        'On Debian or Ubuntu: apt-get install g++ (or set CXX)'
    )


def check_headers(env: Environment) -> None:
    """Python's own headers: Debian ships them apart from the interpreter."""
    code = "import sysconfig; print(sysconfig.get_paths()['include'])"
    include = Path(env.evaluate(code).strip())
    if not (include / 'Python.h').exists():
        raise InstallError(
            f"{include}/Python.h is missing: mmcv's operators cannot be compiled without it. "
            f'On Debian or Ubuntu: apt-get install python3.{sys.version_info[1]}-dev'
        )


def build_mmcv(env: Environment, spec: str, facts: dict, folder: Path, jobs: int) -> Path:
    """Compile mmcv into ``folder`` and return the wheel; raises InstallError, log kept, on failure.

    The log goes to ``folder/../build.log`` so that a failure can be read afterwards.
    """
    compiler = find_compiler()
    check_headers(env)
    cuda = facts['nvcc']
    say(
        f'compiling mmcv ({spec}) against torch {facts["torch"]} for the '
        f'{"GPU and CPU" if cuda else "CPU"}: {compiler}, {jobs} jobs, about '
        f'{8 * (3 if cuda else 1)} core minutes'
    )
    build_env = dict(env.env, MMCV_WITH_OPS='1', MAX_JOBS=str(jobs))
    # No debug information: it makes the compile slower and the library ten times larger.
    build_env['CFLAGS'] = f'{build_env.get("CFLAGS", "")} -g0'.strip()
    build_env['CXXFLAGS'] = f'{build_env.get("CXXFLAGS", "")} -g0'.strip()
    if cuda:
        build_env['FORCE_CUDA'] = '1'
        if facts.get('arch'):
            build_env.setdefault('TORCH_CUDA_ARCH_LIST', facts['arch'])
    else:
        build_env['FORCE_CUDA'] = '0'
        build_env['CUDA_VISIBLE_DEVICES'] = ''  # else mmcv's setup.py looks for nvcc and stops
    name = re.split(r'[<>=!~ ]', spec)[0]
    # --no-cache-dir: pip's own cache may hold a wheel built without operators.
    command = [
        str(env.python),
        '-m',
        'pip',
        'wheel',
        spec,
        '--verbose',
        '--no-cache-dir',
        '--no-deps',
        '--no-build-isolation',
        '--no-binary',
        name,
        '--wheel-dir',
        str(folder),
    ]
    log = folder.parent / 'build.log'
    start = time.monotonic()
    with log.open('w', errors='replace') as sink:
        process = subprocess.Popen(
            command,
            env=build_env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors='replace',
        )
        assert process.stdout is not None
        progress = ['']
        stop = threading.Event()

        def report() -> None:
            while not stop.wait(30):
                say(f'  compiling mmcv: {took(start)}{progress[0]}')

        ticker = threading.Thread(target=report, daemon=True)
        ticker.start()
        try:
            for line in process.stdout:
                sink.write(line)
                if step := re.search(r'\[(\d+)/(\d+)\]', line):  # ninja's counter
                    progress[0] = f', {step[1]} of {step[2]} files'
            code = process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            stop.set()
            ticker.join()
    wheels = sorted(folder.glob('*.whl'))
    if code or not wheels:
        lines = log.read_text(errors='replace').splitlines()
        errors = [x for x in lines if re.search(r'\berror\b|Error:|fatal', x)][:15]
        shown = '\n'.join(errors or lines[-15:])
        kept = cache_folder() / 'failed_build.log'
        shutil.copy(log, kept)
        raise InstallError(f'{shown}\nmmcv did not compile; the whole log: {kept}')
    say(f'compiled mmcv ({took(start)})')
    return wheels[0]


def check_wheel(env: Environment, wheel: Path, folder: Path) -> None:
    """Unpack ``wheel`` beside the environment and run its operators; raises InstallError if not."""
    with zipfile.ZipFile(wheel) as archive:
        if not any(re.match(r'mmcv/_ext\..*(so|pyd)$', name) for name in archive.namelist()):
            raise InstallError(f'{wheel.name} was built without compiled operators (no mmcv/_ext)')
        archive.extractall(folder)
    try:
        env.evaluate(PROBE, extra_path=folder)
    except InstallError as error:
        raise InstallError(f"{wheel.name}: mmcv's operators do not run:\n{error}") from None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One build at a time on this machine: the second waits, then finds the first one's wheel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as file:
        try:
            import fcntl
        except ImportError:  # not a POSIX system: build without the lock
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say('another installation is compiling mmcv: waiting for it')
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def wheel_key(spec: str, facts: dict) -> str:
    """Folder name in the cache: everything that makes a compiled wheel usable or not."""
    kind = f'cu{facts["cuda"]}-{facts.get("arch", "any")}' if facts['nvcc'] else 'cpu'
    parts = (spec, f'torch{facts["torch"]}', facts['python'], kind, platform.machine())
    return '-'.join(re.sub(r'[^\w.+]+', '_', part) for part in parts)


def install_mmcv(env: Environment, spec: str, jobs: int, rebuild: bool) -> None:
    """mmcv with operators that run, from the wheel cache or compiled into it."""
    facts = json.loads(env.evaluate(TORCH_FACTS))
    if facts['gpu'] and not facts['nvcc']:
        say(
            "NOTE: there is a GPU but no nvcc (CUDA toolkit): mmcv's operators are compiled for "
            'the CPU only. Install the toolkit of CUDA ' + str(facts['cuda']) + ' (or set '
            'CUDA_HOME) and run this again with --rebuild, or install torchvision.'
        )
    cache = cache_folder()
    home = cache / wheel_key(spec, facts)
    with locked(cache / '.lock'), tempfile.TemporaryDirectory(dir=cache, prefix='.build-') as tmp:
        wheels = sorted(home.glob('*.whl'))
        if wheels and not rebuild:
            wheel = wheels[-1]
            try:
                check_wheel(env, wheel, Path(tmp, 'unpacked'))
            except (InstallError, zipfile.BadZipFile, OSError) as error:
                say(f'the cached wheel cannot be used and is thrown away: {error}')
                wheels = []
            else:
                say(f'mmcv with operators: from the cache ({wheel.name})')
        if rebuild or not wheels:
            fresh = Path(tmp, 'fresh')
            fresh.mkdir()
            wheel = build_mmcv(env, spec, facts, fresh, jobs)
            shutil.rmtree(Path(tmp, 'unpacked'), ignore_errors=True)
            check_wheel(env, wheel, Path(tmp, 'unpacked'))
            # Only a checked wheel gets here, and it appears under its final name in one step.
            if home.exists():
                shutil.rmtree(home)
            os.replace(fresh, home)
            wheel = home / wheel.name
            say(f'kept in the cache: {wheel}')
        env.pip(
            'install', '--no-deps', '--no-index', '--force-reinstall', str(wheel), constrain=False
        )


def install_plain_mmcv(env: Environment, spec: str) -> None:
    """mmcv without operators: on the CPU the package has its own, and nothing is compiled."""
    start = time.monotonic()
    env.env['MMCV_WITH_OPS'] = '0'
    env.pip('install', '--no-deps', spec)
    say(f'mmcv without compiled operators, which only GPUs need ({took(start)})')


def up_to_date(env: Environment, wanted: dict, stamp: Path) -> bool:
    """Whether the stamp says that all of ``wanted`` is there, with torch and mmcv unchanged."""
    try:
        have = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return False
    # Without an explicit --torch whatever torch is there is right.
    free = {'extras', 'operators'} | (
        {'torch_spec'} if wanted['torch_spec'] == 'default' else set()
    )
    if any(have.get(key) != wanted[key] for key in wanted if key not in free):
        return False
    if not set(wanted['extras']) <= set(have['extras']):
        return False
    if wanted['operators'] and not have['operators']:
        return False
    installed = env.installed()
    return all(installed.get(name) == have['versions'].get(name) for name in have['versions'])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--venv',
        default=os.environ.get('VENV') or str(REPO / '.venv'),
        help='folder of the virtual environment (created; default .venv)',
    )
    parser.add_argument(
        '--here', action='store_true', help='install into the running interpreter instead of a venv'
    )
    parser.add_argument(
        '--torch',
        default=os.environ.get('TORCH') or None,
        metavar='SPEC',
        help=f'requirement or wheel file (default {TORCH}, or the one there)',
    )
    parser.add_argument('--mmcv', default=os.environ.get('MMCV') or MMCV, metavar='SPEC')
    parser.add_argument(
        '--extras',
        default='',
        metavar='A,B',
        help='requirements/*.txt to add: tests, docs, vision, web, track',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=int(os.environ.get('MAX_JOBS') or 0),
        help='parallel compiler processes (default: cores, at most 1 per 2 GB)',
    )
    parser.add_argument('--rebuild', action='store_true', help='compile mmcv even if it is cached')
    parser.add_argument(
        '--operators',
        action='store_true',
        help="compile mmcv's operators although there is no CUDA toolkit, as for --extras tests",
    )
    args = parser.parse_args()

    start = time.monotonic()
    if sys.version_info < (3, 10):  # noqa: UP036 (this script runs before pip can refuse)
        raise InstallError(f'Python 3.10 or newer is needed; this is {platform.python_version()}')
    extras = {x for x in re.split(r'[,\s]+', args.extras) if x}
    for name in extras:
        requirements(name)  # an unknown extra fails before anything is downloaded
    env = (
        Environment(Path(sys.executable))
        if args.here
        else make_venv(Path(args.venv).expanduser().absolute())
    )
    stamp = env.prefix / STAMP
    operators = args.operators or args.rebuild or 'tests' in extras
    wanted = digest(extras, args.torch or 'default', args.mmcv, operators)
    if not args.rebuild and up_to_date(env, wanted, stamp):
        say(f'{env.prefix} is up to date ({took(start)})')
        return
    with contextlib.suppress(OSError, ValueError):  # what earlier runs added stays part of it
        earlier = json.loads(stamp.read_text())
        extras |= set(earlier['extras'])
        operators |= earlier.get('operators', True)
    stamp.unlink(missing_ok=True)  # an interrupted run must not look finished

    with tempfile.TemporaryDirectory(prefix='mmdet_r2-') as tmp:
        install_torch(env, args.torch or TORCH, explicit=args.torch is not None)
        write_constraints(env, Path(tmp))
        install_requirements(env, extras)
        facts = json.loads(env.evaluate(TORCH_FACTS))
        operators |= facts['nvcc']
        if operators:
            install_mmcv(env, args.mmcv, args.jobs or default_jobs(), args.rebuild)
        else:
            if facts['gpu']:
                say(
                    'NOTE: there is a GPU but no nvcc (CUDA toolkit): install torchvision, whose '
                    f'operators serve there, or the toolkit of CUDA {facts["cuda"]}'
                )
            install_plain_mmcv(env, args.mmcv)
        env.pip('install', '--no-deps', '--no-build-isolation', '--editable', str(REPO))
    probe = PROBE if operators else ''
    env.evaluate(probe + 'import cv2, mmengine, pycocotools.mask, mmdet_r2\n')
    have = env.installed()
    names = ('torch', 'onedl-mmcv', 'onedl-mmengine', 'mmdet-r2')
    wanted['extras'], wanted['operators'] = sorted(extras), operators
    wanted['versions'] = {name: have[name] for name in names}
    stamp.write_text(json.dumps(wanted, indent=1))
    say('; '.join(f'{name} {have[name]}' for name in names))
    say(f'done in {took(start)}; {env.python} runs it')


def default_jobs() -> int:
    """Cores this process may use, but one per 2 GB of free memory: mmcv's files are large."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    )
    try:
        text = Path('/proc/meminfo').read_text()
        free = int(re.search(r'MemAvailable:\s+(\d+)', text)[1]) / 2**20  # type: ignore[index]
    except (OSError, TypeError):
        return cores
    return max(1, min(cores, int(free / 2)))


if __name__ == '__main__':
    try:
        main()
    except InstallError as error:
        print(f'[install] ERROR: {error}', file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
