"""The example in the Python client's README runs as it is printed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from support import IMAGES

README = Path(__file__).parents[2] / "clients/python/README.md"


def test_readme_example_runs(worker_target, tmp_path, monkeypatch, capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    shutil.copy(IMAGES / "originals/dog.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    assert "127.0.0.1:50051" in example
    variables: dict[str, object] = {}

    exec(example.replace("127.0.0.1:50051", worker_target), variables)

    assert capsys.readouterr().out.count("\n") == 1
    assert variables["pixels"].shape == (534, 800)
