"""Images of Label Studio's local-files storage, read from a folder that the gateway sees too."""

import os
import stat
from pathlib import Path

from sam_gateway.errors import ImageRefusedError

ROOT_SETTING = "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT"


def read_below(root: Path, name: str, max_bytes: int) -> bytes | None:
    """Read a file below a folder; None if it is not there or cannot be read.

    At most `max_bytes` + 1 are read: more means that the file is too large. Symbolic links are
    followed as long as they stay below the folder.

    Raises ImageRefusedError for what is outside of the folder.
    """
    top = root.resolve()
    try:
        path = (top / name.lstrip("/")).resolve()
        if not path.is_relative_to(top):
            raise ImageRefusedError(f"it is not below {ROOT_SETTING}")
        with open(path, "rb", opener=_opened) as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            return file.read(max_bytes + 1) if is_file else None
    except (OSError, RuntimeError, ValueError):  # also links in a circle, and a zero byte
        return None


def _opened(path: str, flags: int) -> int:
    # What became a link since is not followed, and a pipe is not waited for.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
