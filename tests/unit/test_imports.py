"""Who may import whom. The contract is all that the gateway, clients and worker share."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PACKAGES = {
    "sam_api": ROOT / "clients/python/sam_api",
    "sam_client": ROOT / "clients/python/sam_client",
    "sam_core": ROOT / "inference/sam_core",
    "sam_gateway": ROOT / "gateway/sam_gateway",
    "sam_inference": ROOT / "inference/sam_inference",
}

ALLOWED = {
    "sam_api": set(),
    "sam_client": {"sam_api", "sam_core"},
    "sam_core": set(),
    "sam_gateway": {"sam_client", "sam_core"},
    "sam_inference": {"sam_api", "sam_core"},
}

WIRE = {"grpc", "google", "grpc_health", "grpc_reflection", "sam_api"}
MAY_SEE_THE_WIRE = {"messages.py", "service.py", "server.py", "status.py"}


def imported(path: Path) -> set[str]:
    """The top-level names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_those_it_may(package):
    for path in PACKAGES[package].rglob("*.py"):
        others = (imported(path) & set(PACKAGES)) - {package}
        assert others <= ALLOWED[package], path


def test_the_core_knows_arrays_and_nothing_else():
    for path in PACKAGES["sam_core"].rglob("*.py"):
        outside = imported(path) - set(sys.stdlib_module_names) - {"sam_core", "numpy"}
        assert not outside, path


def test_only_the_edge_of_the_worker_sees_the_wire():
    for path in PACKAGES["sam_inference"].rglob("*.py"):
        if path.name not in MAY_SEE_THE_WIRE and path.name != "triton.py":
            assert not imported(path) & WIRE, path
