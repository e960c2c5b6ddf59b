"""The guard before both dashboards: it passes on the requests of their own pages, in the browser of their owner.

Neither dashboard has a login, and each serves more than it shows. A request is passed on if

- it calls the server by one of its names: a page of another site may give its own name this machine's address, and
  would then be this server's page to a browser ("DNS rebinding");
- no page of another origin has sent it. A server of another user on another port of this machine is another origin,
  but the same *site*, so that cookies alone do not tell it apart;
- it has the token, as a cookie or, for programs, as `Authorization: Bearer`; and
- its route is on the list of `routes`.

What is answered stands in no other site's frame, is read by no other site, and files run no scripts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, parse_qsl, quote, urlencode, urlsplit

from search.dashboards.routes import Route, find_route

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_OF_FILES = {"Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"}
_OPEN_TO_OTHERS = "access-control-"
"""Headers by which a dashboard would let pages of others read its answers."""

_ENTER = 'location.replace(document.querySelector("a").href + location.hash)'
_ENTERED = f"""<!DOCTYPE html><meta charset="utf-8"><title>regsearch</title>
<p><a href="{{target}}">Continue</a></p><script>{_ENTER}</script>
"""
_LOGIN = """<!DOCTYPE html><meta charset="utf-8"><title>regsearch</title>
<p>This page needs the token of its server. Open the address that <code>regsearch ui</code> printed, or enter the token:
<form><input name="token" type="password" autofocus> <button>Enter</button></form>
"""


@dataclass(frozen=True)
class Access:
    """The conditions of access to a server."""

    names: Sequence[str]
    """Host names and addresses (without brackets) that requests may call it by."""
    token: str
    cookie: str
    """Name of the cookie. Browsers send cookies to all ports of a host, so each server needs another name."""


@dataclass(frozen=True)
class Reply:
    """An answer of our own to a request. Browsers keep none."""

    status: str
    text: str
    kind: str = "text/plain"
    headers: Sequence[tuple[str, str]] = ()

    def send(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer the request."""
        body = self.text.encode("utf-8", "replace")
        fixed = [("Content-Type", f"{self.kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(self.status, [*fixed, ("Cache-Control", "no-store"), *self.headers])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


class RequestGuard:
    """Middleware that answers refused requests itself and passes on the others."""

    def __init__(self, app: WSGIApplication, routes: Sequence[Route], access: Access) -> None:
        self._app, self._routes, self._access = app, routes, access

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, or pass it on."""
        route = find_route(self._routes, environ["REQUEST_METHOD"], environ.get("PATH_INFO", ""))
        start_response = _with_headers(start_response, route is not None and route.is_file)
        reply = self._reply(environ, route)
        return self._app(environ, start_response) if reply is None else reply.send(environ, start_response)

    def _reply(self, environ: WSGIEnvironment, route: Route | None) -> Reply | None:
        """Return what to answer instead of the application; None where the request is one for it."""
        method = environ["REQUEST_METHOD"]
        if refusal := self._refusal(environ):
            return Reply("403 Forbidden", refusal)
        token = parse_qs(environ.get("QUERY_STRING", "")).get("token", [""])[0] if method == "GET" else ""
        if not any(self._is_token(given) for given in (token, *self._sent_tokens(environ))):
            headers = [("WWW-Authenticate", "Bearer"), ("Content-Security-Policy", _policy("form-action 'self'"))]
            return Reply("401 Unauthorized", _LOGIN, "text/html", headers)
        if route is None:
            asked = f"{method} {environ.get('PATH_INFO', '')!r}"
            return Reply("404 Not Found", f"regsearch ui shows studies, and changes notes alone: {asked} is not served")
        return self._enter(environ) if token else None

    def _refusal(self, environ: WSGIEnvironment) -> str | None:
        """Return the reason to refuse a request because of who sent it; None where there is none."""
        host = environ.get("HTTP_HOST", "")
        if host_name(host) not in self._access.names:
            return f"{host!r} is no name of this server (--allowed-host)"
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return f"a page of {origin!r} has no access to {host!r} (a proxy must pass on the Host header)"
        is_from_elsewhere = environ.get("HTTP_SEC_FETCH_SITE") in ("same-site", "cross-site")
        if is_from_elsewhere and environ.get("HTTP_SEC_FETCH_MODE") != "navigate":
            return "pages of other servers have no access"
        return None

    def _sent_tokens(self, environ: WSGIEnvironment) -> list[str]:
        """Return the tokens of the headers. Another server of this host may have set a cookie of the same name."""
        scheme, _, bearer = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        cookies = [pair.strip().partition("=") for pair in environ.get("HTTP_COOKIE", "").split(";")]
        found = [value for name, _, value in cookies if name == self._access.cookie]
        return [*found, bearer.strip()] if scheme.lower() == "bearer" else found

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._access.token.encode())

    def _enter(self, environ: WSGIEnvironment) -> Reply:
        """Turn the token of an address into a cookie, and lead to the address without it.

        A page does so, not a redirect: after a link in another site's page (a mail, a terminal in a browser) a browser
        counts a redirect as that site's request, and sends no strict cookie along.
        """
        rest = [(name, value) for name, value in parse_qsl(environ["QUERY_STRING"], True) if name != "token"]
        path = quote(environ["PATH_INFO"].encode("latin-1"))
        page = _ENTERED.format(target=escape(f"{path}?{urlencode(rest)}" if rest else path))
        secure = "; Secure" if environ["wsgi.url_scheme"] == "https" else ""
        cookie = f"{self._access.cookie}={self._access.token}; Path=/; HttpOnly; SameSite=Strict{secure}"
        digest = base64.b64encode(hashlib.sha256(_ENTER.encode()).digest()).decode()
        policy = _policy(f"script-src 'sha256-{digest}'")
        headers = [("Set-Cookie", cookie), ("Content-Security-Policy", policy)]
        return Reply("200 OK", page, "text/html", headers)


def host_name(host: str) -> str:
    """Return the name in a Host header, without port; empty where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _policy(allowed: str) -> str:
    return f"default-src 'none'; frame-ancestors 'none'; {allowed}"


def _with_headers(start_response: StartResponse, is_file: bool) -> StartResponse:
    """Return what answers with the headers that keep other sites out."""
    added = {**_HEADERS, **(_OF_FILES if is_file else {})}
    replaced = {name.lower() for name in added}

    def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        kept = [
            (name, value)
            for name, value in headers
            if name.lower() not in replaced and not name.lower().startswith(_OPEN_TO_OTHERS)
        ]
        return start_response(status, [*kept, *added.items()], *error)

    return start
