"""A Label Studio with a gateway, and the browser of an annotator."""

from __future__ import annotations

import io
import os
import shutil
import signal
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from e2e import label_studio as ls
from e2e.editor import LABEL_CONFIG, Editor
from e2e.fixtures import NewProject, OpenEditor, OpenTask, Screenshot, StartGateway
from e2e.gateway import Gateway
from sam_client import SamClient

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect, Page, ViewportSize

CACHE = Path(__file__).parents[2] / ".cache" / "label-studio"
PREPARED_DATA = CACHE / "data"

# All rows of labels are visible below the image.
VIEWPORT: ViewportSize = {"width": 1500, "height": 950}
CHROMIUM_FLAGS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", metavar="DIR", type=Path, help="take the pictures of the docs, and no more"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)
    if config.getoption("--screenshots", default=None):
        items[:] = [item for item in items if "screenshot" in getattr(item, "fixturenames", ())]


LOGS = pytest.StashKey[Path]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the servers logged last when a test fails."""
    report = yield
    if report.failed and LOGS in item.config.stash:
        for log in sorted(item.config.stash[LOGS].iterdir()):
            lines = log.read_text().splitlines()[-40:]
            report.sections.append((f"end of {log.name}", "\n".join(lines)))
    return report


@pytest.fixture(scope="session")
def terminable() -> None:
    """Clean up after SIGTERM as after Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Path:
    """The folder of the servers' logs."""
    return pytestconfig.stash.setdefault(LOGS, tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="session")
def label_studio(
    terminable: None, logs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ls.LabelStudio]:
    """A Label Studio with one user and no projects."""
    executable = CACHE / "venv" / "bin" / "label-studio"
    if not executable.exists():
        pytest.fail(f"{executable} is not there: run `make e2e`, which installs Label Studio")
    if not PREPARED_DATA.exists():
        ls.prepare_data_dir(executable, PREPARED_DATA, logs / "label-studio-first-start.log")
    data_dir = tmp_path_factory.mktemp("label-studio") / "data"
    shutil.copytree(PREPARED_DATA, data_dir)
    process, url = ls.start(executable, data_dir, logs / "label-studio.log")
    try:
        server = ls.LabelStudio(url)
        yield server
        server.close()
    finally:
        process.stop()


@pytest.fixture(scope="session")
def access_token(label_studio: ls.LabelStudio) -> str:
    """A personal access token, the kind that Label Studio hands out by default."""
    return label_studio.create_personal_access_token()


@pytest.fixture
def start_gateway(logs: Path, label_studio: ls.LabelStudio) -> Iterator[StartGateway]:
    """Start gateways with settings of the test's own."""
    gateways: list[Gateway] = []

    def start(**settings: str) -> Gateway:
        log = logs / f"gateway-{len(list(logs.iterdir()))}.log"
        gateways.append(Gateway(log, {"LABEL_STUDIO_URL": label_studio.url, **settings}))
        return gateways[-1]

    yield start
    for gateway in gateways:
        gateway.stop()


@pytest.fixture(scope="session")
def gateway(logs: Path, label_studio: ls.LabelStudio, access_token: str) -> Iterator[Gateway]:
    """The gateway that most tests share."""
    settings = {"LABEL_STUDIO_URL": label_studio.url, "LABEL_STUDIO_API_KEY": access_token}
    gateway = Gateway(logs / "gateway.log", settings)
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def worker(gateway: Gateway) -> Iterator[SamClient]:
    """A client of the shared gateway's worker."""
    with SamClient(gateway.worker_target) as client:
        yield client


@pytest.fixture(scope="session")
def browser(terminable: None) -> Iterator[Browser]:
    """The Chromium of the system."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which(os.environ.get("CHROMIUM", "chromium"))
    if chromium is None:
        pytest.fail("no chromium: install it (Debian: apt-get install chromium) or set CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def new_project(
    label_studio: ls.LabelStudio, request: pytest.FixtureRequest
) -> Iterator[NewProject]:
    """Make projects, which are deleted at the end."""
    with ExitStack() as stack:

        def create(label_config: str = LABEL_CONFIG) -> ls.Project:
            project = label_studio.create_project(request.node.name[:50], label_config)
            stack.callback(project.delete)
            return project

        yield create


@pytest.fixture
def open_editor(
    browser: Browser, label_studio: ls.LabelStudio, gateway: Gateway
) -> Iterator[OpenEditor]:
    """Open tasks in browser windows without history."""
    with ExitStack() as stack:

        def open_editor(
            project: ls.Project, task_id: int, backend: ls.Backend | None = None
        ) -> Editor:
            backend_id = project.connect(backend or ls.Backend(gateway.url))
            context = stack.enter_context(browser.new_context(viewport=VIEWPORT))
            for name, value in label_studio.cookies.items():
                context.add_cookies([{"name": name, "value": value, "url": label_studio.url}])
            url = f"{label_studio.url}/projects/{project.id}/data?task={task_id}"
            return Editor(context.new_page(), url, task_id, backend_id)

        yield open_editor


@pytest.fixture
def open_task(new_project: NewProject, open_editor: OpenEditor) -> OpenTask:
    """Upload an image to a new project and open it."""

    def open_task(image: Path, backend: ls.Backend | None = None) -> Editor:
        project = new_project()
        return open_editor(project, project.upload_task(image), backend)

    return open_task


@pytest.fixture(scope="session")
def screenshot(pytestconfig: pytest.Config) -> Screenshot:
    """Save pictures where `--screenshots` says."""
    folder: Path | None = pytestconfig.getoption("--screenshots", default=None)

    def save(page: Page, name: str, clip: FloatRect | None = None) -> None:
        if folder is not None:
            picture = Image.open(io.BytesIO(page.screenshot(clip=clip)))
            # With a palette it has a third of the size; this one keeps single red signs red.
            palette = picture.convert("RGB").quantize(method=Image.Quantize.FASTOCTREE)
            palette.save(folder / f"{name}.png", optimize=True)

    return save
