"""Jobs: uploads that wait in a queue, run one at a time in a worker process, and are kept for an hour."""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmingle.errors import UnmingleError, reason
from unmingle.serve.processes import Worker, Workers, cause_of_death
from unmingle.serve.settings import Settings

STAGES = {
    "separate": ["loading", "reading", "separating"],
    "denoise": ["loading", "reading", "denoising"],
    "both": ["loading", "reading", "separating"],
}
"""The stages of a job, in order, by its task. ``both`` cleans each speaker while it separates."""

_log = logging.getLogger(__name__)
_SWEEP_SECONDS = 10.0
_LONGEST_NAME = 120


class RefusedError(UnmingleError):
    """A refused request, with its HTTP status."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(eq=False)
class Job:
    """One recording and its task."""

    session: str
    name: str
    task: str
    speakers: int | str | None
    strength: float = 1.0
    """Strength of denoising, 0 to 1."""
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    created: float = field(default_factory=time.time)
    state: str = "uploading"
    """uploading, waiting, running, done or failed."""
    stage: str | None = None
    progress: float | None = None
    """Finished share of the stage, 0 to 1; None if the stage does not report it."""
    result: dict[str, Any] | None = None
    error: str | None = None
    ended: float | None = None


class Jobs:
    """All jobs of a server, their queue and their folders.

    Args:
        settings: the limits.
        folder: private; every job gets its own folder in it.
        workers: start the worker processes.
    """

    def __init__(self, settings: Settings, folder: Path, workers: Workers) -> None:
        self._settings, self._folder, self._workers = settings, folder, workers
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._running: tuple[Job, Worker] | None = None
        self._version = 0
        self.stopped = False
        self._changed = asyncio.Condition()
        self._wake = asyncio.Event()

    def of(self, session: str) -> list[Job]:
        """The session's jobs, oldest first."""
        return [job for job in self._jobs.values() if job.session == session]

    def get(self, session: str, id: str) -> Job:
        """One job of the session.

        Raises:
            RefusedError: the session has no such job, even if another session has it.
        """
        job = self._jobs.get(id)
        if job is None or job.session != session:
            raise RefusedError(404, "There is no such job; it may have been deleted.")
        return job

    def folder_of(self, job: Job) -> Path:
        """The folder of the job's files."""
        return self._folder / job.id

    def describe(self, job: Job) -> dict[str, Any]:
        """A job as the API shows it."""
        ahead = None
        if job in self._waiting:
            ahead = self._waiting.index(job) + (self._running is not None)
        return {
            "id": job.id,
            "name": job.name,
            "task": job.task,
            "speakers": job.speakers,
            "strength": job.strength,
            "state": job.state,
            "jobs_ahead": ahead,
            "stages": STAGES[job.task],
            "stage": job.stage,
            "progress": job.progress,
            "error": job.error,
            "result": job.result,
            "expires_at": job.ended and job.ended + self._settings.keep_seconds,
        }

    async def create(self, job: Job, length: int | None, body: AsyncIterator[bytes]) -> None:
        """Receive an upload and add its job to the queue.

        Args:
            job: a new one.
            length: of the body in bytes, if the client declares it.
            body: the file.

        Raises:
            RefusedError: there are too many jobs, or the file is empty, too large or too slow.
        """
        settings = self._settings
        if len(self.of(job.session)) >= settings.session_jobs:
            raise RefusedError(
                429, f"You already have {settings.session_jobs} recordings, the limit; remove one."
            )
        if len(self._jobs) >= settings.server_jobs:
            raise RefusedError(503, "The server is full; try again later.")
        if length is not None and length > settings.upload_bytes:
            raise self._too_large()
        self._jobs[job.id] = job
        try:
            await self._workers.prepare()
            async with asyncio.timeout(settings.upload_seconds):
                await self._receive(job, body)
        except TimeoutError:
            await self.delete(job)
            raise RefusedError(408, f"The upload took more than {settings.upload_seconds:.0f} s.") from None
        except BaseException:
            await self.delete(job)
            raise
        if job.id in self._jobs:
            job.state = "waiting"
            self._waiting.append(job)
            self._wake.set()
            await self._notify()

    async def _receive(self, job: Job, body: AsyncIterator[bytes]) -> None:
        target = self.folder_of(job) / "input" / job.name
        target.parent.mkdir(parents=True)
        taken = 0
        with target.open("wb") as file:
            async for block in body:
                taken += len(block)
                if taken > self._settings.upload_bytes:
                    raise self._too_large()
                file.write(block)
        if not taken:
            raise RefusedError(422, f"{job.name} is empty (0 bytes); there is nothing to read.")

    def _too_large(self) -> RefusedError:
        most = self._settings.upload_bytes / 2**20
        return RefusedError(413, f"The file is larger than {most:g} MB, the limit of this server.")

    async def delete(self, job: Job) -> None:
        """Delete a job: end its process if it runs, and remove its files."""
        self._jobs.pop(job.id, None)
        if job in self._waiting:
            self._waiting.remove(job)
        if self._running and self._running[0] is job:
            await self._running[1].kill()
        await asyncio.to_thread(shutil.rmtree, self.folder_of(job), ignore_errors=True)
        await self._notify()

    async def changes(self, session: str, since: int) -> tuple[int, list[Job]]:
        """Wait until the version is not ``since``; return the version and the session's jobs."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._version > since or self.stopped)
            return self._version, self.of(session)

    async def _notify(self) -> None:
        async with self._changed:
            self._version += 1
            self._changed.notify_all()

    async def work(self) -> None:
        """Run the jobs one after the other, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                await self._run(self._waiting.pop(0))

    async def _run(self, job: Job) -> None:
        try:
            worker = await self._workers.take()
        except OSError as error:
            job.error = f"{job.name} could not be processed ({reason(error)}); try again later."
        else:
            self._running = (job, worker)
            try:
                # The job may have been deleted while its process started.
                if job.id in self._jobs:
                    await self._follow(job, worker)
            except Exception:
                # One job must not stop the queue.
                _log.exception("A job ended unexpectedly.")
                job.error = f"{job.name} could not be processed; try again later."
            finally:
                await worker.kill()
                self._running = None
        job.state = "failed" if job.error else "done"
        job.stage = job.progress = None
        job.ended = time.time()
        await asyncio.to_thread(shutil.rmtree, self.folder_of(job) / "input", ignore_errors=True)
        await self._notify()
        await self._workers.prepare()

    async def _follow(self, job: Job, worker: Worker) -> None:
        job.state, job.stage = "running", "loading"
        await self._notify()
        try:
            async with asyncio.timeout(self._settings.job_seconds):
                await worker.ask(self._request(job))
                while not (job.error or job.result):
                    answer = await worker.answer()
                    if answer is None:
                        cause = cause_of_death(await worker.end())
                        answer = {"error": f"{job.name} could not be processed: {cause}."}
                    job.error, job.result = answer.get("error"), answer.get("result")
                    job.stage, job.progress = answer.get("stage"), answer.get("progress")
                    if job.stage:
                        await self._notify()
        except TimeoutError:
            job.error = (
                f"{job.name} took more than {self._settings.job_seconds / 60:.0f} minutes, "
                "the limit of this server: send a shorter recording."
            )

    def _request(self, job: Job) -> dict[str, Any]:
        settings = self._settings
        return {
            "task": job.task,
            "folder": str(self.folder_of(job)),
            "name": job.name,
            "speakers": job.speakers,
            "strength": job.strength,
            "model": settings.model,
            "denoiser": settings.denoiser,
            "threads": settings.threads,
            "recording_seconds": settings.recording_seconds,
        }

    async def sweep(self) -> None:
        """Delete expired jobs, until cancelled."""
        while True:
            old = time.time() - self._settings.keep_seconds
            for job in [job for job in self._jobs.values() if job.ended is not None and job.ended < old]:
                await self.delete(job)
            await asyncio.sleep(min(_SWEEP_SECONDS, self._settings.keep_seconds / 2))

    async def stop(self) -> None:
        """End the running job, and release everyone who waits for changes."""
        self.stopped = True
        self._waiting.clear()
        if self._running:
            await self._running[1].kill()
        await self._notify()


def safe_name(name: str) -> str:
    """A safe file name from the name that the browser sends: no folders, not hidden, not too long."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    base = "".join(letter for letter in base if letter.isprintable()).strip().lstrip(".-")
    stem, dot, suffix = base.rpartition(".")
    if not dot or len(suffix) > 8:
        stem, suffix = base, ""
    # The limit is in bytes, as in file systems.
    room = _LONGEST_NAME - len(suffix.encode()) - 1
    stem = stem.encode("utf-8", "ignore")[:room].decode("utf-8", "ignore").strip() or "recording"
    return f"{stem}.{suffix}" if suffix else stem
