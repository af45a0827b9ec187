"""The page's server: on this machine alone, without a connection to anywhere, and with nothing left behind."""

from __future__ import annotations

import importlib.util
import os
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from deblurgan.config import WebConfig
from deblurgan.inference import Deblurrer
from deblurgan.signals import collected_signals
from deblurgan.web import page

MB = 10**6
KEPT = 3600.0  # seconds that uploads and results stay on the disk
SWEEPS = 60.0  # seconds between two looks for older ones

# The browser fetches nothing from elsewhere, whatever gradio's page asks for, and other sites cannot frame it
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"

Message = MutableMapping[str, Any]


def serve(options: WebConfig, *, log: Callable[[str], None]) -> None:
    """Serves the page until Ctrl-C, SIGTERM or SIGHUP; `log` takes its address once it is there.

    Raises ImportError without gradio, OSError where the port cannot be had, and what `Deblurrer.from_pretrained` does.
    """
    _require_gradio()
    _require_free(options.host, options.port)
    if not is_loopback(options.host):
        warnings.warn(
            f"the page is open, without a password, to all who can reach {options.host} over the network", stacklevel=2
        )
    deblurrer = Deblurrer.from_pretrained(options.weights, device=options.device, dtype=options.dtype)
    with collected_signals() as received, running(deblurrer, options) as address:
        log(f"{address} (Ctrl-C stops it)")
        while not received:
            time.sleep(0.2)


@contextmanager
def running(deblurrer: Deblurrer, options: WebConfig, *, kept: float = KEPT, sweeps: float = SWEEPS) -> Iterator[str]:
    """The page's address; within it the page runs. Its files lie in a private folder, which vanishes at the end, and
    are deleted once they are `kept` seconds old, which is looked at every `sweeps` seconds."""
    with (
        tempfile.TemporaryDirectory(prefix="deblurgan-web-") as folder,
        _environment(folder),
        _swept(Path(folder), kept, sweeps),
    ):
        blocks = page.build(deblurrer, Path(folder))
        try:
            _, address, _ = blocks.launch(
                server_name=f"[{options.host}]" if ":" in options.host else options.host,
                server_port=options.port,
                share=False,
                prevent_thread_lock=True,
                quiet=True,
                max_file_size=options.max_file_size * MB,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                ssr_mode=False,
                pwa=False,
                mcp_server=False,
                app_kwargs={"middleware": _guards(options.host), "docs_url": None, "redoc_url": None},
                **page.appearance(),
            )
            yield address
        finally:
            blocks.close(verbose=False)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_gradio() -> None:
    """Raises ImportError without gradio, which itself is imported once its environment stands."""
    if importlib.util.find_spec("gradio") is None:
        raise ImportError("web needs gradio: pip install 'deblurgan[web]'")


def _require_free(host: str, port: int) -> None:
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        raise OSError(
            f"port {port} of {host} cannot be had ({error.strerror}): try --port {port % 65535 + 1}"
        ) from error


@contextmanager
def _environment(folder: str) -> Iterator[None]:
    """Environment variables under which gradio keeps its files in the folder, reports to nobody and asks no proxy for
    this machine; none that the user has set changes it."""
    before = dict(os.environ)
    for name in [name for name in before if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ.update(
        GRADIO_TEMP_DIR=folder,
        GRADIO_EXAMPLES_CACHE=folder,
        GRADIO_ANALYTICS_ENABLED="False",
        GRADIO_ANALYTICS_CACHE_FREQUENCY="1000",  # events between two summaries of its own, which take time
        HF_HUB_DISABLE_TELEMETRY="1",
        NO_PROXY="*",
        no_proxy="*",
    )
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _swept(folder: Path, kept: float, sweeps: float) -> Iterator[None]:
    """Deletes old files. (Gradio's delete_cache stops for ever where a file comes while it looks.)"""
    ended = threading.Event()

    def sweep() -> None:
        while not ended.wait(sweeps):
            for path in folder.rglob("*"):
                with suppress(OSError):
                    if path.is_file() and path.stat().st_ctime < time.time() - kept:
                        path.unlink()

    thread = threading.Thread(target=sweep, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _guards(host: str) -> list[Any]:
    """What stands before the page: the policy, and on this machine's own addresses a check of the name that the browser
    was given, since any site may give its own name such an address."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    names = [host, "127.0.0.1", "localhost", "[::1]"] if is_loopback(host) else ["*"]
    return [Middleware(_Policy), Middleware(TrustedHostMiddleware, allowed_hosts=names)]


class _Policy:
    """Adds the policy to every answer."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, send_with_policy)
