"""Open every page of the built documentation in a real browser: ``make docs-look``.

It takes pictures at the width of a phone and of a desk, in light and in dark. It fails on what readers would notice:
errors in the console, requests to a network, a picture that does not load, or a page that is wider than the screen.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCREENS = {"phone": {"width": 390, "height": 844}, "desk": {"width": 1280, "height": 900}}
SCHEMES = ("light", "dark")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
BROKEN = "() => [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src)"
TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def faults(page: Any, address: str) -> Iterator[str]:
    """Open ``address`` and yield everything that is wrong with it."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"not loaded: {request.url}"))
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else said.append(f"network: {r.url}"))
    page.goto(address)
    page.wait_for_load_state("load")
    said += [f"broken picture: {source}" for source in page.evaluate(BROKEN)]
    wider = page.evaluate(TOO_WIDE)
    if wider > 1:
        said.append(f"{wider} pixels wider than the screen")
    yield from said


def main() -> int:
    """Look at all pages; return 1 if any has a fault, and say where the pictures are."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--pages", type=Path, default=ROOT / "docs" / "_build" / "html", help="the built documentation")
    parser.add_argument("--pictures", type=Path, default=ROOT / "docs" / "_build" / "look", help="where pictures go")
    parser.add_argument("--only", default="", help="pages whose path contains this text")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("playwright is missing: .venv/bin/pip install -e '.[look]'")
    if browser is None:
        sys.exit("expected a browser, got none of " + ", ".join(BROWSERS) + ": apt-get install chromium")
    pages = [path for path in sorted(options.pages.rglob("*.html")) if options.only in str(path)]
    if not pages:
        sys.exit(f"expected pages in {options.pages}, got none: run make docs first")
    wrong = 0
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=QUIET)
        for screen, size in SCREENS.items():
            for scheme in SCHEMES:
                context = running.new_context(viewport=size, color_scheme=scheme)
                for path in pages:
                    page, name = context.new_page(), path.relative_to(options.pages).with_suffix("")
                    for fault in faults(page, path.as_uri()):
                        print(f"{name}, {screen}, {scheme}: {fault}")
                        wrong += 1
                    page.screenshot(path=options.pictures / f"{screen}-{scheme}" / f"{name}.png", full_page=False)
                    page.close()
                context.close()
        running.close()
    print(f"{len(pages)} pages, {len(SCREENS) * len(SCHEMES)} ways each: {wrong} faults. Pictures: {options.pictures}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
