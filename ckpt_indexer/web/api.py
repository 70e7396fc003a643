"""The routes: ``create_router`` for a FastAPI application of one's own, or ours.

Entries are sent as the index has them, encoded; what has to be worked out (an order, a filter, all experiments) is
worked out in a thread, once for each generation. Where nothing changed, ``If-None-Match`` is answered before anything
else is looked at. Every failure is ``{"detail": "one sentence"}``. No route opens a file but the sidecar that the index
names for a checkpoint, and that through no link and not outside the root.
"""
# No `from __future__ import annotations`: FastAPI reads the signatures.

import asyncio
import contextlib
import datetime as dt
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Annotated, Any, Literal, cast

import msgspec
from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from isal import isal_zlib
from pydantic import StringConstraints
from starlette.convertors import StringConvertor, register_url_convertor

from ckpt_indexer import daemon_state, paths
from ckpt_indexer.errors import CkptIndexerError, QueryInvalid, RootUnusable, StoreError, TooBusy
from ckpt_indexer.index import codec, compare, summary
from ckpt_indexer.index import query as queries
from ckpt_indexer.index.columns import Table
from ckpt_indexer.index.follow import FollowedIndex
from ckpt_indexer.index.freshness import Refresher
from ckpt_indexer.web import older, pages, schema, spreadsheet
from ckpt_indexer.web.sidecars import Sidecars
from ckpt_indexer.web.stream import PiecewiseResponse, begin_cursor, iter_batches, iter_changes
from ckpt_indexer.web.traffic import Traffic

PAGE_SIZE_MAX = 1000  # entries: a megabyte
BATCH_SIZE_MAX = 5000
OLDER_BATCH_SIZE = 500  # records, which are encoded between two answers to others: 3 ms
PAGE_MAX = 10**9
FILTERS_MAX = 16
FIELD_MAX = 500  # characters of a field's name, a filter, a search
STREAMS_MAX = 64  # open at a time, unless the caller says otherwise
COMPRESSED_MIN = 1000  # bytes: less fits in one packet anyway

_SortBy = Annotated[
    str, Query(min_length=1, max_length=FIELD_MAX, description="A field of an entry, or a metric's name.")
]
_SortOrder = Annotated[Literal["asc", "desc"], Query(description="What is not known comes last in both.")]
_Search = Annotated[
    str,
    Query(max_length=FIELD_MAX, description="Text in path, status, architecture, encoder or monitor; any case."),
]
_Filters = Annotated[
    list[Annotated[str, StringConstraints(max_length=FIELD_MAX, pattern=queries.FILTER_PATTERN)]],
    Query(alias="filter", max_length=FILTERS_MAX, description="`FIELD OP VALUE`, as for `ckpt-indexer list`; AND."),
]


def create_router(root: str | os.PathLike[str], *, streams_max: int = STREAMS_MAX, older: bool = False) -> APIRouter:
    """Make the routes for the index of *root*, to be included in an application under any prefix.

    *older* adds ``/checkpoints`` and ``/checkpoints/stream`` for front ends of an older catalogue (module ``older``),
    and reads the index when the application starts. Who may ask is the application's business: nothing here looks at
    hosts or tokens.
    """
    return Api(os.fspath(root), streams_max=streams_max, older=older).router


class _KeyConvertor(StringConvertor):
    """A key in a path: anything. Starlette's own ``path`` stops at a line break, which names may have."""

    regex = r"[\s\S]*"


register_url_convertor("checkpoint_key", _KeyConvertor())


