"""Label Studio: its server as a process of the suite's own, and its REST API."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from e2e.processes import ServerProcess, free_port

USER = "annotator@example.com"
PASSWORD = "a password of the tests"

_ENVIRONMENT = {
    # Label Studio refuses backends on loopback addresses unless told otherwise.
    "ML_BLOCK_LOCAL_IP": "false",
    "SSRF_PROTECTION_ENABLED": "false",
    "SENTRY_DSN": "",
    "COLLECT_ANALYTICS": "false",
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

    def create_project(self, title: str, label_config: str) -> int:
        project = {"title": title, "label_config": label_config, "show_collab_predictions": False}
        project_id: int = self.call("POST", "/api/projects/", json=project)["id"]
        return project_id

    def delete_project(self, project_id: int) -> None:
        self.call("DELETE", f"/api/projects/{project_id}/")

    def upload(self, project_id: int, image: Path) -> int:
        """Upload an image as a task; return the task's id."""
        path = f"/api/projects/{project_id}/import?commit_to_project=true"
        self.call("POST", path, files={"file": (image.name, image.read_bytes())})
        return self._newest_task(project_id)

    def import_task(self, project_id: int, data: dict[str, object]) -> int:
        """Import a task by its data; return its id."""
        self.call("POST", f"/api/projects/{project_id}/import?commit_to_project=true", json=[data])
        return self._newest_task(project_id)

    def connect(self, project_id: int, backend: Backend) -> int:
        """Add an interactive backend to a project; return its id.

        Raises httpx.HTTPStatusError if Label Studio cannot use it.
        """
        settings = {"url": backend.url, "project": project_id, "title": "sam"}
        settings |= {"is_interactive": True}
        if backend.user:
            settings |= {"auth_method": "BASIC_AUTH", "basic_auth_user": backend.user}
            settings |= {"basic_auth_pass": backend.password}
        added = self.call("POST", "/api/ml/", json=settings)
        assert added["state"] == "CO", added
        backend_id: int = added["id"]
        return backend_id

    def annotations(self, task_id: int) -> list[list[dict[str, Any]]]:
        """Return the regions of each annotation of a task."""
        annotations = self.call("GET", f"/api/tasks/{task_id}/annotations/")
        return [annotation["result"] for annotation in annotations]

    def _newest_task(self, project_id: int) -> int:
        tasks = self.call("GET", f"/api/tasks?project={project_id}")["tasks"]
        newest: int = max(task["id"] for task in tasks)
        return newest
