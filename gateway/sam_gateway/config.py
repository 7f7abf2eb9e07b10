"""Settings, from flags and the environment. Nothing else in the gateway reads the environment."""

import argparse
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from yarl import URL

from sam_client.channel import DEFAULT_MAX_MESSAGE_BYTES, LARGEST_MESSAGE_BYTES
from sam_gateway.automatic import AutomaticOptions
from sam_gateway.shapes import SHAPES, ShapeOptions
from sam_gateway.tokens import is_token

MIB = 2**20

# What a message to the worker has besides an image, at most.
MESSAGE_OVERHEAD_BYTES = 4096

BATCH_MODES = ("off", "boxes", "automatic")
# What `parse_batch_options` reads.
BATCH_SETTINGS = (
    "BATCH",
    "AUTOMATIC_POINTS_PER_SIDE",
    "AUTOMATIC_MIN_IOU",
    "AUTOMATIC_MIN_STABILITY",
    "AUTOMATIC_MAX_MASKS",
)
# Four times as many clicks as SAM's own generator makes.
MAX_POINTS_PER_SIDE = 64

_SAM_CHOICES = {"MobileSAM": "mobile_sam", "SAM": "sam_vit_h", "ONNX": "sam_vit_h"}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ConfigError(Exception):
    """A setting has a value that it cannot have; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedHosts:
    """Hosts whose images are fetched even if they have a private address."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """What is predicted for a task that nobody clicks in.

    Attributes:
        mode: `off` for nothing, `boxes` for a mask for each rectangle that is there already,
            `automatic` for masks of everything.
        automatic: which masks `automatic` keeps.
    """

    mode: str = "off"
    automatic: AutomaticOptions = field(default_factory=AutomaticOptions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of a gateway; `parse_config` says where each comes from."""

    host: str = "127.0.0.1"
    port: int = 9090
    path_prefix: str = ""
    worker: str = ""
    model: str = ""
    label_studio_url: URL | None = None
    label_studio_token: str = field(default="", repr=False)
    basic_auth: tuple[str, str] | None = field(default=None, repr=False)
    allowed_image_hosts: AllowedHosts = AllowedHosts()
    local_files_root: Path | None = None
    max_image_bytes: int = DEFAULT_MAX_MESSAGE_BYTES - MESSAGE_OVERHEAD_BYTES
    # With each click Label Studio sends all masks of the task again.
    max_body_bytes: int = 256 * MIB
    image_timeout_s: float = 30.0
    # Label Studio gives up after 100 s.
    predict_timeout_s: float = 90.0
    shape_options: ShapeOptions = field(default_factory=ShapeOptions)
    batch: BatchOptions = field(default_factory=BatchOptions)
    log_level: str = "INFO"

    @property
    def model_version(self) -> str:
        """What predictions are marked with in Label Studio."""
        return "-".join(filter(None, ["samserve", version("samserve"), self.model]))

    @property
    def max_message_bytes(self) -> int:
        """How large a message to the worker may be: an image goes in one."""
        return max(DEFAULT_MAX_MESSAGE_BYTES, self.max_image_bytes + MESSAGE_OVERHEAD_BYTES)


