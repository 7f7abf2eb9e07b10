"""Fetching models from a real server on this machine, which misbehaves in every way."""

import hashlib
import http.server
import json
import re
import shutil
import socket
import threading

import pytest
import torch

from sam_inference.models import ModelFileError, command
from sam_inference.models.architectures import read_architecture
from sam_inference.models.catalogue import CATALOGUE, CatalogueEntry
from sam_inference.models.checkpoint import CheckpointError
from sam_inference.models.download import DownloadError, download
from sam_inference.models.importing import import_checkpoint
from sam_inference.models.pulling import pull


class Mirror(http.server.ThreadingHTTPServer):
    """Serves one file, and keeps what was asked."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.supports_ranges = True
        self.cut_after = []  # bytes of each of the next answers
        self.status = 200
        self.requests = []  # the Range header of each
        self.url = f"http://127.0.0.1:{self.server_port}/mobile_sam.pt"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        mirror = self.server
        wanted = self.headers.get("Range")
        mirror.requests.append(wanted)
        if mirror.status != 200:
            self.send_error(mirror.status)
            return
        start = 0
        if wanted and mirror.supports_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            end = len(mirror.content)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        else:
            self.send_response(200)
        body = mirror.content[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = mirror.cut_after.pop(0) if mirror.cut_after else len(body)
        self.wfile.write(body[:cut])
        if cut < len(body):
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def mirror():
    with Mirror() as mirror:
        thread = threading.Thread(target=mirror.serve_forever, args=(0.01,))
        thread.start()
        yield mirror
        mirror.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "mobile_sam.pt"
    shapes = read_architecture("mobile_sam").shapes
    torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, path)
    return path.read_bytes()


@pytest.fixture
def entry(mirror, checkpoint):
    mirror.content = checkpoint
    return entry_of(checkpoint, mirror.url)


def entry_of(content, url, name="mobile_sam"):
    digest = hashlib.sha256(content).hexdigest()
    return CatalogueEntry(name, "MobileSAM", url, len(content), digest)


def test_a_model_is_fetched_imported_and_then_kept(entry, mirror, tmp_path):
    seen = []

    first = pull(entry, tmp_path, progress=lambda done, total: seen.append((done, total)))
    again = pull(entry, tmp_path)

    assert first == again
    assert first.architecture == "mobile_sam"
    assert len(mirror.requests) == 1
    assert seen[-1] == (entry.size_bytes, entry.size_bytes)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert not list((tmp_path / ".downloads").iterdir())


def test_a_model_of_another_checkpoint_is_not_taken_for_the_official_one(entry, mirror, tmp_path):
    other = tmp_path / "other.pt"
    shapes = read_architecture("mobile_sam").shapes
    torch.save({name: torch.zeros(shape) for name, shape in shapes.items()}, other)
    import_checkpoint(other, tmp_path / "models")

    with pytest.raises(ModelFileError, match=r"not made of the official mobile_sam\.pt; remove"):
        pull(entry, tmp_path / "models")
    assert not mirror.requests


def test_a_model_that_an_earlier_version_pulled_is_kept(entry, tmp_path):
    folder = pull(entry, tmp_path).folder
    spec = json.loads((folder / "model.json").read_text())
    del spec["checkpoint_sha256"]
    (folder / "model.json").write_text(json.dumps(spec))

    assert pull(entry, tmp_path).folder == folder


def test_a_broken_connection_is_taken_up_where_it_ended(entry, mirror, tmp_path):
    mirror.cut_after = [1_000_000, 3_000_000]

    pull(entry, tmp_path)

    assert mirror.requests[0] is None
    starts = [int(wanted.removeprefix("bytes=")[:-1]) for wanted in mirror.requests[1:]]
    # What was on its way when the connection broke may be lost.
    assert 0 < starts[0] <= 1_000_000 < starts[1] <= 4_000_000


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(mirror, tmp_path):
    mirror.content = bytes(range(256)) * 4000
    digest = hashlib.sha256(mirror.content).hexdigest()
    path = tmp_path / "file"
    size = len(mirror.content)
    path.write_bytes(mirror.content[:600_000])

    download(mirror.url, path, size_bytes=size, sha256=digest)

    assert mirror.requests == ["bytes=600000-"]
    assert path.read_bytes() == mirror.content


def test_the_space_that_is_needed_is_what_is_not_there_yet(entry, mirror, tmp_path, monkeypatch):
    free = int(1.6 * entry.size_bytes)
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    needed = int(2.1 * entry.size_bytes)

    with pytest.raises(DownloadError) as error:
        pull(entry, tmp_path)
    assert f"has {free >> 20} MiB left, and mobile_sam needs {needed >> 20} MiB" in str(error.value)

    part = mirror.content[: 2 * entry.size_bytes // 3]
    (tmp_path / ".downloads").mkdir()
    (tmp_path / ".downloads" / "mobile_sam.pt").write_bytes(part)
    pull(entry, tmp_path)

    assert mirror.requests == [f"bytes={len(part)}-"]


def test_a_server_without_ranges_starts_again(mirror, tmp_path):
    mirror.content = bytes(range(256)) * 4000
    mirror.supports_ranges = False
    mirror.cut_after = [500_000]
    path = tmp_path / "file"
    digest = hashlib.sha256(mirror.content).hexdigest()

    download(mirror.url, path, size_bytes=len(mirror.content), sha256=digest)

    assert path.read_bytes() == mirror.content


def test_a_server_that_always_breaks_off_is_given_up_with_advice(entry, mirror, tmp_path):
    mirror.cut_after = [1_000_000] + [0] * 10

    with pytest.raises(DownloadError) as error:
        pull(entry, tmp_path)

    assert "the connection ended after" in str(error.value)
    assert "Run the same command again" in str(error.value)
    assert "--from FILE-OR-URL" in str(error.value)
    assert entry.sha256 in str(error.value)
    assert not (tmp_path / "mobile_sam").exists()
    assert len(mirror.requests) == 4


def test_another_content_of_the_same_length_is_refused_and_removed(entry, mirror, tmp_path):
    mirror.content = bytes(len(mirror.content))

    with pytest.raises(DownloadError, match=r"its SHA-256 is \w+, but"):
        pull(entry, tmp_path)

    assert not list((tmp_path / ".downloads").iterdir())
    assert not (tmp_path / "mobile_sam").exists()


def test_a_content_that_is_too_long_is_refused_and_removed(entry, mirror, tmp_path):
    mirror.content += b"more"

    with pytest.raises(DownloadError, match="has more than the"):
        pull(entry, tmp_path)

    assert not list((tmp_path / ".downloads").iterdir())


@pytest.mark.parametrize("status", [403, 404, 503])
def test_an_answer_with_an_error_is_told_with_its_status(entry, mirror, tmp_path, status):
    mirror.status = status

    with pytest.raises(DownloadError, match=f"the server answered {status}"):
        pull(entry, tmp_path)

    assert not list((tmp_path / ".downloads").iterdir())


def test_a_server_that_is_not_there_is_told(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    entry = entry_of(b"content", f"http://127.0.0.1:{port}/mobile_sam.pt")

    with pytest.raises(DownloadError, match="refused") as error:
        pull(entry, tmp_path)

    assert "HTTPS_PROXY" in str(error.value)


def test_a_proxy_of_the_environment_is_used(entry, mirror, tmp_path, monkeypatch):
    # A proxy is asked for the whole URL of a host that only it can reach.
    monkeypatch.setenv("http_proxy", mirror.url.removesuffix("/mobile_sam.pt"))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)

    pull(entry, tmp_path, source="http://models.invalid/mobile_sam.pt")

    assert len(mirror.requests) == 1


@pytest.mark.parametrize("source", ["ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_only_http_is_fetched(entry, tmp_path, source):
    with pytest.raises(DownloadError, match="http:// or https:// was expected"):
        pull(entry, tmp_path, source=source)


def test_a_mirror_may_be_named(mirror, checkpoint, tmp_path):
    mirror.content = checkpoint
    entry = entry_of(checkpoint, "http://models.invalid/mobile_sam.pt")

    pull(entry, tmp_path, source=mirror.url)

    assert (tmp_path / "mobile_sam" / "model.json").is_file()


def test_a_file_may_be_named_and_is_left_alone(checkpoint, tmp_path):
    path = tmp_path / "copy.pt"
    path.write_bytes(checkpoint)
    entry = entry_of(checkpoint, "http://models.invalid/mobile_sam.pt")

    pull(entry, tmp_path / "models", source=str(path))

    assert path.read_bytes() == checkpoint


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"short", "has 5 bytes, but"), (None, "has the SHA-256")],
)
def test_another_file_is_refused(checkpoint, tmp_path, content, message):
    path = tmp_path / "copy.pt"
    path.write_bytes(checkpoint[:-1] + b"\xff" if content is None else content)
    entry = entry_of(checkpoint, "http://models.invalid/mobile_sam.pt")

    with pytest.raises(DownloadError, match=message):
        pull(entry, tmp_path / "models", source=str(path))

    assert not (tmp_path / "models").exists()


def test_the_right_digest_of_the_wrong_model_is_refused(mirror, checkpoint, tmp_path):
    mirror.content = checkpoint
    entry = entry_of(checkpoint, mirror.url, name="sam_vit_b")

    with pytest.raises(CheckpointError, match="is a checkpoint of mobile_sam, not of sam_vit_b"):
        pull(entry, tmp_path)

    assert not (tmp_path / "sam_vit_b").exists()


def test_a_second_process_does_not_write_into_the_same_download(mirror, tmp_path):
    mirror.content = b"0123456789" * 1000
    path = tmp_path / "file"

    def meanwhile(done, total):
        with pytest.raises(DownloadError, match="is being fetched by another process"):
            download(mirror.url, path, size_bytes=10_000, sha256="")

    digest = hashlib.sha256(mirror.content).hexdigest()
    download(mirror.url, path, size_bytes=10_000, sha256=digest, progress=meanwhile)

    assert path.read_bytes() == mirror.content


def test_the_catalogue_names_the_official_files():
    assert list(CATALOGUE) == ["mobile_sam", "sam_vit_b", "sam_vit_l", "sam_vit_h"]
    for entry in CATALOGUE.values():
        assert entry.url.startswith("https://")
        assert re.fullmatch(r"[0-9a-f]{64}", entry.sha256)
        # SAM's file names carry the beginning of another digest.
        assert re.fullmatch(r"(mobile_sam|sam_vit_[blh]_[0-9a-f]{6})\.pth?", entry.file_name)


def test_the_command_lists_imports_verifies_and_finds(checkpoint, tmp_path, capsys):
    path = tmp_path / "mine.pt"
    path.write_bytes(checkpoint)

    def run(*arguments):
        status = command.models_main(arguments, tmp_path / "models")
        return status, capsys.readouterr()

    folder = tmp_path / "models" / "mine"
    assert run("import", str(path), "--name", "mine") == (0, (f"{folder}\n", ""))
    status, (listed, _) = run("list")
    assert status == 0
    assert re.search(r"^quickstart +bundled", listed, re.MULTILINE)
    assert re.search(r"^mine +ready +\S+ +NOASSERTION +mine \(MobileSAM\)$", listed, re.MULTILINE)
    assert re.search(r"^sam_vit_h +to pull +2445\.7", listed, re.MULTILINE)
    assert run("path") == (0, (f"{tmp_path / 'models'}\n", ""))
    assert run("path", "mine") == (0, (f"{folder}\n", ""))
    assert run("verify") == (0, ("mine: as imported\n", ""))
    status, (_, errors) = run("path", "yours")
    assert status == 1
    assert "no model named 'yours'; there are: quickstart, mine; can be pulled: mobile" in errors
    status, (_, errors) = run("pull", "mobile_sam", "--from", str(path))
    assert status == 1
    assert "but the official mobile_sam.pt has 40728226" in errors


def test_verify_goes_through_all_models_whatever_is_wrong_with_them(checkpoint, tmp_path, capsys):
    path = tmp_path / "mine.pt"
    path.write_bytes(checkpoint)
    for name in ("longer", "gutted", "sound"):
        import_checkpoint(path, tmp_path / "models", name=name)
    with (tmp_path / "models/longer/encoder.weights").open("ab") as file:
        file.write(b"more")
    (tmp_path / "models/gutted/decoder.weights").unlink()

    assert command.models_main(["verify"], tmp_path / "models") == 1

    verified = capsys.readouterr()
    assert verified.out == "sound: as imported\n"
    anew = "remove the folder, and pull or import the model again"
    assert f"gutted/decoder.weights: no such file; {anew}" in verified.err
    assert f"longer/encoder.weights: has 23015428 bytes instead of 23015424; {anew}" in verified.err

    assert command.models_main(["verify", "gutted"], tmp_path / "models") == 1
    assert "gutted/decoder.weights" in capsys.readouterr().err


def test_a_file_as_model_dir_is_told_of(entry, mirror, tmp_path):
    path = tmp_path / "file"
    path.touch()

    for model_dir in (path, path / "models"):
        with pytest.raises(ModelFileError, match=f"MODEL_DIR: {model_dir}: a folder was expected"):
            pull(entry, model_dir)

    assert not mirror.requests


def test_a_broken_folder_is_not_pulled_over(entry, mirror, tmp_path):
    (tmp_path / "mobile_sam").mkdir()

    with pytest.raises(ModelFileError, match=r"model\.json: no such file; remove the folder"):
        pull(entry, tmp_path)

    assert not mirror.requests
