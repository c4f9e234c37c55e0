"""The notebook runs from top to bottom."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_notebook_runs(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip('nbformat')
    client = pytest.importorskip('nbclient')
    (tmp_path / 'configs').symlink_to(repo / 'configs')
    notebook = nbformat.read(repo / 'demo/tutorial.ipynb', as_version=4)
    assert not any(cell.get('outputs') for cell in notebook.cells), 'clear the outputs'
    for cell in notebook.cells:  # the same cells, for seconds
        cell.source = cell.source.replace('STEPS = 300', 'STEPS = 10')
        cell.source = cell.source.replace('num_train=400, num_val=20', 'num_train=8, num_val=4')
    for name, value in (('OMP_NUM_THREADS', '1'), ('MPLBACKEND', 'agg'), ('PYTHONPATH', repo)):
        monkeypatch.setenv(name, str(value))
    client.NotebookClient(notebook, kernel_name='python3', timeout=240).execute(cwd=str(tmp_path))
    text = ''.join(
        str(output.get('text', '')) for cell in notebook.cells for output in cell.get('outputs', [])
    )
    assert 'did you mean batch_size?' in text
    assert (tmp_path / 'work_dirs/notebook/iter_10.pth').exists()
    records = json.loads((tmp_path / 'work_dirs/notebook/results.json').read_text())
    assert f'{len(records)} detections' in text
