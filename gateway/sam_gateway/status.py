"""`GET /status`: what is well, what is not, and what came of the last requests."""

import asyncio

from aiohttp import web

from sam_gateway.batch_findings import batch_findings
from sam_gateway.checks import address_finding, token_findings, worker_finding
from sam_gateway.findings import Finding, call_finding, label_config_findings, remedy
from sam_gateway.history import History, now
from sam_gateway.keys import (
    BATCH,
    CONFIG,
    HISTORY,
    LABEL_STUDIO,
    METRICS,
    PROJECT_SETTINGS,
    WORKER,
    WORKER_PROCESS,
)
from sam_gateway.report import Report
from sam_gateway.status_page import page
from sam_gateway.views import json_response


async def status(request: web.Request) -> web.Response:
    """Show the page; JSON to those who ask for it and not for HTML."""
    accepted = request.headers.get("Accept", "")
    if "application/json" in accepted and "text/html" not in accepted:
        return await status_json(request)
    return web.Response(
        body=page(await _report(request.app)),
        content_type="text/html",
        charset="utf-8",
        headers={
            "Cache-Control": "no-store",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )


async def status_json(request: web.Request) -> web.Response:
    """Show the same as JSON."""
    return json_response(await _report(request.app))


async def _report(app: web.Application) -> Report:
    config, history, metrics = app[CONFIG], app[HISTORY], app[METRICS]
    # Side by side: the page takes as long as the slowest, which is bounded.
    address, tokens, (worker, info) = await asyncio.gather(
        address_finding(app[LABEL_STUDIO]),
        token_findings(app[LABEL_STUDIO]),
        worker_finding(app[WORKER].list_models(), own=app.get(WORKER_PROCESS), model=config.model),
    )
    findings = [
        call_finding(history.label_studio_calls, refused=history.label_studio_refused),
        address,
        *tokens,
        worker,
    ]
    if history.label_config:
        findings += await asyncio.to_thread(
            label_config_findings, history.label_config, config.shape_options.kinds
        )
    findings += _image_findings(history)
    findings += _prediction_findings(history)
    batch = app[BATCH].progress()
    findings += batch_findings(batch, app[PROJECT_SETTINGS].mistakes, app[BATCH].refusal)
    return Report(
        version=config.model_version,
        started=history.started,
        uptime_s=(now() - history.started).total_seconds(),
        label_studio_url=str(app[LABEL_STUDIO].url or ""),
        findings=findings,
        label_studio_calls=history.label_studio_calls,
        worker=info,
        counters=metrics.totals(),
        images=history.images,
        batch=batch,
        predictions=list(reversed(history.predictions)),
    )


def _image_findings(history: History) -> list[Finding]:
    return [
        Finding("fail", "images", f"{kind}: {outcomes.message}", remedy(outcomes.reason))
        if outcomes.failing
        else Finding("ok", "images", f"{kind}: the last one was fetched")
        for kind, outcomes in history.images.items()
        if outcomes.had_at or outcomes.failed_at
    ]


def _prediction_findings(history: History) -> list[Finding]:
    """Tell of the last prediction, unless it failed for its image, which is told already."""
    done = [prediction for prediction in history.predictions if prediction.outcome]
    if not done or not done[-1].reason:
        return []
    last = done[-1]
    if any(
        outcomes.failing and outcomes.reason == last.reason for outcomes in history.images.values()
    ):
        return []
    return [
        Finding(
            "fail",
            "last request",
            f"{last.reason}: {last.message}",
            remedy(last.reason),
        )
    ]
