"""Live streams: a websocket on one side, a worker process on the other."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from unmingle.audio import LOWEST_SAMPLE_RATE
from unmingle.errors import UnmingleError, reason
from unmingle.serve.processes import Worker, Workers, cause_of_death
from unmingle.serve.settings import Settings, read_speakers, read_strength

_HIGHEST_RATE = 192_000


class LiveStreams:
    """Denoises or separates audio from websockets, with a limit on simultaneous streams."""

    def __init__(self, settings: Settings, workers: Workers) -> None:
        self._settings, self._workers = settings, workers
        self._places = asyncio.Semaphore(settings.live_streams)
        self._open: set[Worker] = set()

    async def serve(self, socket: WebSocket) -> None:
        """Serve one stream: send ``{"lag_seconds", "model", "outputs"}``, then receive and send float32 samples.

        One channel comes in. Out go all outputs, interleaved: one if it is denoised, one per speaker if it is
        separated. Output sample k belongs to input sample k. A text message ends the input; the remaining samples
        follow.
        """
        await socket.accept()
        error = await self._refusal_or_stream(socket)
        # The page may be closed already.
        with suppress(RuntimeError, WebSocketDisconnect):
            if error:
                await socket.send_json({"error": error})
            await socket.close()
        await self._workers.prepare()

    async def _refusal_or_stream(self, socket: WebSocket) -> str | None:
        try:
            request = _read_request(socket.query_params, self._settings)
        except UnmingleError as error:
            return str(error)
        if self._places.locked():
            return "The server has reached its limit of live streams; try again later."
        async with self._places:
            try:
                worker = await self._workers.take()
            except OSError as error:
                return f"The stream could not start ({reason(error)}); try again later."
            self._open.add(worker)
            try:
                return await self._stream(socket, worker, request)
            finally:
                self._open.remove(worker)
                await worker.kill()

    async def stop(self) -> None:
        """End all streams."""
        for worker in list(self._open):
            await worker.kill()

    async def _stream(self, socket: WebSocket, worker: Worker, request: dict[str, Any]) -> str | None:
        """Run the stream until it ends. Returns an error text, or None."""
        try:
            await worker.ask(request)
            first = await worker.answer()
            if first is None:
                return f"The stream could not start: {cause_of_death(await worker.end())}."
            if "error" in first:
                return str(first["error"])
            await socket.send_json(first)
            async with asyncio.timeout(self._settings.live_seconds):
                await self._pass_on(socket, worker, first["outputs"])
            code = await worker.end()
            return f"The stream has ended: {cause_of_death(code)}." if code else None
        except TimeoutError:
            return f"The stream has lasted {self._settings.live_seconds / 60:.0f} minutes, the limit of this server."
        except (WebSocketDisconnect, ConnectionError):
            return None  # The page was closed.

    async def _pass_on(self, socket: WebSocket, worker: Worker, outputs: int) -> None:
        """Pass samples in both directions until all output is sent or the page is closed."""
        feeding = asyncio.create_task(_feed(socket, worker))
        sending = asyncio.create_task(_send(socket, worker, outputs))
        try:
            await asyncio.wait({feeding, sending}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                feeding.result()  # If the page was closed, this raises: nobody waits for the remaining samples.
            await sending
        finally:
            feeding.cancel()
            sending.cancel()
            await asyncio.gather(feeding, sending, return_exceptions=True)


async def _feed(socket: WebSocket, worker: Worker) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect
        data = message.get("bytes")
        if data is None:
            worker.input.close()
            return
        worker.input.write(data)
        await worker.input.drain()


async def _send(socket: WebSocket, worker: Worker, outputs: int) -> None:
    size, rest = 4 * outputs, b""
    while data := await worker.output.read(1 << 16):
        # A message holds whole samples of all outputs.
        rest += data
        whole = len(rest) // size * size
        if whole:
            await socket.send_bytes(rest[:whole])
        rest = rest[whole:]


def _read_request(query: Mapping[str, str], settings: Settings) -> dict[str, Any]:
    """The worker's request for a live stream, from the query of its address.

    Raises:
        UnmingleError: a value that cannot be.
    """
    rate, task = query.get("sample_rate", ""), query.get("task", "denoise")
    if not rate.isascii() or not rate.isdecimal() or not LOWEST_SAMPLE_RATE <= int(rate) <= _HIGHEST_RATE:
        raise UnmingleError(
            f"sample_rate must lie between {LOWEST_SAMPLE_RATE} and {_HIGHEST_RATE}; got {rate!r}."
        )
    if task not in ("denoise", "separate"):
        raise UnmingleError(f"A live stream cannot {task!r}; choose denoise or separate.")
    return {
        "live": True,
        "task": task,
        "sample_rate": int(rate),
        "strength": read_strength(query.get("strength", "")),
        "speakers": _number_of_speakers(query.get("speakers", "")),
        "lag": _read_lag(query.get("lag", "")),
        "model": settings.model,
        "denoiser": settings.denoiser,
        "threads": settings.threads,
    }


def _number_of_speakers(text: str) -> int | None:
    speakers = read_speakers(text)
    if speakers == "auto":
        raise UnmingleError("speakers must be a number, because a stream cannot count them; got 'auto'.")
    return speakers


def _read_lag(text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise UnmingleError(f"lag must be a number of seconds; got {text!r}.") from None
