"""What the fixtures that make things offer, for the tests' type hints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from e2e.editor import Editor
from e2e.gateway import Gateway
from e2e.label_studio import Backend, Project

if TYPE_CHECKING:
    from playwright.sync_api import FloatRect, Page


class StartGateway(Protocol):
    """Start a gateway with environment variables of the test's own."""

    def __call__(self, **settings: str) -> Gateway: ...


class NewProject(Protocol):
    """Make a project."""

    def __call__(self, label_config: str = ...) -> Project: ...


class OpenEditor(Protocol):
    """Connect a project with a gateway, the shared one by default, and open one of its tasks."""

    def __call__(
        self, project: Project, task_id: int, backend: Backend | None = None
    ) -> Editor: ...


class OpenTask(Protocol):
    """Upload an image to a new project and open it."""

    def __call__(self, image: Path, backend: Backend | None = None) -> Editor: ...


class Screenshot(Protocol):
    """Save a picture of the screen or a part of it, if pictures are wanted."""

    def __call__(self, page: Page, name: str, clip: FloatRect | None = None) -> None: ...
