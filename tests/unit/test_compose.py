"""The settings that README.md tells of reach the containers of docker-compose.yml."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sam_gateway import config as gateway_config
from sam_inference import config as worker_config

ROOT = Path(__file__).parents[2]

# Where things listen, and where they find each other and their files: the compose file says it.
DECIDED = {
    "gateway": {
        "HOST",
        "PORT",
        "LABEL_STUDIO_URL",
        "LABEL_STUDIO_HOST",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT",
        "SAM_WORKER",
    },
    "worker": {"SAM_LISTEN", "MODEL_DIR"},
}

services = pytest.mark.parametrize("service", ["gateway", "worker"])


def documented(service: str) -> set[str]:
    """Names in the first column of the table of settings that is headed by the service's name."""
    (table,) = re.findall(
        rf"^\| {service} \| default \|.*\n((?:\|.*\n)+)",
        (ROOT / "README.md").read_text(),
        re.MULTILINE,
    )
    first_column = "\n".join(row.split("|")[1] for row in table.splitlines())
    return set(re.findall(r"`([A-Z][A-Z_]+)`", first_column))


def passed_on(service: str) -> set[str]:
    """Names below `environment` of a service that have no value: Compose takes the user's."""
    (section,) = re.findall(
        rf"^  {service}:\n((?:    .*\n|\n)+)",
        (ROOT / "docker-compose.yml").read_text(),
        re.MULTILINE,
    )
    return set(re.findall(r"^      ([A-Z_]+):$", section, re.MULTILINE))


@services
def test_each_documented_setting_is_passed_on_or_decided(service):
    assert passed_on(service) == documented(service) - DECIDED[service]
    assert DECIDED[service] < documented(service)


@services
def test_a_setting_that_is_empty_is_one_that_is_not_set(service):
    parse_config = {"gateway": gateway_config, "worker": worker_config}[service].parse_config

    assert parse_config([], dict.fromkeys(passed_on(service), "")) == parse_config([], {})
