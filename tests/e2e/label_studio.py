"""Label Studio: its server as a process of the suite's own, and its REST API."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from e2e.processes import ServerProcess, free_port
from support import IMAGES

USER = "annotator@example.com"
PASSWORD = "a password of the tests"

_ENVIRONMENT = {
    # Label Studio refuses backends on loopback addresses unless told otherwise.
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
    "SENTRY_DSN": "",
    "COLLECT_ANALYTICS": "false",
    "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
    "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(IMAGES),
}


@dataclass(frozen=True)
class Backend:
    """How Label Studio reaches a gateway."""

    url: str
    user: str = ""
    password: str = ""


def start(executable: Path, data_dir: Path, log: Path) -> tuple[ServerProcess, str]:
    """Start Label Studio with its data in `data_dir`; return the process and its address."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command: list[str | Path] = [executable, "start", "--no-browser", "--data-dir", data_dir]
    command += ["--internal-host", "127.0.0.1", "--port", str(port)]
    command += ["--username", USER, "--password", PASSWORD]
    process = ServerProcess(command, _ENVIRONMENT, log)
    # The first start of a data directory runs all database migrations.
    process.wait_for(lambda: _healthy(url), timeout_s=300)
    return process, url


def prepare_data_dir(executable: Path, prepared: Path, log: Path) -> None:
    """Make a data directory with a migrated database and the user, for copies to start from."""
    unfinished = prepared.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    process, _ = start(executable, unfinished, log)
    process.stop()
    unfinished.rename(prepared)


def _healthy(url: str) -> bool | None:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success or None
    except httpx.TransportError:
        return None


class LabelStudio:
    """The REST API, as the user who owns the server."""

    def __init__(self, url: str) -> None:
        """Log in with the user's password, as the browser does."""
        self.url = url
        self._http = httpx.Client(base_url=url, timeout=60, headers={"Referer": f"{url}/"})
        form = self._http.get("/user/login/").text
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', form)
        assert token, form
        credentials = {"email": USER, "password": PASSWORD, "csrfmiddlewaretoken": token[1]}
        answer = self._http.post("/user/login/", data=credentials)
        assert answer.status_code == 302, answer.text

    def close(self) -> None:
        self._http.close()

    @property
    def cookies(self) -> dict[str, str]:
        """The session, for a browser to share."""
        return dict(self._http.cookies)

    def call(self, method: str, path: str, **content: Any) -> Any:
        """Call the API and return the answer's JSON. Raises httpx.HTTPStatusError."""
        headers = {"X-CSRFToken": self._http.cookies["csrftoken"]}
        answer = self._http.request(method, path, headers=headers, **content)
        if answer.is_error:
            raise httpx.HTTPStatusError(answer.text, request=answer.request, response=answer)
        return answer.json() if answer.content else None

    def create_personal_access_token(self) -> str:
        token: str = self.call("POST", "/api/token/")["token"]
        return token

    def create_project(self, title: str, label_config: str) -> Project:
        """Make a project with the settings that Label Studio proposes."""
        project = {"title": title, "label_config": label_config}
        return Project(self, self.call("POST", "/api/projects/", json=project)["id"])

    @contextmanager
    def legacy_token(self) -> Iterator[str]:
        """Allow legacy tokens, which are off by default, for a while; yield the user's."""
        settings = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
        self.call("POST", "/api/jwt/settings", json=settings)
        try:
            token: str = self.call("GET", "/api/current-user/token")["token"]
            yield token
        finally:
            settings["legacy_api_tokens_enabled"] = False
            self.call("POST", "/api/jwt/settings", json=settings)

    def annotations(self, task_id: int) -> list[list[dict[str, Any]]]:
        """Export a task and return the regions of each of its annotations."""
        project = self.call("GET", f"/api/tasks/{task_id}/")["project"]
        query = {"exportType": "JSON", "ids[]": task_id}
        [task] = self.call("GET", f"/api/projects/{project}/export", params=query)
        return [annotation["result"] for annotation in task["annotations"]]

    def wait_for_draft(self, task_id: int, prompt_id: str, timeout_s: float = 60) -> None:
        """Wait until the page has saved a prompt, which it does some seconds after it is made."""
        deadline = time.monotonic() + timeout_s
        while prompt_id not in str(self.call("GET", f"/api/tasks/{task_id}/drafts")):
            assert time.monotonic() < deadline, f"{prompt_id} is not in a draft"
            time.sleep(0.2)


@dataclass(frozen=True)
class Project:
    """A project of Label Studio."""

    _server: LabelStudio
    id: int

    def delete(self) -> None:
        self._server.call("DELETE", f"/api/projects/{self.id}/")

    def upload_task(self, image: Path) -> int:
        """Upload an image as a task; return the task's id."""
        self._upload(image, commit=True)
        return self._newest_task()

    def upload(self, image: Path) -> str:
        """Upload an image without making a task of it; return what tasks refer to it by."""
        upload_id = self._upload(image, commit=False)["file_upload_ids"][0]
        file: str = self._server.call("GET", f"/api/import/file-upload/{upload_id}")["file"]
        return f"/data/{file}"

    def import_task(self, data: Mapping[str, object]) -> int:
        """Import a task by its data; return its id."""
        path = f"/api/projects/{self.id}/import?commit_to_project=true"
        self._server.call("POST", path, json=[data])
        return self._newest_task()

    def add_local_files(self, folder: Path) -> None:
        """Let tasks refer to files of a folder of Label Studio's machine."""
        storage = {"project": self.id, "path": str(folder), "use_blob_urls": True}
        self._server.call("POST", "/api/storages/localfiles", json=storage)

    def connect(self, backend: Backend) -> int:
        """Add an interactive backend; return its id.

        Raises httpx.HTTPStatusError if Label Studio cannot use it.
        """
        settings = {"url": backend.url, "project": self.id, "title": "sam"}
        settings |= {"is_interactive": True}
        if backend.user:
            settings |= {"auth_method": "BASIC_AUTH", "basic_auth_user": backend.user}
            settings |= {"basic_auth_pass": backend.password}
        added = self._server.call("POST", "/api/ml/", json=settings)
        assert added["state"] == "CO", added
        backend_id: int = added["id"]
        return backend_id

    def _upload(self, image: Path, *, commit: bool) -> Any:
        path = f"/api/projects/{self.id}/import?commit_to_project={str(commit).lower()}"
        return self._server.call("POST", path, files={"file": (image.name, image.read_bytes())})

    def _newest_task(self) -> int:
        tasks = self._server.call("GET", f"/api/tasks?project={self.id}")["tasks"]
        newest: int = max(task["id"] for task in tasks)
        return newest
