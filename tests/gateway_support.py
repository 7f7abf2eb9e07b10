"""A Label Studio to fetch from, and requests as it sends them."""

from __future__ import annotations

import asyncio
import base64
import functools
import io
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from aiohttp import web
from aiohttp.test_utils import TestServer
from label_studio_sdk.converter import brush
from numpy.typing import NDArray
from PIL import Image
from yarl import URL

from support import DATA, IMAGES

LEGACY_TOKEN = "0123456789abcdef0123456789abcdef01234567"


def jwt(**claims: object) -> str:
    """A token of the right form; nobody here checks the signature."""
    parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "typ": "JWT"}, claims)]
    return ".".join(
        base64.urlsafe_b64encode(part).decode().rstrip("=") for part in [*parts, b"signature"]
    )


@functools.cache
def jpeg(
    name: str,
    size: tuple[int, int],
    *,
    box: tuple[int, int, int, int] | None = None,
    orientation: int | None = None,
) -> bytes:
    """A test image as a JPEG of another size, or a part of it."""
    image = Image.open(IMAGES / "originals" / name).convert("RGB").resize(size, box=box)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, exif=exif)
    return buffer.getvalue()


class LabelStudio:
    """Serves uploads to who has a token, and exchanges personal access tokens, as Label Studio."""

    def __init__(self) -> None:
        self.files = {
            # Cut so that the recorded positive clicks are on the rear wheel and the negative one
            # is on the body.
            "18d1a805-a.jpg": jpeg("truck.jpg", (1024, 683), box=(36, 72, 1728, 1200)),
            "6a1c4ca9-b.png": (IMAGES / "originals/coffee.png").read_bytes(),
            "abc65d67-exif6.jpg": jpeg("dog.jpg", (1024, 683), orientation=6),
        }
        self.legacy_tokens = True
        self.pat = jwt(token_type="refresh", exp=8_000_000_000, iat=1_790_000_000)
        self.access_tokens: set[str] = set()
        self.lifetime_s = 300
        # What the storages of its projects hold: bytes, or an address that opens it for a while.
        self.stored: dict[str, bytes | str] = {}
        # As the API writes them; backends by the id of their project.
        self.projects: list[dict[str, Any]] = []
        self.backends: dict[int, list[dict[str, Any]]] = {}
        # What the API has of tasks, by their ids; predictions as they were posted, too.
        self.tasks: dict[int, dict[str, Any]] = {}
        self.last_page = 1000
        self.annotations: dict[int, list[dict[str, Any]]] = {}
        self.predictions: dict[int, list[dict[str, Any]]] = {}
        self.posted: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        # Set by a test: answers instead of a prediction being stored.
        self.refuse: Callable[[], web.StreamResponse | None] = lambda: None
        # Path and Authorization of every request.
        self.requests: list[tuple[str, str | None]] = []
        # Set by a test: answers instead of the uploads.
        self.answer: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.app = web.Application(client_max_size=2**26)
        for prefix in ("", "/labelstudio"):
            self.app.router.add_post(f"{prefix}/api/token/refresh/", self.refresh)
            self.app.router.add_get(f"{prefix}/data/upload/{{project}}/{{file}}", self.upload)
            self.app.router.add_get(f"{prefix}/data/local-files/", self.storage)
            self.app.router.add_get(f"{prefix}/tasks/{{task}}/resolve/", self.storage)
            self.app.router.add_get(f"{prefix}/api/version/", self.version)
            self.app.router.add_get(f"{prefix}/health", self.health)
            self.app.router.add_get(f"{prefix}/api/current-user/whoami", self.who_am_i)
            self.app.router.add_get(f"{prefix}/api/projects/", self.list_projects)
            self.app.router.add_get(f"{prefix}/api/projects/{{project}}/", self.project)
            self.app.router.add_get(f"{prefix}/api/ml/", self.list_backends)
            self.app.router.add_get(f"{prefix}/api/tasks", self.list_tasks)
            self.app.router.add_get(f"{prefix}/api/tasks/{{task}}/annotations/", self.results)
            self.app.router.add_get(f"{prefix}/api/tasks/{{task}}/drafts", self.results)
            self.app.router.add_get(f"{prefix}/api/predictions/", self.list_predictions)
            self.app.router.add_post(f"{prefix}/api/predictions/", self.add_prediction)
        self.server = TestServer(self.app)

    @property
    def url(self) -> URL:
        return URL(str(self.server.make_url("")))

    def authorized(self, header: str | None) -> bool:
        kind, _, token = (header or "").partition(" ")
        if kind == "Token":
            return self.legacy_tokens and token == LEGACY_TOKEN
        return kind == "Bearer" and token in self.access_tokens

    async def refresh(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, request.headers.get("Authorization")))
        if (await request.json()).get("refresh") != self.pat:
            return web.json_response({"detail": "Token is invalid"}, status=401)
        access = jwt(
            token_type="access", iat=1000, exp=1000 + self.lifetime_s, jti=secrets.token_hex(8)
        )
        self.access_tokens.add(access)
        return web.json_response({"access": access})

    async def upload(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, request.headers.get("Authorization")))
        if not self.authorized(request.headers.get("Authorization")):
            return web.json_response({"detail": "Authentication credentials"}, status=401)
        if self.answer:
            return await self.answer(request)
        if request.match_info["file"] not in self.files:
            return web.Response(status=500)
        return web.Response(body=self.files[request.match_info["file"]])

    async def storage(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, request.headers.get("Authorization")))
        if not self.authorized(request.headers.get("Authorization")):
            return web.json_response({"detail": "Authentication credentials"}, status=401)
        query = request.query
        name = query.get("d") or base64.urlsafe_b64decode(query["fileuri"]).decode()
        held = self.stored.get(name)
        if isinstance(held, str):
            headers = {"Location": held, "Cache-Control": "no-store, max-age=60"}
            return web.Response(status=303, headers=headers)
        return web.Response(status=404) if held is None else web.Response(body=held)

    async def version(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, request.headers.get("Authorization")))
        return web.json_response({"release": "1.23.2"})

    async def health(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, request.headers.get("Authorization")))
        return web.json_response({"status": "UP"})

    async def who_am_i(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, request.headers.get("Authorization")))
        if not self.authorized(request.headers.get("Authorization")):
            return web.json_response({"detail": "Invalid token."}, status=401)
        return web.json_response({"id": 1, "email": "annotator@example.com"})

    async def list_projects(self, request: web.Request) -> web.StreamResponse:
        if not self.authorized(request.headers.get("Authorization")):
            return web.json_response({"detail": "Invalid token."}, status=401)
        page, size = int(request.query["page"]), int(request.query["page_size"])
        listed = self.projects[(page - 1) * size : page * size]
        more = "…" if page * size < len(self.projects) else None
        return web.json_response(
            {"count": len(self.projects), "next": more, "previous": None, "results": listed}
        )

    async def list_backends(self, request: web.Request) -> web.StreamResponse:
        if not self.authorized(request.headers.get("Authorization")):
            return web.json_response({"detail": "Invalid token."}, status=401)
        return web.json_response(self.backends.get(int(request.query["project"]), []))

    async def project(self, request: web.Request) -> web.StreamResponse:
        if not self.authorized(request.headers.get("Authorization")):
            return web.json_response({"detail": "Invalid token."}, status=401)
        found = [p for p in self.projects if str(p["id"]) == request.match_info["project"]]
        if not found:
            return web.json_response({"detail": "No Project matches."}, status=404)
        return web.json_response(found[0])

    async def list_tasks(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, request.headers.get("Authorization")))
        if not self.authorized(request.headers.get("Authorization")):
            return web.json_response({"detail": "Invalid token."}, status=401)
        page, size = int(request.query["page"]), int(request.query["page_size"])
        assert request.query["resolve_uri"] == "false"  # else addresses of storages are proxies
        of_project = [
            t for t in self.tasks.values() if str(t["project"]) == request.query["project"]
        ]
        listed = of_project[(page - 1) * size : page * size]
        if (not listed and page > 1) or page > self.last_page:
            return web.json_response({"detail": "Invalid page."}, status=404)
        return web.json_response({"total": len(of_project), "tasks": listed})

    async def results(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, request.headers.get("Authorization")))
        if not self.authorized(request.headers.get("Authorization")):
            return web.json_response({"detail": "Invalid token."}, status=401)
        held = self.annotations if request.path.endswith("/annotations/") else {}
        return web.json_response(held.get(int(request.match_info["task"]), []))

    async def list_predictions(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path_qs, request.headers.get("Authorization")))
        if not self.authorized(request.headers.get("Authorization")):
            return web.json_response({"detail": "Invalid token."}, status=401)
        return web.json_response(self.predictions.get(int(request.query["task"]), []))

    async def add_prediction(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, request.headers.get("Authorization")))
        if not self.authorized(request.headers.get("Authorization")):
            return web.json_response({"detail": "Invalid token."}, status=401)
        if refusal := self.refuse():
            return refusal
        prediction = await request.json()
        self.predictions.setdefault(prediction["task"], []).append(prediction)
        await self.posted.put(prediction)
        return web.json_response(prediction, status=201)


