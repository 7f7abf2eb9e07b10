"""Trying out what the gateway depends on: Label Studio, its tokens, the worker.

Nothing here waits longer than two seconds.
"""

import asyncio
import contextlib
import time
from collections.abc import Coroutine
from typing import Any

import aiohttp

import sam_client
from sam_gateway.errors import GatewayError, LabelStudioAuthError
from sam_gateway.findings import Finding
from sam_gateway.label_studio import TOKEN_SETTING, LabelStudio
from sam_gateway.reading import cause
from sam_gateway.tokens import Credential, headers
from sam_gateway.worker_process import WorkerProcess

_FIND_TIMEOUT_S = 0.5
_TIMEOUT_S = 1.5

_MAX_DETAIL_CHARACTERS = 200
_NEW_TOKEN = (
    f"create a personal access token in Label Studio (Account & Settings) and set "
    f"`{TOKEN_SETTING}` to it"
)
_LEGACY_OFF = (
    f"{_NEW_TOKEN}, or allow legacy tokens in Label Studio (Organization > Access Token Settings)"
)
_SEE = "see what is said of Label Studio's address"


async def address_finding(label_studio: LabelStudio) -> Finding:
    """Say whether Label Studio is where the gateway looks for it."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(label_studio.find(), _FIND_TIMEOUT_S)
    if label_studio.url is None:
        return Finding(
            "warn",
            "Label Studio",
            "its address is not known: LABEL_STUDIO_URL is not set, and /setup was not called",
            "set `LABEL_STUDIO_URL` to the address of Label Studio as seen from the gateway",
        )
    where = f"{label_studio.url} (from {label_studio.url_source})"
    try:
        (status, health), (_, versions) = await asyncio.wait_for(
            asyncio.gather(label_studio.ask("/health"), label_studio.ask("/api/version/")),
            _TIMEOUT_S,
        )
    except (aiohttp.ClientError, asyncio.TimeoutError, GatewayError) as error:
        return Finding(
            "fail",
            "Label Studio",
            f"{where} cannot be reached: {_cause(error)}",
            "set `LABEL_STUDIO_URL` to its address as seen from the gateway: in a container "
            "localhost is the container itself, and the host is `http://host.docker.internal:8080`",
        )
    release = versions.get("release") if isinstance(versions, dict) else None
    if status != 200 or not isinstance(health, dict):
        return Finding(
            "fail",
            "Label Studio",
            f"what answers at {where} is not Label Studio ({status})",
            "set `LABEL_STUDIO_URL` to the address of Label Studio, with its path if it has one",
        )
    return Finding("ok", "Label Studio", f"{where} answers, version {release or 'unknown'}")


async def token_findings(label_studio: LabelStudio) -> list[Finding]:
    """Try every token that there is."""
    if label_studio.url is None:
        return []
    credentials = label_studio.credentials()
    if not credentials:
        return [
            Finding("warn", "token", "none is set: uploaded images cannot be fetched", _NEW_TOKEN)
        ]
    findings = await asyncio.gather(*(_token_finding(label_studio, c) for c in credentials))
    if findings[0].level == "ok":
        # The others would be tried after it, and are not needed.
        return [findings[0]]
    return list(findings)


async def _token_finding(label_studio: LabelStudio, credential: Credential) -> Finding:
    what = f"{credential.name} ({credential.kind})"
    if credential.expires is not None and credential.expires < time.time():
        day = time.strftime("%Y-%m-%d", time.gmtime(credential.expires))
        return Finding("fail", "token", f"{what} expired on {day}", _NEW_TOKEN)
    try:
        status, body = await asyncio.wait_for(_who_am_i(label_studio, credential), _TIMEOUT_S)
    except LabelStudioAuthError as error:
        return Finding("fail", "token", f"{what}: {error}", _NEW_TOKEN)
    except (aiohttp.ClientError, asyncio.TimeoutError, GatewayError) as error:
        return Finding("warn", "token", f"{what} could not be tried: {_cause(error)}", _SEE)
    if status == 200:
        return Finding("ok", "token", f"{what} is accepted")
    if status not in (401, 403):
        return Finding(
            "warn", "token", f"{what} could not be tried: Label Studio answers {status}", _SEE
        )
    detail = body.get("detail") if isinstance(body, dict) else None
    told = f": {detail[:_MAX_DETAIL_CHARACTERS]}" if isinstance(detail, str) else ""
    remedy = _LEGACY_OFF if credential.kind == "legacy token" else _NEW_TOKEN
    return Finding("fail", "token", f"{what} is refused ({status}){told}", remedy)


async def _who_am_i(label_studio: LabelStudio, credential: Credential) -> tuple[int, object]:
    status, body = 401, None
    async for header in headers(credential):
        status, body = await label_studio.ask("/api/current-user/whoami", header)
        if status != 401:
            break
    return status, body


async def worker_finding(
    asked: Coroutine[Any, Any, sam_client.ServerInfo], *, own: WorkerProcess | None, model: str
) -> tuple[Finding, sam_client.ServerInfo | None]:
    """Say whether the worker answers and has the model, and what it offers.

    `asked` is the call that asks it for that; `own` is its process if it is the gateway's.
    """
    try:
        info = await asyncio.wait_for(asked, _TIMEOUT_S)
    except (sam_client.SamError, asyncio.TimeoutError) as error:
        message = f"it does not answer: {_cause(error)}"
        if own is None:
            remedy = (
                "start it with `sam-worker --listen …`, or set `SAM_WORKER` to where it listens"
            )
        else:
            if own.last_code is not None:
                message += f"; the one before it ended with status {own.last_code}"
            remedy = "it may be loading its model; if that lasts, the gateway's log tells more"
        return Finding("fail", "worker", message, remedy), None
    wanted = model or info.default_model
    models = {m.name: m for m in info.models}
    if wanted not in models:
        finding = Finding(
            "fail",
            "worker",
            f"it has no model {wanted!r}, but {', '.join(models) or 'none'}",
            "set `SAM_MODEL` to one of these, or start the worker with the model",
        )
        return finding, info
    used = models[wanted]
    return (
        Finding(
            "ok", "worker", f"{used.name} runs by {used.engine} on {used.device} ({used.precision})"
        ),
        info,
    )


def _cause(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {_TIMEOUT_S:g} s"
    if isinstance(error, aiohttp.ClientError):
        return cause(error)
    return str(error)
