"""The application: routes, and what lives as long as it."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from sam_client import AsyncSamClient
from sam_gateway import status, views
from sam_gateway.addresses import AddressPolicy, CheckedResolver
from sam_gateway.ahead import EmbedAhead
from sam_gateway.batch import Batch
from sam_gateway.config import Config
from sam_gateway.history import History, WatchedFetcher
from sam_gateway.images import ImageFetcher
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
    WORKER,
    WORKER_PROCESS,
)
from sam_gateway.label_studio import LabelStudio
from sam_gateway.label_studio_api import LabelStudioApi
from sam_gateway.metrics import Metrics
from sam_gateway.middleware import serve
from sam_gateway.negative_clicks import NegativeClicks
from sam_gateway.predictor import TaskPredictor
from sam_gateway.project_settings import ProjectSettings
from sam_gateway.segmenter import Segmenter
from sam_gateway.warming import Warming
from sam_gateway.worker_process import WorkerProcess

_CONNECT_TIMEOUT_S = 5.0
_MAX_CONNECTIONS = 64


def create_app(config: Config) -> web.Application:
    """Build the gateway; it starts its worker, if it has its own, and connects when it is run."""
    app = web.Application(middlewares=[serve], client_max_size=config.max_body_bytes)
    app[CONFIG] = config
    app[METRICS] = Metrics()
    app[HISTORY] = History()
    app[NEGATIVE_CLICKS] = NegativeClicks()
    app[PROJECT_SETTINGS] = ProjectSettings(config.batch)
    app.cleanup_ctx.append(_lifetime)
    add_routes(app, "", "")
    if config.path_prefix:
        add_routes(app, config.path_prefix, "prefixed-")
    return app


def add_routes(app: web.Application, path_prefix: str, name_prefix: str) -> None:
    """Add all routes below a path."""
    add_get, add_post = app.router.add_get, app.router.add_post
    add_get(f"{path_prefix}/", views.health, name=f"{name_prefix}root")
    add_get(f"{path_prefix}/health", views.health, name=f"{name_prefix}health")
    add_get(f"{path_prefix}/versions", views.versions, name=f"{name_prefix}versions")
    add_get(f"{path_prefix}/metrics", views.metrics, name=f"{name_prefix}metrics")
    add_get(f"{path_prefix}/status", status.status, name=f"{name_prefix}status")
    add_get(f"{path_prefix}/status.json", status.status_json, name=f"{name_prefix}status-json")
    add_post(f"{path_prefix}/setup", views.setup, name=f"{name_prefix}setup")
    add_post(f"{path_prefix}/predict", views.predict, name=f"{name_prefix}predict")
    add_post(f"{path_prefix}/warm", views.warm, name=f"{name_prefix}warm")
    add_post(f"{path_prefix}/webhook", views.webhook, name=f"{name_prefix}webhook")


async def _lifetime(app: web.Application) -> AsyncIterator[None]:
    config, metrics = app[CONFIG], app[METRICS]
    policy = AddressPolicy(config.allowed_image_hosts)
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=CheckedResolver(policy), limit=_MAX_CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=config.image_timeout_s, sock_connect=_CONNECT_TIMEOUT_S
        ),
        headers={"User-Agent": config.model_version},
    )
    label_studio = app[LABEL_STUDIO] = LabelStudio(config, session, policy)
    fetcher = ImageFetcher(
        session,
        label_studio,
        policy,
        max_bytes=config.max_image_bytes,
        timeout_s=config.image_timeout_s,
        local_files_root=config.local_files_root,
    )
    worker = None
    if not config.worker:
        arguments = ["--log-level", config.log_level]
        arguments += ["--model", config.model] if config.model else []
        worker = app[WORKER_PROCESS] = WorkerProcess(arguments, metrics.worker_starts)
        await worker.start()
    target = worker.target if worker else config.worker
    client = AsyncSamClient(
        target, timeout_s=config.predict_timeout_s, max_message_bytes=config.max_message_bytes
    )
    async with session, client:
        app[WORKER] = client
        watched = WatchedFetcher(fetcher, app[HISTORY], label_studio)
        app[SEGMENTER] = Segmenter(
            client, watched, metrics, model=config.model, timeout_s=config.predict_timeout_s
        )
        ahead = app[EMBED_AHEAD] = EmbedAhead(app[SEGMENTER], label_studio)
        api = LabelStudioApi(label_studio)
        predictor = TaskPredictor(app[SEGMENTER], label_studio, api, config.shape_options)
        batch = app[BATCH] = Batch(predictor, api, config.model_version)
        app[WARMING] = Warming(app[SEGMENTER], label_studio, api)
        background = [asyncio.create_task(ahead.run()), asyncio.create_task(batch.run())]
        yield
        for task in background:
            task.cancel()
        await asyncio.wait(background)
    if worker:
        await worker.stop()
