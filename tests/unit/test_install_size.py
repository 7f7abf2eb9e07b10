"""What an installation brings: its size, and that it brings no PyTorch."""

import importlib.metadata
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

MIB = 1 << 20
if sys.version_info >= (3, 11):
    import tomllib
else:  # which pytest brings there
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def required_by(name):
    """The requirements of a distribution; ours as they are written, installed or not."""
    if name == "samserve":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        return project["dependencies"] + [
            f"{text}; extra == '{extra}'"
            for extra, texts in project["optional-dependencies"].items()
            for text in texts
        ]
    return importlib.metadata.requires(name) or ()


def closure(extra):
    """The names of what `pip install 'samserve[extra]'` brings, without samserve."""
    seen = set()
    waiting = [("samserve", extra), ("samserve", "")]
    while waiting:
        name, extra = waiting.pop()
        seen.add((name, extra))
        for requirement in map(Requirement, required_by(name)):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                wanted = {(requirement.name, one) for one in requirement.extras | {""}}
                waiting += wanted - seen
    return {name for name, _ in seen} - {"samserve"}


def size_bytes(name):
    distribution = importlib.metadata.distribution(name)
    paths = [Path(distribution.locate_file(file)) for file in distribution.files]
    return sum(path.stat().st_size for path in paths if path.is_file())


def own_size_bytes():
    packages = ["clients/python/sam_api", "clients/python/sam_client", "gateway", "inference"]
    files = [path for folder in packages for path in (ROOT / folder).rglob("*")]
    return sum(path.stat().st_size for path in files if path.is_file())


@pytest.mark.parametrize(("extra", "max_mib"), [("worker", 400), ("edge", 230)])
def test_an_installation_stays_small(extra, max_mib):
    sizes = {name: size_bytes(name) for name in closure(extra)}

    assert {"numpy", "grpcio", "onnxruntime"} <= sizes.keys()
    assert not {"torch", "torchvision", "onnx"} & sizes.keys()
    total = own_size_bytes() + sum(sizes.values())
    assert total <= max_mib * MIB, sorted(sizes.items(), key=lambda item: -item[1])[:5]
