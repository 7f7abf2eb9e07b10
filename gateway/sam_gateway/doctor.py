"""`sam-gateway doctor`: looks for what keeps clicks from becoming masks, from the command line.

It is a caller of a gateway like any other: of a running one, or of one that it starts for this.
"""

import argparse
import asyncio
import base64
import dataclasses
import functools
import io
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from PIL import Image, ImageDraw
from yarl import URL

from sam_gateway.app import create_app
from sam_gateway.config import Config, ConfigError, parse_config, parse_http_url
from sam_gateway.errors import GatewayError
from sam_gateway.findings import Finding, label_config_findings, remedy
from sam_gateway.gateway_client import basic_headers, configured_url, route
from sam_gateway.logs import set_up
from sam_gateway.projects import Backend, Project, list_projects
from sam_gateway.shapes import SHAPES

# Longer than a prediction may take.
_TIMEOUT = aiohttp.ClientTimeout(total=120)
# A gateway of the doctor's own has seen nothing that could be told about.
_OF_ANY_GATEWAY = frozenset({"Label Studio", "token", "worker"})
_BASIC_AUTH = "set `BASIC_AUTH_USER` and `BASIC_AUTH_PASS` as for the gateway"
_SEE_TOKEN = "see what is said of Label Studio's address and of the token"
_RUN_IT = "start `sam-gateway`, or leave out `--url`; check the address"
_REACH_IT = (
    "start the gateway where Label Studio can reach this address (in a container, localhost is "
    "the container itself); start Label Studio with "
    "`ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false`"
)

_IMAGE_SIZE = (256, 192)
_LABEL = "Disc"

