"""The views of the page: each is a module with ``ROUTES``, and one file in `static`."""

from __future__ import annotations

from starlette.routing import Route

from mnist_cli.web import compare, digit_map, drawing, inside, live

ROUTES: tuple[Route, ...] = (
    *drawing.ROUTES,
    *inside.ROUTES,
    *digit_map.ROUTES,
    *live.ROUTES,
    *compare.ROUTES,
)
