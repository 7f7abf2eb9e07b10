"""The Node client is built, and runs its own tests and its example against the worker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import IMAGES

PACKAGE = Path(__file__).parents[2] / "clients/typescript"
# Node may come with the virtual environment.
SEARCH_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def run(*command: str | Path, **variables: str) -> str:
    """Run in the package's folder and return what is printed; fail with it otherwise."""
    program = shutil.which(command[0], path=SEARCH_PATH)
    if program is None:
        pytest.fail(f"{command[0]} is not there: this test needs Node.js 20 or later")
    result = subprocess.run(
        [program, *command[1:]],
        cwd=PACKAGE,
        env={**os.environ, "PATH": SEARCH_PATH, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def dependencies():
    """The packages of package-lock.json, installed if they are not there yet."""
    installed, wanted = PACKAGE / "node_modules/.package-lock.json", PACKAGE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
        run("npm", "ci", "--no-audit", "--no-fund")


@pytest.fixture(scope="module")
def build(dependencies):
    run("npm", "run", "build")


def test_own_tests_pass(build, worker_target):
    report = run("npm", "test", SAM_SERVER=worker_target)

    (passed,) = re.findall(r"^\S pass (\d+)$", report, re.MULTILINE)
    assert int(passed) > 20, report


def test_example_prints_the_conversation(build, worker_target):
    image = str(IMAGES / "originals/dog.jpg")
    printed = run("node", "dist/examples/segment.js", image, "400", "267", SAM_SERVER=worker_target)

    models, embed, *decodes = printed.splitlines()
    assert re.match(r"models +.*default quickstart", models)
    assert re.match(r"embed +800x534, ", embed)
    assert len(decodes) == 3
    assert all(re.match(r"decode +mask \d: predicted IoU ", line) for line in decodes)


def test_generated_code_is_that_of_the_contract(dependencies, tmp_path):
    run("npm", "run", "generate", "--", str(tmp_path), PYTHON=sys.executable)

    committed = {path.relative_to(PACKAGE / "src/gen") for path in PACKAGE.glob("src/gen/**/*.ts")}
    generated = {path.relative_to(tmp_path) for path in tmp_path.glob("**/*.ts")}
    assert generated == committed
    for name in generated:
        fresh, kept = (tmp_path / name).read_text(), (PACKAGE / "src/gen" / name).read_text()
        assert fresh == kept, f"src/gen/{name} is out of date: npm run generate"
