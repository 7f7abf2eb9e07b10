"""The status page as HTML. Pure: a report in, a document out.

It is built as a tree and written by the standard library, which escapes everything shown.
"""

from datetime import datetime
from importlib.resources import files
from xml.etree.ElementTree import Element, tostring

import sam_client
from sam_gateway.batch import Progress
from sam_gateway.findings import Finding
from sam_gateway.history import ImageOutcomes, Prediction
from sam_gateway.report import Report

_MIB = 2**20
_FAILURES_SHOWN = 5
_SIGNS = {"ok": "✓", "warn": "!", "fail": "✕"}


def page(report: Report) -> bytes:
    """Write the page."""
    sections = [
        _section("What was checked", _findings(report.findings)),
        _section("Last requests", _predictions(report)),
        _section("Images", _images(report)),
        _section("Batches", _batches(report)),
        _section("Worker", _worker(report.worker)),
        _section("Counted since the start", _counters(report)),
    ]
    head = _tag(
        "head",
        _tag("meta", charset="utf-8"),
        _tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _tag("title", f"{_verdict(report)[1]} — sam-gateway"),
        _tag("style", files(__package__).joinpath("status.css").read_text("utf-8")),
    )
    body = _tag("body", _header(report), _tag("main", *sections), _footer())
    document = _tag("html", head, body, lang="en")
    written: bytes = tostring(document, "utf-8", method="html")
    return b"<!DOCTYPE html>\n" + written


def _header(report: Report) -> Element:
    level, verdict = _verdict(report)
    return _tag(
        "header",
        _tag("p", "sam-gateway", klass="name"),
        _tag("h1", _sign(level), verdict),
        _tag(
            "p",
            f"{report.version} · up for {_span(report.uptime_s)} · Label Studio at "
            f"{report.label_studio_url or 'an address not known yet'}",
            klass="quiet",
        ),
        klass=level,
    )


def _verdict(report: Report) -> tuple[str, str]:
    failed = sum(finding.level == "fail" for finding in report.findings)
    warned = sum(finding.level == "warn" for finding in report.findings)
    if failed:
        return "fail", f"{failed} thing{'s do' if failed > 1 else ' does'} not work"
    if warned:
        return "warn", f"{warned} thing{'s' * (warned > 1)} to look at"
    return "ok", "Everything works"


def _findings(findings: list[Finding]) -> Element:
    worst_first = sorted(findings, key=lambda finding: ("fail", "warn", "ok").index(finding.level))
    return _tag("ul", *(_finding(finding) for finding in worst_first), klass="findings")


def _finding(finding: Finding) -> Element:
    parts = [_tag("strong", finding.subject), _tag("span", *_prose(finding.message))]
    if finding.remedy:
        parts.append(_tag("p", *_prose(finding.remedy), klass="remedy"))
    return _tag("li", _sign(finding.level), _tag("div", *parts), klass=finding.level)


def _predictions(report: Report) -> Element:
    if not report.predictions:
        return _tag("p", "None yet.", klass="quiet")
    rows = [_prediction(prediction, report) for prediction in report.predictions]
    return _table(["when", "task", "result", "tag", "time"], rows)


def _prediction(prediction: Prediction, report: Report) -> Element:
    outcome: list[Element | str] = [prediction.outcome or "under way"]
    if prediction.reason:
        outcome = [
            _tag("span", prediction.reason, klass="failed"),
            _tag("small", prediction.message),
        ]
    return _row(
        _when(prediction.at, report),
        prediction.task or "—",
        _tag("div", *outcome),
        ", ".join(prediction.tags) or "—",
        f"{prediction.ms:.0f}\u00a0ms" if prediction.outcome else "—",
        klass="fail" if prediction.reason else "",
    )


def _images(report: Report) -> Element:
    if not report.images:
        return _tag("p", "None fetched yet.", klass="quiet")
    rows = [_image(kind, outcomes, report) for kind, outcomes in report.images.items()]
    return _table(["kind", "last had", "last failure", "reason"], rows)