def parse_config(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Read the settings; a flag wins over the environment.

    Raises ConfigError naming the flag or variable. Exits on `--help` and unknown flags.
    """
    env = {key: value.strip() for key, value in environment.items() if value.strip()}
    default = Config()
    flags = _parser().parse_args(arguments)
    user, password = env.get("BASIC_AUTH_USER", ""), env.get("BASIC_AUTH_PASS", "")
    if bool(user) != bool(password):
        raise ConfigError("BASIC_AUTH_USER and BASIC_AUTH_PASS: set both or none")
    url = env.get("LABEL_STUDIO_URL") or env.get("LABEL_STUDIO_HOST", "")
    token = env.get("LABEL_STUDIO_API_KEY") or env.get("LABEL_STUDIO_ACCESS_TOKEN", "")
    return Config(
        host=flags.host or env.get("HOST", default.host),
        port=_port(flags.port or env.get("PORT", str(default.port))),
        path_prefix=_path_prefix(flags.path_prefix or env.get("PATH_PREFIX", "")),
        worker=_worker(flags.worker or env.get("SAM_WORKER", "")),
        model=flags.model or env.get("SAM_MODEL", "") or _sam_choice(env),
        label_studio_url=parse_label_studio_url(url) if url else None,
        label_studio_token=_token("LABEL_STUDIO_API_KEY", token),
        basic_auth=(user, password) if user else None,
        allowed_image_hosts=_allowed_hosts(env.get("ALLOWED_IMAGE_HOSTS", "")),
        local_files_root=_folder("LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT", env),
        max_image_bytes=_whole(
            "MAX_IMAGE_BYTES",
            env,
            default.max_image_bytes,
            maximum=LARGEST_MESSAGE_BYTES - MESSAGE_OVERHEAD_BYTES,
        ),
        max_body_bytes=_whole("MAX_BODY_BYTES", env, default.max_body_bytes),
        image_timeout_s=_seconds("IMAGE_TIMEOUT_S", env, default.image_timeout_s),
        predict_timeout_s=_seconds("PREDICT_TIMEOUT_S", env, default.predict_timeout_s),
        shape_options=_shape_options(env, default.shape_options),
        batch=parse_batch_options(env, default.batch),
        log_level=_log_level(flags.log_level or env.get("LOG_LEVEL", default.log_level)),
    )


def parse_http_url(setting: str, text: str, port: int) -> URL:
    """Read an address of a server, which may end in a path; `host:port` means http.

    Raises ConfigError naming the setting and, as an example, an address with `port`.
    """
    text = text if "://" in text else f"http://{text}"
    try:
        url = URL(text)
        valid = url.scheme in ("http", "https") and url.host and url.port
    except ValueError:
        valid = None
    if not valid:
        raise ConfigError(f"{setting}: expected an address such as http://localhost:{port}")
    return url


def parse_label_studio_url(text: str) -> URL:
    """Read the address of Label Studio.

    Raises ConfigError.
    """
    url = parse_http_url("LABEL_STUDIO_URL", text, 8080)
    if url.user is not None or url.password is not None:
        raise ConfigError("LABEL_STUDIO_URL: expected an address without user and password")
    return url.origin().with_path(url.path.rstrip("/"))


def parse_batch_options(settings: Mapping[str, str], default: BatchOptions) -> BatchOptions:
    """Read what is predicted for tasks, of the gateway or of one project.

    Raises ConfigError naming the setting.
    """
    mode = settings.get("BATCH", default.mode).lower()
    if mode not in BATCH_MODES:
        raise ConfigError(f"BATCH: expected one of {', '.join(BATCH_MODES)}, got {mode!r}")
    usual = default.automatic
    return BatchOptions(
        mode=mode,
        automatic=AutomaticOptions(
            points_per_side=_whole(
                "AUTOMATIC_POINTS_PER_SIDE",
                settings,
                usual.points_per_side,
                maximum=MAX_POINTS_PER_SIDE,
            ),
            min_predicted_iou=_share("AUTOMATIC_MIN_IOU", settings, usual.min_predicted_iou),
            min_stability_score=_share(
                "AUTOMATIC_MIN_STABILITY", settings, usual.min_stability_score
            ),
            max_masks=_whole("AUTOMATIC_MAX_MASKS", settings, usual.max_masks),
        ),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sam-gateway",
        description="Serve Segment Anything to Label Studio as an ML backend.",
        epilog="`sam-gateway doctor --help` tells of a check of the whole way to Label Studio, "
        "`sam-gateway warm --help` of embedding a project ahead of time. "
        "Further settings are environment variables: LABEL_STUDIO_URL, "
        "LABEL_STUDIO_API_KEY, BASIC_AUTH_USER, BASIC_AUTH_PASS, ALLOWED_IMAGE_HOSTS, "
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, "
        "MAX_IMAGE_BYTES, MAX_BODY_BYTES, IMAGE_TIMEOUT_S, PREDICT_TIMEOUT_S, OUTPUT, "
        "POLYGON_TOLERANCE, MIN_REGION_PIXELS, MIN_HOLE_PIXELS, BATCH, AUTOMATIC_POINTS_PER_SIDE, "
        "AUTOMATIC_MIN_IOU, AUTOMATIC_MIN_STABILITY, AUTOMATIC_MAX_MASKS.",
    )
    add = parser.add_argument
    add("--host", help="address to listen on (HOST, 127.0.0.1)")
    add("--port", help="(PORT, 9090; 0 = any free)")
    add("--path-prefix", help="path before all routes, as in the registered URL (PATH_PREFIX)")
    add("--worker", help="host:port or unix:/path of a worker (SAM_WORKER); its own without it")
    add("--model", help="model to ask the worker for (SAM_MODEL); the worker's default without it")
    add("--log-level", help="DEBUG, INFO, WARNING or ERROR (LOG_LEVEL, INFO)")
    return parser


def _sam_choice(env: Mapping[str, str]) -> str:
    """Read the name that the example backend of Label Studio has for a model."""
    choice = env.get("SAM_CHOICE", "")
    if choice and choice not in _SAM_CHOICES:
        raise ConfigError(
            f"SAM_CHOICE: expected one of {', '.join(_SAM_CHOICES)}, got {choice!r}; "
            "SAM_MODEL takes any model"
        )
    return _SAM_CHOICES.get(choice, "")


def _whole(
    name: str,
    env: Mapping[str, str],
    default: int,
    minimum: int = 1,
    maximum: int = 10**15 - 1,
) -> int:
    text = env.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,15}", text) or int(text) < minimum:
        raise ConfigError(f"{name}: expected a whole number from {minimum}, got {text!r}")
    if int(text) > maximum:
        raise ConfigError(f"{name}: expected at most {maximum}, got {text}")
    return int(text)


def _shape_options(env: Mapping[str, str], default: ShapeOptions) -> ShapeOptions:
    kinds = tuple(filter(None, re.split(r"[\s,]+", env.get("OUTPUT", "").lower())))
    if unknown := [kind for kind in kinds if kind not in SHAPES]:
        raise ConfigError(
            f"OUTPUT: expected one or more of {', '.join(SHAPES)}, separated by commas, "
            f"got {unknown[0]!r}"
        )
    tolerance = env.get("POLYGON_TOLERANCE", str(default.polygon_tolerance))
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", tolerance):
        raise ConfigError(
            f"POLYGON_TOLERANCE: expected a number of pixels from 0, got {tolerance!r}"
        )
    return ShapeOptions(
        kinds=tuple(dict.fromkeys(kinds)),
        polygon_tolerance=float(tolerance),
        min_region_pixels=_whole("MIN_REGION_PIXELS", env, default.min_region_pixels, 0),
        min_hole_pixels=_whole("MIN_HOLE_PIXELS", env, default.min_hole_pixels, 0),
    )


def _share(name: str, env: Mapping[str, str], default: float) -> float:
    text = env.get(name, str(default))
    if not re.fullmatch(r"[01](\.[0-9]{1,6})?", text) or float(text) > 1:
        raise ConfigError(f"{name}: expected a number from 0 to 1, got {text!r}")
    return float(text)


def _seconds(name: str, env: Mapping[str, str], default: float) -> float:
    text = env.get(name, str(default))
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text) or float(text) <= 0:
        raise ConfigError(f"{name}: expected a number of seconds above 0, got {text!r}")
    return float(text)


def _folder(name: str, env: Mapping[str, str]) -> Path | None:
    if name not in env:
        return None
    folder = Path(env[name])
    if not folder.is_absolute() or not folder.is_dir():
        raise ConfigError(
            f"{name}: expected the full path of a folder that is there, got {env[name]!r}"
        )
    return folder


def _port(text: str) -> int:
    if not _is_port(text):
        raise ConfigError(f"PORT: expected a port number from 0 to 65535, got {text!r}")
    return int(text)


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None and int(text) <= 65535


def _worker(text: str) -> str:
    host, _, port = text.rpartition(":")
    is_socket = re.fullmatch(r"unix(-abstract)?:.+", text)
    if text and not is_socket and not (host and _is_port(port)):
        raise ConfigError(f"SAM_WORKER: expected host:port or unix:/path, got {text!r}")
    return text


def _path_prefix(text: str) -> str:
    prefix = "/" + text.strip("/") if text.strip("/") else ""
    if not re.fullmatch(r"(/[\w.~-]+)*", prefix, re.ASCII):
        raise ConfigError(f"PATH_PREFIX: expected a path such as /sam, got {text!r}")
    return prefix


def _token(name: str, token: str) -> str:
    if token and not is_token(token):
        raise ConfigError(f"{name}: a token has no spaces or control characters")
    return token


def _allowed_hosts(text: str) -> AllowedHosts:
    names, networks = set(), []
    for entry in filter(None, re.split(r"[\s,]+", text)):
        try:
            networks.append(ipaddress.ip_network(entry.strip("[]")))
        except ValueError:
            if not re.fullmatch(r"[\w.-]+", entry):
                raise ConfigError(
                    "ALLOWED_IMAGE_HOSTS: expected host names, addresses or networks such as "
                    f"10.0.0.0/8, separated by commas, got {entry!r}"
                ) from None
            names.add(entry.lower())
    return AllowedHosts(names=frozenset(names), networks=tuple(networks))


def _log_level(text: str) -> str:
    level = text.upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ConfigError(f"LOG_LEVEL: expected DEBUG, INFO, WARNING or ERROR, got {text!r}")
    return level