class _Route(APIRoute):
    """A route whose answers are counted, and whose failures are sentences."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()
        api: Api = cast("Any", self.endpoint).__self__

        async def guarded(request: Request) -> Response:
            return await api.answer(self.name, request, answer)

        return guarded


class Api:
    """The routes over one root's index."""

    def __init__(self, root: str, *, streams_max: int = STREAMS_MAX, older: bool = False) -> None:
        self.index = FollowedIndex(root)
        self.traffic = Traffic(streams_max)
        self._sidecars = Sidecars(root)
        self._folder = paths.to_text(os.path.abspath(root))
        self._name = self._folder.rpartition("/")[2]
        self._has_older = older
        self._running: Refresher | None = None
        self.router = APIRouter(route_class=_Route, lifespan=self._lifespan, tags=["checkpoints"])
        self._add_routes()

    @property
    def refresher(self) -> Refresher:
        """The refresher of the event loop that runs; made when first needed: not every application has a lifespan."""
        if self._running is None:
            self._running = Refresher(self.index)
        return self._running

    def preload(self) -> None:
        """Read the index and make the first answer's order, before anybody asks."""
        self.index.refresh()
        self._prepare()

    def _prepare(self) -> None:
        table = self.index.table
        table.select(_query("modified_time", "desc", [], ""))
        if self._has_older:
            older.encode_list(table, table.select(older.QUERY), self._name, 1)

    def stop(self) -> None:
        """End all streams: the server is about to."""
        if self._running is not None:
            self._running.stop()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        try:
            if self._has_older:
                # By the refresher, whose patience has an end: a disk that hangs must not keep the application from
                # starting.
                await self.refresher.fresh()
                await self.refresher.work(self._prepare)
            yield
        finally:
            if self._running is not None:
                self._running.close()
                self._running = None
            await asyncio.to_thread(self._sidecars.close)

    def _add_routes(self) -> None:
        add = self._add
        add("/api/checkpoints", self.list_checkpoints, schema.CheckpointPage, "A page of checkpoints.", {304: None})
        add("/api/checkpoints.csv", self.list_as_csv, "text/csv", "Checkpoints as CSV.", {304: None})
        add("/api/checkpoints/stream", self.stream_checkpoints, "text/event-stream", "All checkpoints, in batches.")
        add("/api/changes", self.stream_changes, "text/event-stream", "What changes, as it does.")
        add("/api/experiments", self.list_experiments, schema.Experiments, "The experiments.", {304: None})
        add("/api/compare", self.compare_checkpoints, schema.Comparison, "Checkpoints side by side.", {404: None})
        add(
            "/api/checkpoints/{key:checkpoint_key}",
            self.get_checkpoint,
            schema.Checkpoint,
            "One checkpoint.",
            {404: None},
        )
        add("/health/checkpoints", self.get_health, schema.CatalogHealth, "How the catalog is.",
            {503: schema.CatalogHealth})  # fmt: skip
        add("/healthz", self.get_alive, schema.Alive, "Whether the server answers.")
        add("/metrics", self.get_metrics, "text/plain", "Figures for Prometheus.")
        if self._has_older:
            records = list[schema.OlderRecord]
            add("/checkpoints", self.list_older, records, "All usable checkpoints, as records of an older catalogue.",
                {304: None})  # fmt: skip
            add("/checkpoints/stream", self.stream_older, "text/event-stream", "The same, in batches.")

    def _add(
        self, path: str, endpoint: Callable[..., Awaitable[Response]], answer: Any, text: str,
        others: dict[int, Any] | None = None,
    ) -> None:  # fmt: skip
        described: dict[int | str, dict[str, Any]] = {}
        if isinstance(answer, str):
            shape = schema.EVENT if answer == "text/event-stream" else {"type": "string"}
            described[200] = {"content": {answer: {"schema": shape}}}
        else:
            described[200] = {"model": answer}
        for status, description in _STATUSES.items():
            described[status] = {"model": schema.Detail, "description": description}
        for status, model in (others or {}).items():
            described[status] = {"description": _OTHERS[status]}
            if status != 304:
                described[status]["model"] = model or schema.Detail
        self.router.add_api_route(
            path, endpoint, methods=["GET"], response_class=Response, response_model=None, responses=described,
            summary=text, name=endpoint.__name__,
        )  # fmt: skip

    # --- around every route ---

    async def answer(
        self, route: str, request: Request, answer: Callable[[Request], Coroutine[Any, Any, Response]]
    ) -> Response:
        """Answer a request: from what the client has, or by its route; failures become sentences."""
        started = time.perf_counter()
        response = await self._answer(route, request, answer)
        self.traffic.count(route, response.status_code, time.perf_counter() - started)
        return response

    async def _answer(
        self, route: str, request: Request, answer: Callable[[Request], Coroutine[Any, Any, Response]]
    ) -> Response:
        try:
            if route in _CACHED and "if-none-match" in request.headers:
                table = await self.refresher.fresh()
                tag = _tag(table, route, request)
                if self.index.error is None and _is_known(request.headers["if-none-match"], tag):
                    return Response(status_code=304, headers={"etag": tag, **_REVALIDATE})
            return await answer(request)
        except RequestValidationError as error:
            return _fail(400, _sentence(error))
        except QueryInvalid as error:
            return _fail(400, str(error))
        except (StoreError, RootUnusable) as error:
            return _fail(503, str(error))
        except TooBusy as error:
            return _fail(503, str(error), {"retry-after": "1"})

    async def _table(self) -> Table:
        """Return the index as it is now.

        Raises:
            StoreError, RootUnusable: there is none that can be read.

        """
        table = await self.refresher.fresh()
        if self.index.error is not None:
            raise self.index.error
        return table

    # --- checkpoints ---

    async def list_checkpoints(
        self,
        request: Request,
        page: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 1,
        page_size: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = 100,
        sort_by: _SortBy = "modified_time",
        sort_order: _SortOrder = "desc",
        search: _Search = "",
        filters: _Filters = [],  # noqa: B006 - FastAPI copies it
        token: Annotated[
            str | None,
            Query(
                alias="next", max_length=pages.TOKEN_MAX, pattern=pages.TOKEN_PATTERN,
                description="From the page before, instead of `page`: stable while checkpoints come and go.",
            ),
        ] = None,
    ) -> Response:  # fmt: skip
        """List checkpoints, a page at a time. `ETag` and `If-None-Match` save what did not change."""
        query = _query(sort_by, sort_order, filters, search)
        table = await self._table()
        rows = await self.refresher.select(table, query)
        window = pages.window_of(table, query, rows, page=page, page_size=page_size, token=token)
        return _json(request, pages.encode_page(table, query, rows, window), _tag(table, "list_checkpoints", request))

    async def list_as_csv(
        self,
        request: Request,
        sort_by: _SortBy = "modified_time",
        sort_order: _SortOrder = "desc",
        search: _Search = "",
        filters: _Filters = [],  # noqa: B006
    ) -> Response:
        """Return all checkpoints that the query finds as CSV. Texts that a spreadsheet would run begin with `'`."""
        query = _query(sort_by, sort_order, filters, search)
        table = await self._table()
        headers = {
            "etag": _tag(table, "list_as_csv", request), **_REVALIDATE,
            "content-disposition": 'attachment; filename="checkpoints.csv"',
        }  # fmt: skip
        pieces = _iter_csv(self.refresher, query)
        if _takes_gzip(request):
            headers["content-encoding"] = "gzip"
            pieces = _compressed(pieces)
        return self._stream("list_as_csv", pieces, media_type="text/csv; charset=utf-8", headers=headers)

    async def stream_checkpoints(
        self,
        limit: Annotated[int | None, Query(ge=1, le=PAGE_MAX)] = None,
        batch_size: Annotated[int, Query(ge=1, le=BATCH_SIZE_MAX)] = 500,
        sort_by: _SortBy = "modified_time",
        sort_order: _SortOrder = "desc",
        search: _Search = "",
        filters: _Filters = [],  # noqa: B006
    ) -> Response:
        """Send all checkpoints as server-sent events: `batch` after `batch`, then `complete`."""
        query = _query(sort_by, sort_order, filters, search)
        pieces = iter_batches(self.refresher, query, limit=limit, batch_size=batch_size)
        return self._stream("stream_checkpoints", pieces)

    async def stream_changes(
        self,
        since: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="The last generation seen.")] = None,
        last_event_id: Annotated[str | None, Header(pattern="^[0-9]{0,19}$")] = None,
    ) -> Response:
        """Send what changes as server-sent events: `ready`, `change` or `resync`; their ids are generations."""
        if last_event_id:
            since = int(last_event_id)
        await self._table()
        return self._stream("stream_changes", iter_changes(self.refresher, since))

    async def get_checkpoint(
        self, key: Annotated[str, Path(description="The checkpoint's key: its path relative to the root.")]
    ) -> Response:
        """Return an entry, and the document of its sidecar."""
        table = await self._table()
        raw = table.get(key)
        if raw is None:
            return _fail(404, "there is no such checkpoint in the index")
        entry = codec.decode_entry(raw)
        document = await self.refresher.read(lambda: self._sidecars.read(entry.metadata_file))
        rest = {"full_path": f"{self._folder}/{key}", "metadata": document}
        return Response(bytes(raw)[:-1] + b"," + msgspec.json.encode(rest)[1:], headers=_JSON)

    async def list_experiments(self, request: Request) -> Response:
        """List the experiments, by name."""
        table = await self._table()
        body = table.kept("experiments")
        if body is None:
            body = await self.refresher.work(lambda: table.keep("experiments", summary.experiments))
        return _json(request, body, _tag(table, "list_experiments", request))

    async def compare_checkpoints(
        self,
        keys: Annotated[
            list[str], Query(alias="key", min_length=compare.COMPARED_MIN, max_length=compare.COMPARED_MAX)
        ],
        differences: Annotated[bool, Query(description="Only rows that differ.")] = False,  # noqa: FBT002
    ) -> Response:
        """Compare checkpoints side by side: what they are, metrics, model, hyper-parameters."""
        table = await self._table()
        raws = [table.get(key) for key in keys]
        if None in raws:
            return _fail(404, "not all of these checkpoints are in the index")
        entries = [codec.decode_entry(raw) for raw in raws if raw is not None]

        def read() -> bytes:
            documents = [self._sidecars.read(entry.metadata_file) for entry in entries]
            rows = compare.compare(entries, documents, only_differences=differences)
            return msgspec.json.encode({"keys": keys, "rows": rows, "generation": table.generation})

        return Response(await self.refresher.read(read), headers=_JSON)

    # --- for front ends of an older catalogue ---

    async def list_older(
        self, request: Request, limit: Annotated[int | None, Query(ge=1, le=older.LIMIT_MAX)] = None
    ) -> Response:
        """List usable checkpoints, newest first, as records of an older catalogue."""
        table = await self._table()
        rows = await self.refresher.select(table, older.QUERY)
        body = await self.refresher.work(lambda: older.encode_list(table, rows, self._name, limit))
        return _json(request, body, _tag(table, "list_older", request))

    async def stream_older(self, limit: Annotated[int | None, Query(ge=1, le=older.LIMIT_MAX)] = None) -> Response:
        """Send the same records as server-sent events: `batch` after `batch`, then `complete`."""
        pieces = iter_batches(
            self.refresher, older.QUERY, limit=limit, batch_size=OLDER_BATCH_SIZE,
            encode=lambda raw: older.encode_record(raw, self._name),
        )  # fmt: skip
        return self._stream("stream_older", pieces)

    # --- health ---

    async def get_health(self) -> Response:
        """Report how the catalog is: `unhealthy` (503) without an index, `degraded` if it may be behind the disk."""
        table, error = await self.refresher.fresh(), self.index.error

        daemon = await self.refresher.read(lambda: daemon_state.describe(self.index.root))

        def work() -> bytes:
            counts = table.keep("counts", summary.count)
            is_behind = daemon.state not in ("ok", "polling")
            return msgspec.json.encode({
                "catalog_status": "unhealthy" if error else "degraded" if is_behind else "healthy",
                "checkpoint_count": counts.checkpoints,
                "metadata_coverage": counts.coverage,
                "last_build_time": table.last_updated or None,
                "timestamp": dt.datetime.now(dt.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "generation": table.generation,
                "statuses": counts.statuses,
                "daemon": {"state": daemon.state, "alive": daemon.is_alive, "reasons": daemon.reasons},
                "recent_errors": table.keep("errors", summary.recent_errors),
                "detail": None if error is None else str(error),
            })  # fmt: skip

        body = await self.refresher.work(work)
        return Response(body, status_code=503 if error else 200, headers={**_JSON, "cache-control": "no-store"})

    async def get_alive(self) -> Response:
        """Report that the server answers, whatever the index is like."""
        return Response(b'{"status":"ok"}', headers={**_JSON, "cache-control": "no-store"})

    async def get_metrics(self) -> Response:
        """Return the figures for Prometheus."""
        from ckpt_indexer.web.metrics import CONTENT_TYPE, encode_metrics

        table = await self.refresher.fresh()
        daemon = await self.refresher.read(lambda: daemon_state.describe(self.index.root))
        body = await self.refresher.work(
            lambda: encode_metrics(self.index, table.keep("counts", summary.count), daemon, self.traffic)
        )
        return Response(body, headers={"content-type": CONTENT_TYPE, "cache-control": "no-store"})

    def _stream(
        self, route: str, pieces: AsyncIterator[bytes], *, media_type: str = "text/event-stream",
        headers: dict[str, str] | None = None,
    ) -> Response:  # fmt: skip
        if not self.traffic.begin_stream(route):
            return _fail(503, "too many streams are open: try again later", {"retry-after": "5"})
        return PiecewiseResponse(pieces, lambda: self.traffic.end_stream(route), media_type=media_type, headers=headers)


_CACHED = frozenset({"list_checkpoints", "list_as_csv", "list_experiments", "list_older"})
_JSON = {"content-type": "application/json", "cache-control": "no-store"}
_REVALIDATE = {"cache-control": "private, no-cache", "vary": "Accept-Encoding, Authorization"}
_STATUSES: dict[int | str, str] = {
    400: "A parameter is wrong.",
    "4XX": "The request is refused: 401, 404, 405, 414, 421.",
    503: "There is no index that can be read, or too much to do.",
}
_OTHERS = {304: "Nothing changed.", 404: "There is no such checkpoint.", 503: "There is no index that can be read."}


def _query(sort_by: str, sort_order: str, filters: list[str], search: str) -> queries.Query:
    """Build a query from the parameters of a request.

    Raises:
        QueryInvalid: a filter or the field to sort by is none.

    """
    order = queries.order_by(sort_by, is_descending=sort_order == "desc")
    return queries.Query(order, tuple(map(queries.parse_filter, filters)), search.strip())


def _tag(table: Table, route: str, request: Request) -> str:
    """Return the tag of an answer: the same for the same query of the same file."""
    asked = f"{table.identity} {route} ".encode() + request.scope["query_string"]
    return f'W/"g{table.generation}-{hashlib.blake2b(asked, digest_size=8).hexdigest()}"'


def _is_known(header: str, tag: str) -> bool:
    """Return whether the client has the answer (RFC 9110, 13.1.2: weak comparison)."""
    return header == tag or tag[2:] in (part.strip().removeprefix("W/") for part in header.split(","))


def _json(request: Request, body: bytes, tag: str) -> Response:
    headers = {"content-type": "application/json", "etag": tag, **_REVALIDATE}
    if len(body) >= COMPRESSED_MIN and _takes_gzip(request):
        headers["content-encoding"] = "gzip"
        body = isal_zlib.compress(body, 1, wbits=31)
    return Response(body, headers=headers)


def _takes_gzip(request: Request) -> bool:
    for part in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, quality = part.partition(";")
        if name.strip() == "gzip":
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


async def _iter_csv(refresher: Refresher, query: queries.Query) -> AsyncIterator[bytes]:
    metrics = await refresher.work(lambda: refresher.index.table.keep("metric columns", spreadsheet.metric_columns))
    cursor = await begin_cursor(refresher, query)
    yield spreadsheet.encode_head(metrics)
    while cursor.has_more:
        yield await refresher.work(lambda: spreadsheet.encode_rows(cursor.fetch(spreadsheet.PIECE_ROWS), metrics))


async def _compressed(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    compressor = isal_zlib.compressobj(1, wbits=31)
    async for piece in pieces:
        if made := compressor.compress(piece):
            yield made
    yield compressor.flush()


def _fail(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode({"detail": detail}), status, headers={**_JSON, **(headers or {})})


def _sentence(error: RequestValidationError | CkptIndexerError) -> str:
    """Return what is wrong with the first wrong parameter."""
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {}
    where = [str(part) for part in first.get("loc", ())[1:]]
    return f"{'.'.join(where) or 'request'}: {first.get('msg', error)}"