def _image(kind: str, outcomes: ImageOutcomes, report: Report) -> Element:
    return _row(
        kind,
        _when(outcomes.had_at, report) if outcomes.had_at else "—",
        _when(outcomes.failed_at, report) if outcomes.failed_at else "—",
        _tag("div", _tag("small", outcomes.message or "—")),
        klass="fail" if outcomes.failing else "",
    )


def _batches(report: Report) -> Element:
    if not report.batch:
        return _tag("p", "No predictions of whole tasks were asked for.", klass="quiet")
    heads = ["project", "predicts", "done", "to come", "not taken", "failed", "last failures"]
    return _table(heads, [_batch(progress) for progress in report.batch])


def _batch(progress: Progress) -> Element:
    last = [
        _tag("small", f"task {failure.task}: {failure.reason}: {failure.message}")
        for failure in reversed(progress.failures[-_FAILURES_SHOWN:])
    ]
    return _row(
        str(progress.project or "—"),
        progress.mode,
        f"{progress.done:,}",
        f"{progress.waiting:,}",
        f"{progress.kept:,}",
        f"{progress.failed:,}",
        _tag("div", *last) if last else "—",
        klass="fail" if progress.failed or progress.kept else "",
    )


def _worker(worker: sam_client.ServerInfo | None) -> Element:
    if worker is None:
        return _tag("p", "It does not answer.", klass="quiet")
    rows = [
        _row(
            model.name + (" (default)" if model.name == worker.default_model else ""),
            f"{model.engine} on {model.device}, {model.precision}",
            f"{model.input_size} px",
            model.licence,
        )
        for model in worker.models
    ]
    limits = worker.limits
    return _tag(
        "div",
        _table(["model", "runs by", "sees", "licence"], rows),
        _tag(
            "p",
            f"A request may have {limits.max_message_bytes // _MIB} MiB, an image "
            f"{limits.max_image_pixels / 1e6:.0f} million pixels; at most {limits.max_prompts} "
            f"objects at once, {limits.max_points} points each.",
            klass="quiet",
        ),
    )


def _counters(report: Report) -> Element:
    items = [
        _tag("div", _tag("dt", name.replace("_", " ")), _tag("dd", f"{value:,}"))
        for name, value in report.counters.items()
    ]
    return _tag("dl", *items)


def _footer() -> Element:
    return _tag(
        "footer",
        "The same as JSON: ",
        _tag("a", "status.json", href="status.json"),
        ". On the command line: ",
        _tag("code", "sam-gateway doctor"),
        ".",
    )


def _section(title: str, content: Element) -> Element:
    return _tag("section", _tag("h2", title), content)


def _table(heads: list[str], rows: list[Element]) -> Element:
    head = _tag("thead", _tag("tr", *(_tag("th", name) for name in heads)))
    for row in rows:
        for name, cell in zip(heads, row, strict=True):
            cell.set("data-name", name)  # shown beside it where the screen is narrow
    return _tag("table", head, _tag("tbody", *rows))


def _row(*cells: Element | str, klass: str = "") -> Element:
    return _tag("tr", *(_tag("td", cell) for cell in cells), klass=klass)


def _sign(level: str) -> Element:
    return _tag("span", _SIGNS[level], klass="sign", title=level)


def _when(at: datetime, report: Report) -> Element:
    ago = (report.started - at).total_seconds() + report.uptime_s
    return _tag(
        "time",
        f"{_span(max(ago, 0.0))} ago",
        datetime=at.isoformat(timespec="seconds"),
        title=f"{at:%Y-%m-%d %H:%M:%S} UTC",
    )


def _span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _prose(text: str) -> list[Element | str]:
    """Show what is between backticks as code."""
    return [_tag("code", part) if i % 2 else part for i, part in enumerate(text.split("`")) if part]


def _tag(name: str, /, *children: Element | str, klass: str = "", **attributes: str) -> Element:
    element = Element(name, attributes)
    if klass:
        element.set("class", klass)
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + _shown(child)
        else:
            element.text = (element.text or "") + _shown(child)
    return element


def _shown(text: str) -> str:
    """Replace what no document may hold, such as half a surrogate pair or a control character."""
    text = text.encode(errors="replace").decode()
    return "".join(c if c.isprintable() or c in "\n\t\u00a0" else "\ufffd" for c in text)
