"""The routes: HTTP only."""

import logging
from collections.abc import Sequence
from contextlib import aclosing

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from sam_gateway import interactive
from sam_gateway.errors import UNEXPECTED, GatewayError, InvalidRequestError
from sam_gateway.history import Prediction
from sam_gateway.json_body import parse_json
from sam_gateway.keys import (
    BATCH,
    CONFIG,
    EMBED_AHEAD,
    HISTORY,
    LABEL_STUDIO,
    METRICS,
    NEGATIVE_CLICKS,
    PROJECT_SETTINGS,
    SEGMENTER,
    WARMING,
)
from sam_gateway.label_config import parse_label_config
from sam_gateway.logs import event
from sam_gateway.prompts import (
    PredictRequest,
    group_prompts,
    parse_predict,
    parse_tasks_created,
)
from sam_gateway.results import mean_score

# Smaller answers are sent sooner than they are packed.
_COMPRESS_FROM_BYTES = 4096

_logger = logging.getLogger(__name__)


async def health(request: web.Request) -> web.Response:
    """Say that the gateway is up, whatever the worker does."""
    del request
    return json_response({"status": "UP", "model_class": "SegmentAnything"})


async def setup(request: web.Request) -> web.Response:
    """Take what Label Studio says about itself, and name the model version."""
    body = _object(await parse_json(await request.read()))
    hostname, token = body.get("hostname"), body.get("access_token")
    request.app[LABEL_STUDIO].remember_setup(
        hostname if isinstance(hostname, str) else "", token if isinstance(token, str) else ""
    )
    request.app[HISTORY].saw_label_config(body.get("schema"), _agent(request))
    request.app[PROJECT_SETTINGS].remember_setup(body.get("project"), body.get("extra_params"))
    _check_label_config(body.get("schema"), request.app[CONFIG].shape_options.kinds)
    return json_response({"model_version": request.app[CONFIG].model_version})


async def predict(request: web.Request) -> web.Response:
    """Answer prompts with regions; without prompts, with nothing for each task."""
    with request.app[HISTORY].predicting() as prediction:
        return await _predict(request, prediction)


async def _predict(request: web.Request, prediction: Prediction) -> web.Response:
    asked = parse_predict(await parse_json(await request.read()))
    prediction.asked(asked)
    request.app[HISTORY].saw_label_config(asked.label_config, _agent(request))
    if asked.prompts is None:
        return json_response({"results": await _predict_tasks(request, asked, prediction)})
    results: list[object] = [[] for _ in asked.tasks]
    prompts = request.app[NEGATIVE_CLICKS].recall(asked.prompts)
    found = await interactive.predict(
        asked.tasks[0],
        group_prompts(prompts, asked.tasks[0].saved),
        asked.label_config,
        segment=request.app[SEGMENTER].segment,
        label_studio=request.app[LABEL_STUDIO],
        shape_options=request.app[CONFIG].shape_options,
    )
    if asked.prompts:
        prediction.answered(found)
    if found:
        results[0] = {
            "result": found,
            "score": mean_score(found),
            "model_version": request.app[CONFIG].model_version,
        }
    return json_response({"results": results})


async def _predict_tasks(
    request: web.Request, asked: PredictRequest, prediction: Prediction
) -> list[object]:
    """Answer a request without prompts: of what nobody clicks on, the images are embedded."""
    if asked.label_config:
        request.app[EMBED_AHEAD].add(asked.tasks, asked.label_config)
    options = request.app[PROJECT_SETTINGS].batch(asked.tasks[0].project if asked.tasks else None)
    if options.mode == "off":
        return [[] for _ in asked.tasks]
    results = await request.app[BATCH].answer(asked.tasks, asked.label_config, options)
    prediction.predicted(sum(bool(entry) for entry in results))
    return results


async def webhook(request: web.Request) -> web.Response:
    """Hear what happened in Label Studio: drop what may have changed, prepare for what is new."""
    body = _object(await parse_json(await request.read()))
    action = body.get("action")
    if action == "PROJECT_UPDATED":
        parse_label_config.cache_clear()
    elif action == "TASKS_CREATED":
        created = parse_tasks_created(body)
        request.app[EMBED_AHEAD].add(created.tasks, created.label_config)
    elif action == "TASKS_DELETED":
        request.app[SEGMENTER].forget_images()
    elif action == "START_TRAINING":
        return json_response({"status": "ignored", "message": "this model is not trained here"})
    return json_response({"status": "ok"})


async def warm(request: web.Request) -> web.StreamResponse:
    """Embed all images of a project; tell how far it is in lines of JSON, until the caller goes."""
    project = _object(await parse_json(await request.read())).get("project")
    if isinstance(project, bool) or not isinstance(project, int):
        raise InvalidRequestError("expected the number of a project", field="project")
    async with aclosing(request.app[WARMING].warm(project)) as steps:
        about = await anext(steps)  # what is wrong with the project has a status of its own
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        await response.write(_line(about))
        try:
            async for step in steps:
                await response.write(_line(step))
        except ConnectionResetError:  # the caller has gone
            pass
        except GatewayError as error:
            await response.write(_failure(error))
        except Exception:  # the answer has begun: none with a status can take its place
            _logger.exception(event("warm_failed", project=project))
            await response.write(_failure(GatewayError(UNEXPECTED)))
    return response


async def versions(request: web.Request) -> web.Response:
    """List the model versions, of which there is one."""
    return json_response({"versions": [request.app[CONFIG].model_version]})


async def metrics(request: web.Request) -> web.Response:
    """Show the counters in the text format of Prometheus."""
    body = request.app[METRICS].exposition()
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def json_response(content: object, *, status: int = 200) -> web.Response:
    """Answer with JSON, packed if it is long and the caller can unpack it."""
    body = orjson.dumps(content)
    response = web.Response(
        body=body,
        status=status,
        content_type="application/json",
        zlib_executor_size=_COMPRESS_FROM_BYTES,  # in a thread
    )
    if len(body) > _COMPRESS_FROM_BYTES:
        response.enable_compression()
    return response


def _check_label_config(schema: object, shapes: Sequence[str]) -> None:
    """Log at once what would only show at the first click."""
    if not isinstance(schema, str) or not schema:
        return
    try:
        config = parse_label_config(schema)
        for name in config.images:
            config.outputs(name, (), shapes)
    except GatewayError as error:
        _logger.warning(event("label_config_unusable", reason=error.reason, message=str(error)))


def _line(content: object) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)


def _failure(error: GatewayError) -> bytes:
    return _line({"error": {"reason": error.reason, "message": str(error)}})


def _agent(request: web.Request) -> str:
    return request.headers.get("User-Agent", "")


def _object(body: object) -> dict[str, object]:
    if isinstance(body, dict):
        return body
    raise InvalidRequestError(f"expected an object, got {type(body).__name__}", field="body")