def recorded(name: str) -> dict[str, Any]:
    """A recorded request by name: method, path, headers, body."""
    recording = json.loads((DATA / "label-studio" / f"{name}.json").read_text())
    return dict(recording["request"])


LABEL_CONFIG = """<View><Image name="image" value="$image"/>
<BrushLabels name="brush" toName="image"><Label value="Cat"/><Label value="Dog"/></BrushLabels>
<KeyPointLabels name="kp" toName="image" smart="true"><Label value="Cat"/></KeyPointLabels>
<RectangleLabels name="rect" toName="image" smart="true"><Label value="Cat"/></RectangleLabels>
</View>"""


def region_mask(region: dict[str, Any]) -> NDArray[np.bool_]:
    """The mask of a brush or bitmask region, bool (height, width), as Label Studio reads it."""
    value = region["value"]
    if "rle" in value:
        rgba = brush.decode_rle(value["rle"])
        shape = region["original_height"], region["original_width"], 4
        return np.asarray(rgba).reshape(shape)[:, :, 3] > 0
    prefix, _, text = (value.get("maskDataURL") or value["imageDataURL"]).partition(",")
    assert prefix == "data:image/png;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(text, validate=True)))
    assert picture.size == (region["original_width"], region["original_height"])
    red, _, _, alpha = np.moveaxis(np.asarray(picture.convert("RGBA")), 2, 0)
    # Of a brush, the browser saves what is red; it draws what is not transparent.
    assert ((red > 0) == (alpha > 0)).all()
    return alpha > 0


def key_point(x: float, y: float, *, size: tuple[int, int], **changes: Any) -> dict[str, Any]:
    """A prompt as the browser sends it; x and y in percent, size is (width, height)."""
    return {
        "id": "abcdefghij",
        "type": "keypointlabels",
        "from_name": "kp",
        "to_name": "image",
        "original_width": size[0],
        "original_height": size[1],
        "image_rotation": 0,
        "is_positive": True,
        "value": {"x": x, "y": y, "width": 0.3, "keypointlabels": ["Cat"]},
        "origin": "manual",
        **changes,
    }


def click(image: str, *prompts: dict[str, Any]) -> dict[str, Any]:
    """The body of an interactive request."""
    return {
        "tasks": [{"id": 1, "data": {"image": image}}],
        "project": "1.1795333489",
        "label_config": LABEL_CONFIG,
        "params": {"login": None, "password": None, "context": {"result": list(prompts)}},
    }
