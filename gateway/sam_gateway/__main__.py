"""The `sam-gateway` command."""

import asyncio
import logging
import os
import signal
import sys

from aiohttp import web

from sam_gateway import doctor, warm
from sam_gateway.app import create_app
from sam_gateway.config import Config, ConfigError, parse_config
from sam_gateway.keys import WORKER_PROCESS
from sam_gateway.logs import event, set_up

# Clicks under way may finish.
_SHUTDOWN_S = 10.0

_logger = logging.getLogger("sam_gateway")


def main() -> None:
    """Run the gateway until SIGINT or SIGTERM; or one of its commands, which end by themselves."""
    commands = {"doctor": doctor.main, "warm": warm.main}
    if command := commands.get(next(iter(sys.argv[1:]), "")):
        try:
            status = command(sys.argv[2:], os.environ)
            sys.stdout.flush()
        except BrokenPipeError:  # who reads, such as `head`, has read enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 1
        sys.exit(status)
    try:
        config = parse_config(sys.argv[1:], os.environ)
    except ConfigError as error:
        sys.exit(f"sam-gateway: {error}")
    set_up(config.log_level)
    try:
        if not asyncio.run(_run(config)):
            sys.exit("sam-gateway: its worker refuses its settings, and says why above")
    except OSError as error:
        sys.exit(f"sam-gateway: cannot listen on {config.host} port {config.port}: {error}")


async def _run(config: Config) -> bool:
    """Serve until a signal; return False if its worker ended that by refusing its settings."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    app = create_app(config)
    # Handlers are cancelled when Label Studio gives up.
    runner = web.AppRunner(
        app,
        access_log=None,
        handler_cancellation=True,
        shutdown_timeout=_SHUTDOWN_S,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, config.host, config.port).start()
        _greet(config, runner.addresses[0][1])
        ends = [stop] if (worker := app.get(WORKER_PROCESS)) is None else [stop, worker.refused]
        waiting = [asyncio.create_task(end.wait()) for end in ends]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        _logger.info(event("stopping"))
        return stop.is_set()
    finally:
        await runner.cleanup()


def _greet(config: Config, port: int) -> None:
    host = f"[{config.host}]" if ":" in config.host else config.host
    url = f"http://{host}:{port}{config.path_prefix}"
    for line in (
        "Label Studio 1.23 and later refuse private addresses: start it with "
        "ML_BLOCK_LOCAL_IP=false SSRF_PROTECTION_ENABLED=false label-studio start",
        f"Then add {url} in the project under Settings > Model, with interactive "
        "preannotations on.",
    ):
        _logger.info(line)
    _logger.info(
        event(
            "listening",
            url=url,
            worker=config.worker or "own",
            label_studio=config.label_studio_url or "as /setup says",
            token="set" if config.label_studio_token else "as /setup says",
            basic_auth="on" if config.basic_auth else "off",
        )
    )


if __name__ == "__main__":
    main()
