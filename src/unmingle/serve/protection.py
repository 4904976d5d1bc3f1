"""Access control: Host, Origin, token and session are checked before a request is handled."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
import socket
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmingle.serve.settings import Settings, is_loopback

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Recordings must not stay in the browser's cache, and after an update the browser must load the new page.
    "Cache-Control": "no-store",
}


class Protection:
    """Refuses requests of other sites and gives every browser its own session.

    - **Host**: a page of another site that resolves its name to this machine (DNS rebinding) sends that name. Only
      names of this machine are accepted, and literal addresses if the server listens beyond this machine.
    - **Origin**: a page of another site may send requests, but not with our origin.
    - **Token**: given once in the address (``/?token=...``) or in each request (``Authorization: Bearer ...``).
    - **Session**: a cookie that scripts cannot read, signed with a key that lives as long as the server.

    The name of the session is stored in ``scope["session_name"]``.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings
        self._key = secrets.token_bytes(32)
        self._names = {settings.host.lower()}
        if not settings.is_local:
            name = socket.gethostname().lower()
            self._names |= {name, f"{name}.local", socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        cookie = f"unmingle_{scope['server'][1] if scope.get('server') else 0}"
        session = self._signed_name(cookie_parser(headers.get("cookie", "")).get(cookie, ""))
        refusal = self._refusal(scope, headers, session)
        if refusal is not None:
            await self._refuse(refusal, scope, receive, send)
            return
        fresh = session is None
        scope["session_name"] = session = session or secrets.token_hex(16)

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    answer[name] = value
                if fresh:
                    answer.append(
                        "Set-Cookie", f"{cookie}={self._sign(session)}; Path=/; HttpOnly; SameSite=Strict"
                    )
            await send(message)

        if "token" in parse_qs(scope.get("query_string", b"").decode("latin-1")) and scope["path"] == "/":
            # The redirect removes the token from the address bar and the history.
            await RedirectResponse("/", 303)(scope, receive, send_protected)
            return
        await self._app(scope, receive, send_protected)

    def _refusal(self, scope: Scope, headers: Headers, session: str | None) -> Response | None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            return _error(403, f"{host!r} is not a name of this server; open the address that it printed.")
        origin = headers.get("origin")
        if origin is not None and _host_of(origin) != host.lower():
            return _error(403, f"Requests from pages of {origin} are refused.")
        if scope["path"] != "/" and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return _error(403, "Requests from other sites' pages are refused.")
        if self._settings.token and session is None and not self._shows_token(scope, headers):
            return _error(401, "This server needs its token; open the address that it printed.")
        return None

    def _is_ours(self, host: str) -> bool:
        name = _name_of(host) if "@" not in host else ""
        if is_loopback(name) or name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return not self._settings.is_local

    def _shows_token(self, scope: Scope, headers: Headers) -> bool:
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        shown = headers.get("authorization", "").removeprefix("Bearer ") or query.get("token", [""])[0]
        assert self._settings.token
        return hmac.compare_digest(shown.encode(), self._settings.token.encode())

    def _sign(self, name: str) -> str:
        return f"{name}.{hmac.new(self._key, name.encode(), 'sha256').hexdigest()}"

    def _signed_name(self, value: str) -> str | None:
        name = value.partition(".")[0]
        return name if hmac.compare_digest(value.encode(), self._sign(name).encode()) else None

    async def _refuse(self, refusal: Response, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, send)


def _host_of(address: str) -> str | None:
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return None  # Not an address, as "http://[".


def _name_of(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _error(status: int, text: str) -> JSONResponse:
    return JSONResponse({"error": text}, status, _HEADERS)
