"""Chromium without a window, for the tests marked `browser`."""

import json
from pathlib import Path
from typing import Any


class Chromium:
    """A browser, that shows files."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def show(self, path: Path, width: int) -> None:
        """Shows a page in a window of so many pixels across."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(path.as_uri())

    def scheme(self, value: str) -> None:
        """What the person's system asks for: `light` or `dark`."""
        features = [{"name": "prefers-color-scheme", "value": value}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def js(self, expression: str) -> Any:
        """The value of an expression; elements are found with `$` (one) and `$$` (all)."""
        helpers = (
            "const $ = (css) => document.querySelector(css);"
            "const $$ = (css) => [...document.querySelectorAll(css)];"
        )
        return self.driver.execute_script(f"{helpers} return {expression}")

    def faults(self) -> list[str]:
        """What the console says since it was last read."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """What was asked for since this was last read, but the browser's own."""
        entries = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [e["params"] for e in entries if e["method"] == "Network.requestWillBeSent"]
        urls = [params["request"]["url"] for params in sent]
        return [url for url in urls if not url.startswith(("data:", "chrome:", "devtools:"))]
