"""The user of an invoke, passed along with the calls that the invoke makes."""

import os
import sys
from _contextvars import ContextVar
from _thread import allocate_lock


STATEMENT = "x-hoistway-end-user"
END_USER = ContextVar("hoistway_end_user", default="")  # the statement about the current invoke


def place(url):
    """Returns host and port of a URL; None for one without a host."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None, None


class EndUsers:
    """Sends the statement about an invoke (its user, its request id and its trace) along with the calls of that invoke,
    for every supported HTTP library. It is installed with the first statement."""

    def __init__(self):
        self._lock, self._installed = allocate_lock(), False
        self._hooks = {"http.client": self._http_client, "httpx": self._httpx, "httpx2": self._httpx,
                       "aiohttp": self._aiohttp, "concurrent.futures.thread": self._threads}

    def install(self, closed_network):
        """`closed_network` is the supervisor's setting: in a closed network, egress receives every call."""
        with self._lock:
            if self._installed:
                return
            # In a closed network every call goes to egress, which removes the statement before forwarding. In an open
            # one only egress and the agent's tools may receive it.
            names = [name for name in os.environ if name.startswith("TOOL_URL_")]
            places = {place(os.environ.get(name, "")) for name in (*names, "LLM_GATEWAY_URL", "OPENAI_BASE_URL")}
            self._places = None if closed_network else places - {(None, None)}
            sys.meta_path.insert(0, self)
            for name, hook in self._hooks.items():
                if name in sys.modules:
                    hook(sys.modules[name])
            self._installed = True

    def find_spec(self, name, path=None, target=None):
        """Patches a module that is imported later, once it has been executed."""
        hook = self._hooks.get(name)
        if hook is None:
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                hook(module)

            spec.loader.exec_module = exec_module
        return spec

    def _statement_for(self, host, port):
        """Returns the statement for a call to a host, or None."""
        return END_USER.get() if self._places is None or (host, port) in self._places else None

    def _http_client(self, module):  # urllib, requests, urllib3, boto3
        put = module.HTTPConnection.putrequest

        def putrequest(connection, method, url, *args, **options):
            put(connection, method, url, *args, **options)
            if connection._tunnel_host:
                to = connection._tunnel_host, connection._tunnel_port
            else:
                to = place(url) if url.startswith("http://") else (connection.host, connection.port)
            if statement := self._statement_for(*to):
                connection.putheader(STATEMENT, statement)

        module.HTTPConnection.putrequest = putrequest

    def _httpx(self, module):  # and its successor httpx2; the SDKs of models too
        def with_statement(handle):
            def handled(transport, request):
                request.headers.pop(STATEMENT, None)  # a resent or redirected request has it already
                url = request.url
                if statement := self._statement_for(url.host, url.port or place(str(url))[1]):
                    request.headers[STATEMENT] = statement
                return handle(transport, request)

            return handled

        for kind, method in ((module.HTTPTransport, "handle_request"), (module.AsyncHTTPTransport, "handle_async_request")):
            setattr(kind, method, with_statement(getattr(kind, method)))

    def _aiohttp(self, module):
        send = module.ClientRequest.send

        def sent(request, *args, **options):
            if statement := self._statement_for(request.url.host, request.url.port):
                request.headers[STATEMENT] = statement
            return send(request, *args, **options)

        module.ClientRequest.send = sent

    def _threads(self, module):  # a pool's threads serve many invokes: a task belongs to its submitter's
        submit = module.ThreadPoolExecutor.submit

        def submitted(pool, function, /, *args, **options):
            statement = END_USER.get()

            def within(*args, **options):
                token = END_USER.set(statement)
                try:
                    return function(*args, **options)
                finally:
                    END_USER.reset(token)

            return submit(pool, within, *args, **options)

        module.ThreadPoolExecutor.submit = submitted


END_USERS = EndUsers()


def belongs_to(statement, closed_network):
    """Assigns the whole process, with all its threads, to one invoke."""
    global END_USER
    END_USER = ContextVar("hoistway_end_user", default=statement)
    END_USERS.install(closed_network)
