"""The pages /docs and /redoc, with their scripts served from here, so that they work without the internet."""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

ASSETS = Path(fastapi_offline.__file__).parent / "static"
"""swagger-ui and redoc as the package ships them; its own application class is not used."""

MOUNT = "/static-docs"

AT_HOME = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)
"""What the pages may load. redoc asks a server of its makers for a picture, which tells them who reads this."""


def add_docs(app: FastAPI) -> None:
    """Add /docs and /redoc to ``app``, which must have been made without its own."""
    app.mount(MOUNT, StaticFiles(directory=ASSETS), name="static-docs")

    @app.get("/docs", include_in_schema=False)
    async def get_docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return _kept_at_home(
            get_swagger_ui_html(
                openapi_url=f"{root}/openapi.json",
                title=f"{app.title} - API",
                swagger_js_url=f"{root}{MOUNT}/swagger-ui-bundle.js",
                swagger_css_url=f"{root}{MOUNT}/swagger-ui.css",
                swagger_favicon_url=f"{root}{MOUNT}/favicon.png",
                swagger_ui_parameters={"validatorUrl": None, "displayRequestDuration": True},
            )
        )

    @app.get("/redoc", include_in_schema=False)
    async def get_redoc(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return _kept_at_home(
            get_redoc_html(
                openapi_url=f"{root}/openapi.json",
                title=f"{app.title} - API",
                redoc_js_url=f"{root}{MOUNT}/redoc.standalone.js",
                redoc_favicon_url=f"{root}{MOUNT}/favicon.png",
                with_google_fonts=False,
            )
        )


def _kept_at_home(page: HTMLResponse) -> HTMLResponse:
    page.headers["content-security-policy"] = AT_HOME
    return page
