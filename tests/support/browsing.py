"""What a browser says of a page that it shows."""

from playwright.sync_api import ConsoleMessage, Page, Request, Route


class Watch:
    """Notes the errors that a page logs and what it asks of other servers than its own."""

    def __init__(self, page: Page, server: str) -> None:
        self._server = server
        self.complaints: list[str] = []
        page.on("console", self._heed)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._check)

    def _heed(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(f"{message.text} ({message.location})")

    def _check(self, request: Request) -> None:
        if not request.url.startswith((self._server + "/", "data:")):
            self.complaints.append(f"asked for {request.url}")


def scrolls_sideways(page: Page) -> bool:
    """Tell whether the page is wider than the window."""
    wider: bool = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return wider


def hold(page: Page, address: str) -> list[Route]:
    """Hold back what the page asks for at an address; return what is held, as it comes: held[0].continue_()."""
    held: list[Route] = []
    page.route(address, lambda route: held.append(route))
    return held
