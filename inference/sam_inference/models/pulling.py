"""Have a model of the catalogue: fetched, checked and imported."""

from __future__ import annotations

import shutil
from pathlib import Path

from sam_inference.models import ModelFileError, ModelSpec, read_spec
from sam_inference.models.catalogue import CatalogueEntry
from sam_inference.models.digests import file_digest
from sam_inference.models.download import DownloadError, Progress, download
from sam_inference.models.importing import checkpoint_digest, import_checkpoint, sole_import

# The weights are written beside the checkpoint before that is removed, and a little more.
_NEEDED_OF_SIZE = 2.1


def pull(
    entry: CatalogueEntry,
    model_dir: Path,
    *,
    source: str = "",
    progress: Progress = lambda done, total: None,
) -> ModelSpec:
    """Make sure that a model of the catalogue is below `model_dir`.

    Args:
        entry: the model.
        model_dir: where models are; made if it is not there.
        source: a URL or file to take the checkpoint from; its own URL if empty.
        progress: told how far the download is.

    Raises:
        DownloadError: the checkpoint cannot be fetched, or the file is another; the message
            says what to do.
        CheckpointError: it cannot be imported.
        ModelFileError: the model's folder is there, and damaged or of another checkpoint.
        OSError: a file cannot be read or written.
    """
    folder = model_dir / entry.name
    if folder.exists():
        spec = read_spec(folder)
        if checkpoint_digest(spec) not in (None, entry.sha256):  # None: of an earlier version
            raise ModelFileError(
                f"{folder} is there already, but not made of the official {entry.file_name}; "
                "remove it first to pull that"
            )
        return spec
    if source and "://" not in source:
        return _import_file(entry, Path(source), model_dir)
    checkpoint = model_dir / ".downloads" / entry.file_name
    present = checkpoint.stat().st_size if checkpoint.exists() else 0
    needed = int(_NEEDED_OF_SIZE * entry.size_bytes) - present
    with sole_import(model_dir):  # after the room that another import takes, or left taken
        free = shutil.disk_usage(model_dir).free
    if free < needed:
        raise DownloadError(
            f"{model_dir} has {free >> 20} MiB left, and {entry.name} needs {needed >> 20} MiB: "
            "free some, or set MODEL_DIR"
        )
    checkpoint.parent.mkdir(exist_ok=True)
    try:
        download(
            source or entry.url,
            checkpoint,
            size_bytes=entry.size_bytes,
            sha256=entry.sha256,
            progress=progress,
        )
    except DownloadError as error:
        raise DownloadError(f"{error}\n{_advice(entry)}") from error
    spec = import_checkpoint(checkpoint, model_dir, name=entry.name, official=entry)
    checkpoint.unlink()
    return spec


def _import_file(entry: CatalogueEntry, path: Path, model_dir: Path) -> ModelSpec:
    size_bytes = path.stat().st_size
    if size_bytes != entry.size_bytes:
        raise DownloadError(
            f"{path} has {size_bytes} bytes, but the official {entry.file_name} has "
            f"{entry.size_bytes}; `import` takes checkpoints other than the official ones"
        )
    digest = file_digest(path)
    if digest != entry.sha256:
        raise DownloadError(
            f"{path} has the SHA-256 {digest}, but the official {entry.file_name} has "
            f"{entry.sha256}; `import` takes checkpoints other than the official ones"
        )
    return import_checkpoint(path, model_dir, name=entry.name, official=entry)


def _advice(entry: CatalogueEntry) -> str:
    return (
        f"Run the same command again to go on from where it stopped. Behind a proxy, set "
        f"HTTPS_PROXY first. Where this machine has no way out, fetch {entry.url} on another "
        f"({entry.size_bytes} bytes, SHA-256 {entry.sha256}), and run: "
        f"sam-worker models pull {entry.name} --from FILE-OR-URL"
    )