Tell = Callable[[Finding], None]


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Print what is found; return 1 if something does not work, else 0."""
    parser = argparse.ArgumentParser(
        prog="sam-gateway doctor",
        description="Find out why clicks do not become masks. Takes the flags and environment "
        "variables of sam-gateway, and starts a gateway of its own to try them.",
        allow_abbrev=False,
    )
    parser.add_argument("--url", help="address of a running gateway, to ask that one instead")
    options, others = parser.parse_known_args(arguments)
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        print(_written(finding), flush=True)

    try:
        config = parse_config(others, environment)
        url = parse_http_url("--url", options.url, 9090) if options.url else None
    except ConfigError as error:
        tell(Finding("fail", "settings", str(error), "correct this setting"))
    else:
        set_up("ERROR")
        asyncio.run(_examine(config, url, tell))
    print(f"\n{_summary(findings)}")
    return 1 if any(finding.level == "fail" for finding in findings) else 0


def _summary(findings: Sequence[Finding]) -> str:
    if failed := sum(finding.level == "fail" for finding in findings):
        return f"{failed} of {len(findings)} checks failed"
    if warned := sum(finding.level == "warn" for finding in findings):
        return f"nothing failed; {warned} of {len(findings)} checks tell of something to look at"
    return "everything works"


async def _examine(config: Config, url: URL | None, tell: Tell) -> None:
    async with aiohttp.ClientSession(headers=basic_headers(config), timeout=_TIMEOUT) as session:
        if url:
            if await _ask(session, url, tell):
                await _click(session, url, tell)
        else:
            async with _own_gateway(config) as own_url:
                await _click(session, own_url, tell)
                await _ask(session, own_url, tell, _OF_ANY_GATEWAY)
    await _look_at_projects(config, url or configured_url(config), tell)


@asynccontextmanager
async def _own_gateway(config: Config) -> AsyncIterator[URL]:
    runner = web.AppRunner(create_app(dataclasses.replace(config, log_level="ERROR")))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield URL.build(scheme="http", host="127.0.0.1", port=runner.addresses[0][1])
    finally:
        await runner.cleanup()


async def _ask(
    session: aiohttp.ClientSession, url: URL, tell: Tell, subjects: frozenset[str] | None = None
) -> bool:
    """Tell what the gateway itself finds; return whether there is one."""
    try:
        async with session.get(route(url, "status.json")) as response:
            if response.status == 401:
                tell(Finding("fail", "gateway", f"{url} refuses the user or password", _BASIC_AUTH))
                return False
            report = await response.json()
        findings = [Finding(**finding) for finding in report["findings"]]
    except (aiohttp.ClientError, asyncio.TimeoutError) as error:
        tell(Finding("fail", "gateway", f"no gateway at {url}: {type(error).__name__}", _RUN_IT))
        return False
    except (ValueError, KeyError, TypeError):
        tell(Finding("fail", "gateway", f"what answers at {url} is no sam-gateway", _RUN_IT))
        return False
    for finding in findings:
        if subjects is None or finding.subject in subjects:
            tell(finding)
    return True


async def _click(session: aiohttp.ClientSession, url: URL, tell: Tell) -> None:
    """Click twice on an image that has one object: the second finds the embedding there."""
    took_ms = []
    for prompt_id in ("doctor-1", "doctor-2"):
        started = time.monotonic()
        try:
            async with session.post(route(url, "predict"), json=_request(prompt_id)) as response:
                body = await response.json()
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
            tell(Finding("fail", "click", f"{type(error).__name__}: no answer", _RUN_IT))
            return
        took_ms.append((time.monotonic() - started) * 1000)
        if response.status != 200:
            reason, message = body["error"]["reason"], body["error"]["message"]
            tell(Finding("fail", "click", f"{reason}: {message}", remedy(reason)))
            return
        if not body["results"][0]:
            tell(
                Finding(
                    "fail",
                    "click",
                    "no mask for a click on a bright disc on dark ground",
                    "try the `quickstart` model (`SAM_MODEL`): this one may be damaged",
                )
            )
            return
    first, second = took_ms
    tell(
        Finding(
            "ok",
            "click",
            f"a click on the built-in image becomes a mask: {first:.0f} ms, the next {second:.0f} "
            "ms",
        )
    )


async def _look_at_projects(config: Config, gateway: URL, tell: Tell) -> None:
    if not (config.label_studio_url and config.label_studio_token):
        return
    without = 0
    try:
        async for project, backends in list_projects(config):
            for finding in _project_findings(project, backends, gateway, config):
                tell(finding)
            without += not backends
    except (aiohttp.ClientError, asyncio.TimeoutError, GatewayError) as error:
        message = str(error) or type(error).__name__
        tell(Finding("warn", "projects", f"could not be listed: {message}", _SEE_TOKEN))
        return
    if without:
        tell(Finding("ok", "projects", f"{without} without an ML backend"))


def _project_findings(
    project: Project, backends: Sequence[Backend], gateway: URL, config: Config
) -> Iterator[Finding]:
    """Tell of a project that has a backend which may be this gateway."""
    subject = f"project {project.id}"
    here = [backend for backend in backends if _same(backend.url, gateway)]
    if not here:
        if backends:
            told = ", ".join(str(backend.url) for backend in backends)
            yield Finding("ok", subject, f"{project.title!r} has other backends only: {told}")
        return
    backend = here[0]
    if backend.state != "Connected":
        told = f"{project.title!r} shows {backend.url} as {backend.state}: {backend.error}"
        yield Finding("fail", subject, told.rstrip(": "), _REACH_IT)
    else:
        yield Finding("ok", subject, f"{project.title!r} is connected to {backend.url}")
    # Label Studio sends clicks to the first of these, whatever its state.
    first = next((backend for backend in backends if backend.is_interactive), None)
    if first is None:
        yield Finding(
            "fail",
            subject,
            "interactive preannotations are off: Label Studio sends no clicks",
            "Settings > Model > Edit: switch on Interactive preannotations",
        )
    elif first not in here:
        yield Finding(
            "fail",
            subject,
            f"clicks go to {first.url}, the first backend with interactive preannotations",
            "switch them off there, or remove that backend",
        )
    for finding in label_config_findings(project.label_config, config.shape_options.kinds):
        yield dataclasses.replace(finding, subject=f"{subject}, {finding.subject}")


def _same(url: URL, gateway: URL) -> bool:
    """Whether a backend is this gateway, as far as can be told: its host has many names."""
    return (url.port, url.path.rstrip("/")) == (gateway.port, gateway.path.rstrip("/"))


def _request(prompt_id: str) -> dict[str, object]:
    """Write a click as Label Studio sends it; the config has a tag of every shape."""
    width, height = _IMAGE_SIZE
    label = f'<Label value="{_LABEL}"/>'
    outputs = "".join(
        f'<{shape.capitalize()}Labels name="{shape}" toName="image">{label}'
        f"</{shape.capitalize()}Labels>"
        for shape in SHAPES
    )
    prompt = {
        "id": prompt_id,
        "type": "keypointlabels",
        "from_name": "point",
        "to_name": "image",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "is_positive": True,
        "value": {"x": 50, "y": 50, "width": 1, "keypointlabels": [_LABEL]},
    }
    return {
        "tasks": [{"id": "doctor", "data": {"image": _image()}}],
        "label_config": f'<View><Image name="image" value="$image"/>{outputs}</View>',
        "params": {"context": {"result": [prompt]}},
    }


@functools.cache
def _image() -> str:
    """Draw a bright disc on dark ground, as a data URI."""
    image = Image.new("RGB", _IMAGE_SIZE, (38, 50, 56))
    ImageDraw.Draw(image).ellipse((83, 51, 173, 141), fill=(255, 183, 77))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _written(finding: Finding) -> str:
    line = f"{finding.level:<5} {finding.subject}: {finding.message}"
    return f"{line}\n      -> {finding.remedy}" if finding.remedy else line
