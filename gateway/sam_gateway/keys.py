"""What the application holds for its handlers."""

from aiohttp import web

from sam_client import AsyncSamClient
from sam_gateway.ahead import EmbedAhead
from sam_gateway.batch import Batch
from sam_gateway.config import Config
from sam_gateway.history import History
from sam_gateway.label_studio import LabelStudio
from sam_gateway.metrics import Metrics
from sam_gateway.negative_clicks import NegativeClicks
from sam_gateway.project_settings import ProjectSettings
from sam_gateway.segmenter import Segmenter
from sam_gateway.warming import Warming
from sam_gateway.worker_process import WorkerProcess

CONFIG = web.AppKey("config", Config)
METRICS = web.AppKey("metrics", Metrics)
HISTORY = web.AppKey("history", History)
NEGATIVE_CLICKS = web.AppKey("negative_clicks", NegativeClicks)
LABEL_STUDIO = web.AppKey("label_studio", LabelStudio)
SEGMENTER = web.AppKey("segmenter", Segmenter)
EMBED_AHEAD = web.AppKey("embed_ahead", EmbedAhead)
BATCH = web.AppKey("batch", Batch)
WARMING = web.AppKey("warming", Warming)
PROJECT_SETTINGS = web.AppKey("project_settings", ProjectSettings)
WORKER = web.AppKey("worker", AsyncSamClient)
# Only where the gateway runs its own.
WORKER_PROCESS = web.AppKey("worker_process", WorkerProcess)
