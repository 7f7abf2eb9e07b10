"""Which engine runs a model, and why."""

import importlib
import importlib.util

import pytest

from sam_inference.engines import EngineError, choose_engine
from sam_inference.models import BUNDLED, read_spec


@pytest.fixture
def quickstart():
    return read_spec(BUNDLED / "quickstart")


def hide(monkeypatch, *packages):
    """Make packages look as if they were not installed."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "sam_inference.engines.find_spec",
        lambda name: None if name in packages else found(name),
    )


def test_openvino_is_the_first_choice_on_a_cpu(quickstart):
    choice = choose_engine("auto", "auto", quickstart)

    assert (choice.name, choice.device, choice.precision) == ("openvino", "CPU", "float32")
    assert choice.reason.endswith("first installed")


def test_the_next_engine_is_taken_where_one_is_missing(quickstart, monkeypatch):
    hide(monkeypatch, "openvino")

    choice = choose_engine("auto", "auto", quickstart)

    assert choice.name == "onnxruntime"
    assert "openvino needs openvino (pip install 'samserve[worker]')" in choice.reason


def test_an_engine_that_is_asked_for_is_taken_or_refused(quickstart, monkeypatch):
    assert choose_engine("onnxruntime", "auto", quickstart).reason == "asked for"
    hide(monkeypatch, "onnxruntime")
    with pytest.raises(EngineError, match=r"pip install 'samserve\[worker\]'"):
        choose_engine("onnxruntime", "auto", quickstart)


def test_an_engine_that_cannot_be_imported_is_passed_over_and_refused(quickstart, monkeypatch):
    def break_openvino(name):
        if name.endswith(".openvino"):
            raise RuntimeError("libtbb is missing")
        return importlib.import_module(name)

    monkeypatch.setattr("sam_inference.engines.import_module", break_openvino)

    choice = choose_engine("auto", "auto", quickstart)

    assert choice.name == "onnxruntime"
    assert "openvino is installed, but openvino cannot be imported" in choice.reason
    with pytest.raises(EngineError, match="libtbb is missing"):
        choose_engine("openvino", "auto", quickstart)


def test_a_package_for_gpus_runs_on_the_cpu_where_there_is_none(quickstart, monkeypatch):
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: providers)

    has_gpu = iter([False, True])
    monkeypatch.setattr("sam_inference.engines.onnxruntime.has_nvidia_gpu", lambda: next(has_gpu))

    devices = [choose_engine("onnxruntime", "auto", quickstart).device for _ in range(2)]

    assert devices == ["CPU", "CUDA"]


def test_no_engine_at_all_is_told_with_every_reason(quickstart, monkeypatch):
    hide(monkeypatch, "openvino", "onnxruntime", "torch")

    with pytest.raises(EngineError, match=r"openvino needs .*onnxruntime needs .*pytorch needs"):
        choose_engine("auto", "auto", quickstart)


def test_a_precision_that_an_engine_lacks_is_refused(quickstart):
    with pytest.raises(EngineError, match="float32, not in bfloat16"):
        choose_engine("onnxruntime", "bfloat16", quickstart)
