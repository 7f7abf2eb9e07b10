"""Around every request: an id, a log line, counters, errors as JSON, Basic authentication."""

import logging
import re
import time
import uuid

from aiohttp import web
from aiohttp.typedefs import Handler

from sam_gateway.basic_auth import check_basic_auth
from sam_gateway.errors import UNEXPECTED, GatewayError, UnauthorizedError, WorkerBusyError
from sam_gateway.keys import CONFIG, HISTORY, METRICS
from sam_gateway.logs import event
from sam_gateway.views import json_response

_REQUEST_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
# What nginx logs for a client that went away; it is never sent.
_CLIENT_GONE = 499
# Asked every few seconds by what watches the gateway.
_PROBES = frozenset({"health", "root", "metrics", "status", "status-json"})

_logger = logging.getLogger(__name__)


@web.middleware
async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a request, whatever happens, and log it in one line."""
    started = time.monotonic()
    given_id = request.headers.get("X-Request-Id", "")
    request_id = given_id if _REQUEST_ID.fullmatch(given_id) else uuid.uuid4().hex[:16]
    route = _route(request)
    status, failure = _CLIENT_GONE, None
    try:
        response, failure = await _answer(request, handler, route, request_id)
        status = response.status
        response.headers["X-Request-Id"] = request_id
        return response
    finally:
        seconds = time.monotonic() - started
        request.app[HISTORY].called(route, request.headers.get("User-Agent", ""), status)
        metrics = request.app[METRICS]
        metrics.requests.labels(route, status).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        if failure:
            metrics.failures.labels(failure.reason).inc()
        quiet = logging.DEBUG if route in _PROBES else logging.INFO
        _logger.log(
            logging.WARNING if failure else quiet,
            event(
                "request",
                id=request_id,
                method=request.method,
                route=route,
                status=status,
                ms=seconds * 1000,
                reason=failure and failure.reason,
                field=failure and failure.field,
                message=failure,
            ),
        )


async def _answer(
    request: web.Request, handler: Handler, route: str, request_id: str
) -> tuple[web.StreamResponse, GatewayError | None]:
    headers: dict[str, str] = {}
    try:
        expected = request.app[CONFIG].basic_auth
        if expected:
            check_basic_auth(request.headers.get("Authorization"), expected, route)
        return await handler(request), None
    except GatewayError as error:
        failure = error
        if isinstance(error, WorkerBusyError):
            headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
        if isinstance(error, UnauthorizedError):
            headers["WWW-Authenticate"] = 'Basic realm="sam-gateway"'
    except web.HTTPException as error:  # aiohttp's own: no such route, method, body too large
        failure = GatewayError(f"{request.method} {request.path}: {error.text or error.reason}")
        failure.status = error.status
        failure.reason = error.reason.lower().replace(" ", "_")
        headers.update({"Allow": error.headers["Allow"]} if "Allow" in error.headers else {})
    except Exception:
        _logger.exception(event("unexpected", id=request_id))
        failure = GatewayError(UNEXPECTED)
    content = {"reason": failure.reason, "message": str(failure), "request_id": request_id}
    if failure.field:
        content["field"] = failure.field
    response = json_response({"error": content}, status=failure.status)
    response.headers.update(headers)
    return response, failure


def _route(request: web.Request) -> str:
    """Return the name of the route, which is the same with and without the path prefix."""
    name = request.match_info.route.name or "unknown"
    return name.removeprefix("prefixed-")
