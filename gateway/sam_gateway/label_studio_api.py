"""Label Studio's REST API, as far as the gateway uses it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import aiohttp
import orjson
from yarl import URL

from sam_gateway.config import MIB
from sam_gateway.errors import (
    InvalidRequestError,
    LabelStudioError,
    TemporarilyUnavailableError,
)
from sam_gateway.json_body import parse_json
from sam_gateway.label_studio import LabelStudio
from sam_gateway.reading import read_at_most

# A page of tasks whose images are in the tasks themselves, or the masks of one task.
_MAX_ANSWER_BYTES = 256 * MIB
_PAGE_SIZE = 100
# What Label Studio says about a request that it refuses.
_MAX_DETAIL_CHARACTERS = 200

_T = TypeVar("_T")


class LabelStudioApi:
    """The API, as the owner of the token sees it.

    Every method raises LabelStudioAuthError if no token is accepted, and LabelStudioError if
    Label Studio cannot be reached, answers an error, or is something else.
    """

    def __init__(self, label_studio: LabelStudio) -> None:
        """Call where Label Studio is, with the tokens that there are."""
        self._label_studio = label_studio

    async def check_token(self) -> None:
        """Raise what every other call would raise too."""
        await self._call(dict, "GET", "current-user/whoami")

    async def project(self, project_id: int) -> dict[str, Any]:
        """Return a project, `label_config` and all."""
        return await self._call(dict, "GET", f"projects/{project_id}/")

    async def projects(self) -> AsyncIterator[dict[str, Any]]:
        """Yield every project."""
        page, more = 1, True
        while more:
            listed = await self._call(dict, "GET", "projects/", page=page, page_size=_PAGE_SIZE)
            for project in _part(listed, "results", list):
                yield project
            page, more = page + 1, bool(listed.get("next"))

    async def backends(self, project_id: int) -> list[dict[str, Any]]:
        """Return the ML backends of a project; Label Studio calls each of them for that."""
        return await self._call(list, "GET", "ml/", project=project_id)

    async def tasks(self, project_id: int) -> AsyncIterator[object]:
        """Yield every task of a project, its data as it was imported."""
        page, seen, total = 1, 0, 1
        while seen < total:
            listed = await self._call(
                dict,
                "GET",
                "tasks",
                project=project_id,
                page=page,
                page_size=_PAGE_SIZE,
                resolve_uri="false",  # else addresses in storages come as proxies for a browser
            )
            tasks, total = _part(listed, "tasks", list), _part(listed, "total", int)
            for task in tasks:
                yield task
            page, seen = page + 1, seen + (len(tasks) or total)

    async def task_results(self, task_id: int | str) -> dict[str, list[dict[str, Any]]]:
        """Return the `annotations`, `drafts` and `predictions` of a task, in this order.

        They are asked for one by one: to be asked for a task, Label Studio asks its backends for
        predictions.
        """
        return {
            "annotations": await self._call(list, "GET", f"tasks/{task_id}/annotations/"),
            "drafts": await self._call(list, "GET", f"tasks/{task_id}/drafts"),
            "predictions": await self.predictions(task_id),
        }

    async def predictions(self, task_id: int | str) -> list[dict[str, Any]]:
        """Return the predictions of a task."""
        return await self._call(list, "GET", "predictions/", task=task_id)

    async def add_prediction(self, prediction: dict[str, object]) -> None:
        """Store a prediction: its `task`, `result`, `score` and `model_version`."""
        await self._call(dict, "POST", "predictions/", content=orjson.dumps(prediction))

    async def _call(
        self,
        expected: type[_T],
        method: str,
        path: str,
        content: bytes | None = None,
        **query: int | str,
    ) -> _T:
        root = await self._label_studio.find()
        if root is None:
            raise LabelStudioError("Label Studio's address is not known: set LABEL_STUDIO_URL")
        url = URL(f"{str(root).rstrip('/')}/api/{path}").with_query(query)
        try:
            async with await self._label_studio.open(method, url, content=content) as response:
                body = await read_at_most(response, _MAX_ANSWER_BYTES)
        except (aiohttp.ClientError, asyncio.TimeoutError, TemporarilyUnavailableError) as error:
            raise LabelStudioError(
                f"Label Studio at {root} cannot be reached: {type(error).__name__}", temporary=True
            ) from error
        if response.status not in (200, 201):
            raise LabelStudioError(
                f"Label Studio answers {response.status} to {method} /api/{path}{_detail(body)}",
                temporary=response.status == 429 or response.status >= 500,
            )
        if body is None:
            raise LabelStudioError(f"Label Studio's answer to /api/{path} is too large")
        try:
            answer = await parse_json(body)
        except InvalidRequestError as error:
            raise _strange(f"the answer to {method} /api/{path}") from error
        if not isinstance(answer, expected):
            raise _strange(f"the answer to {method} /api/{path}")
        return answer


def _part(answer: dict[str, Any], key: str, expected: type[_T]) -> _T:
    part = answer.get(key)
    if not isinstance(part, expected):
        raise _strange(f"an answer without {key!r}")
    return part


def _strange(what: str) -> LabelStudioError:
    return LabelStudioError(
        f"{what} is not what Label Studio gives: set LABEL_STUDIO_URL to the address of Label "
        "Studio itself, not to that of a proxy with a login page of its own"
    )


def _detail(body: bytes | None) -> str:
    text = " ".join((body or b"").decode(errors="replace").split())
    return f": {text[:_MAX_DETAIL_CHARACTERS]}" if text.startswith(("{", "[")) else ""
