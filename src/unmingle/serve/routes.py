"""The JSON API and the page's files; docs/serve.md and ``/api/openapi.json`` describe them."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket

from unmingle import __version__
from unmingle.audio import OUTPUT_FORMATS, check_format
from unmingle.audio_blocks import AudioWriter
from unmingle.errors import UnmingleError, reason
from unmingle.serve.jobs import STAGES, Job, Jobs, RefusedError, safe_name
from unmingle.serve.live import LiveStreams
from unmingle.serve.processes import Workers
from unmingle.serve.protection import Protection
from unmingle.serve.settings import Settings, read_speakers, read_strength
from unmingle.serve.views import draw, read_samples

STATIC = Path(__file__).parent / "static"
_MOST_SAMPLES = 2_000_000
_WIDEST = 4096
_ENCODED_AT_ONCE = 1 << 18
_KEEP_ALIVE_SECONDS = 15.0
_MOST_DRAINED = 64 * 2**20
_DRAIN_SECONDS = 5.0


def application(settings: Settings, folder: Path) -> Starlette:
    """The ASGI application. It keeps its files in ``folder``, which must be private."""
    api = _Api(settings, folder)
    routes = [
        Route("/", api.page),
        Route("/api", api.about),
        Route("/api/openapi.json", api.openapi),
        Route("/api/jobs", api.create, methods=["POST"]),
        Route("/api/jobs", api.list),
        Route("/api/events", api.events),
        Route("/api/jobs/{id}", api.show),
        Route("/api/jobs/{id}", api.delete, methods=["DELETE"]),
        Route("/api/jobs/{id}/outputs.zip", api.zip),
        Route("/api/jobs/{id}/outputs/{name}", api.output),
        Route("/api/jobs/{id}/tracks/{track}/samples", api.samples),
        Route("/api/jobs/{id}/tracks/{track}/picture", api.picture),
        WebSocketRoute("/api/live", api.live),
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Protection, settings=settings)],
        exception_handlers={UnmingleError: _answer_error, OSError: _answer_disk_error},
        lifespan=api.lifespan,
    )
    app.state.stop = api.stop
    return app


async def _answer_error(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, RefusedError) else 422
    # A refused upload is not read to its end.
    headers = {"Connection": "close"} if request.method == "POST" else None
    return JSONResponse({"error": str(error)}, status, headers)


async def _answer_disk_error(request: Request, error: Exception) -> Response:
    if isinstance(error, FileNotFoundError):
        return JSONResponse({"error": "The file is gone; its job may have been deleted."}, 404)
    assert isinstance(error, OSError)
    text = f"The server cannot use its disk ({reason(error)}); try again later."
    return JSONResponse({"error": text}, 507, {"Connection": "close"})


class _Api:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._workers = Workers(folder)
        self._jobs = Jobs(settings, folder, self._workers)
        self._streams = LiveStreams(settings, self._workers)
        self._encoding = asyncio.Lock()

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        """Run the queue and delete expired jobs while the server runs."""
        tasks = [asyncio.create_task(self._jobs.work()), asyncio.create_task(self._jobs.sweep())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def stop(self) -> None:
        """End the event streams, the live streams and the running job."""
        await self._workers.close()
        await self._jobs.stop()
        await self._streams.stop()

    async def page(self, _: Request) -> Response:
        """The page."""
        # A visitor soon sends a job, so a worker starts now.
        await self._workers.prepare()
        return FileResponse(STATIC / "index.html")

    async def openapi(self, _: Request) -> Response:
        """The OpenAPI description."""
        return FileResponse(STATIC / "openapi.json")

    async def about(self, _: Request) -> Response:
        """Version, limits, tasks and formats."""
        settings = self._settings
        return JSONResponse(
            {
                "version": __version__,
                "tasks": list(STAGES),
                "formats": list(OUTPUT_FORMATS),
                "upload_bytes": settings.upload_bytes,
                "recording_seconds": settings.recording_seconds,
                "keep_seconds": settings.keep_seconds,
                "session_jobs": settings.session_jobs,
            }
        )

    async def create(self, request: Request) -> Response:
        """Receive an upload: the body is the file, the query has ``name``, ``task``, ``speakers``, ``strength``."""
        query = request.query_params
        task = query.get("task", "separate")
        if task not in STAGES:
            raise UnmingleError(f"There is no task {task!r}; choose {', '.join(STAGES)}.")
        speakers, strength = (
            read_speakers(query.get("speakers", "")),
            read_strength(query.get("strength", "")),
        )
        job = Job(_session(request), safe_name(query.get("name", "")), task, speakers, strength)
        length, body = request.headers.get("content-length"), request.stream()
        try:
            try:
                await self._jobs.create(job, int(length) if length else None, body)
            except RefusedError:
                await _drain(body)
                raise
        except ClientDisconnect:
            return Response(status_code=400)
        return JSONResponse(self._jobs.describe(job), 201, {"Location": f"/api/jobs/{job.id}"})

    async def list(self, request: Request) -> Response:
        """The session's jobs."""
        return JSONResponse([self._jobs.describe(job) for job in self._jobs.of(_session(request))])

    async def show(self, request: Request) -> Response:
        """One job."""
        return JSONResponse(self._jobs.describe(self._job(request)))

    async def delete(self, request: Request) -> Response:
        """Cancel or delete a job."""
        await self._jobs.delete(self._job(request))
        return Response(status_code=204)

    async def events(self, request: Request) -> Response:
        """The session's jobs now and whenever something changes, as server-sent events."""
        return StreamingResponse(self._changes(_session(request)), media_type="text/event-stream")

    async def _changes(self, session: str) -> AsyncIterator[str]:
        version, sent = -1, ""
        while not self._jobs.stopped:
            try:
                async with asyncio.timeout(_KEEP_ALIVE_SECONDS):
                    version, jobs = await self._jobs.changes(session, version)
            except TimeoutError:
                yield ": still here\n\n"
                continue
            text = json.dumps([self._jobs.describe(job) for job in jobs])
            if text != sent:
                sent = text
                yield f"data: {text}\n\n"

    async def output(self, request: Request) -> Response:
        """One track as a file; the suffix is the format."""
        job, result = self._finished(request)
        track, _, format = request.path_params["name"].rpartition(".")
        async with self._encoding:
            path = await asyncio.to_thread(self._encode, job, result, _track(result, track)["name"], format)
        return FileResponse(path, filename=_file_name(job, track, format))

    async def zip(self, request: Request) -> Response:
        """All estimates in one archive."""
        job, result = self._finished(request)
        format = request.query_params.get("format", "wav")
        async with self._encoding:
            path = await asyncio.to_thread(self._pack, job, result, format)
        return FileResponse(path, filename=f"{Path(job.name).stem}.zip")

    def _encode(self, job: Job, result: dict[str, Any], track: str, format: str) -> Path:
        check_format(format, result["sample_rate"])
        stored = self._jobs.folder_of(job) / "tracks" / f"{track}.wav"
        stored.stat()  # The job may have been deleted.
        if format == "wav":
            return stored
        target = self._jobs.folder_of(job) / "encoded" / f"{track}.{format}"
        if not target.exists():
            gain = np.float32(1.0 if track == "original" else result["integer_gain"])
            with soundfile.SoundFile(str(stored)) as file:
                arguments = (file.samplerate, file.channels, format, None, result["seconds"])
                with AudioWriter(target, *arguments) as writer:
                    for block in file.blocks(_ENCODED_AT_ONCE, dtype="float32", always_2d=True):
                        writer.write(gain * block.T)
        return target

    def _pack(self, job: Job, result: dict[str, Any], format: str) -> Path:
        names = [track["name"] for track in result["tracks"] if track["name"] != "original"]
        files = [(self._encode(job, result, name, format), _file_name(job, name, format)) for name in names]
        target = self._jobs.folder_of(job) / "encoded" / f"{format}.zip"
        if not target.exists():  # Another request may be reading it.
            target.parent.mkdir(exist_ok=True)
            new = target.with_suffix(".partial")  # The lock of the requests makes this name unique.
            with zipfile.ZipFile(new, "w", zipfile.ZIP_STORED) as archive:
                for path, name in files:
                    archive.write(path, name)
            new.replace(target)
        return target

    async def samples(self, request: Request) -> Response:
        """A section of a track, float32."""
        start, count = _number(request, "start", 0), _number(request, "count", 1, _MOST_SAMPLES)
        data = await asyncio.to_thread(read_samples, self._track_path(request), start, count)
        return Response(data, media_type="application/octet-stream")

    async def picture(self, request: Request) -> Response:
        """A section of a track, as columns to draw."""
        _, result = self._finished(request)
        start, count = _number(request, "start", 0), _number(request, "count", 1)
        width = _number(request, "width", 1, _WIDEST)
        data = await asyncio.to_thread(
            draw, self._track_path(request), start, count, width, result["loudest_power"]
        )
        return Response(data, media_type="application/octet-stream")

    async def live(self, socket: WebSocket) -> None:
        """A live stream."""
        await self._streams.serve(socket)

    def _job(self, request: Request) -> Job:
        return self._jobs.get(_session(request), request.path_params["id"])

    def _finished(self, request: Request) -> tuple[Job, dict[str, Any]]:
        job = self._job(request)
        if job.result is None:
            raise RefusedError(409, job.error or f"{job.name} is not done yet.")
        return job, job.result

    def _track_path(self, request: Request) -> Path:
        job, result = self._finished(request)
        track = _track(result, request.path_params["track"])
        return self._jobs.folder_of(job) / "tracks" / f"{track['name']}.wav"


async def _drain(body: AsyncIterator[bytes]) -> None:
    """Read a refused upload for a few seconds: a client that is still sending may miss the answer otherwise."""
    left = _MOST_DRAINED
    with suppress(TimeoutError, RuntimeError):  # A body that has ended cannot be read.
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for block in body:
                left -= len(block)
                if left < 0:
                    return


def _session(request: Request) -> str:
    name: str = request.scope["session_name"]
    return name


def _track(result: dict[str, Any], name: str) -> dict[str, Any]:
    for track in result["tracks"]:
        if track["name"] == name:
            found: dict[str, Any] = track
            return found
    raise RefusedError(
        404, f"There is no track {name!r}; there are {', '.join(t['name'] for t in result['tracks'])}."
    )


def _file_name(job: Job, track: str, format: str) -> str:
    return f"{Path(job.name).stem}_{track}.{format}"


def _number(request: Request, name: str, least: int, most: int = 2**40) -> int:
    text = request.query_params.get(name, "")
    if text.isascii() and text.isdecimal() and len(text) < 16 and least <= int(text) <= most:
        return int(text)
    raise UnmingleError(f"{name} must be a whole number from {least} to {most}; got {text!r}.")
