"""Log lines of the form `event key=value …`, one a line whatever the values hold."""

import json
import logging
import re

_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")


def event(name: str, **fields: object) -> str:
    """Write a log message; fields that are None are left out, awkward values are quoted."""
    return " ".join([name, *(f"{key}={_value(v)}" for key, v in fields.items() if v is not None)])


def set_up(level: str) -> None:
    """Send the log to stderr."""
    logging.basicConfig(
        level=level, format="time=%(asctime)s level=%(levelname)s logger=%(name)s %(message)s"
    )


def _value(value: object) -> str:
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
