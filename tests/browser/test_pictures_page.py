"""A company's pictures in the admin, in a real browser."""

from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tenants.models import Company
from tests.browser.conftest import SignIn
from tests.conftest import paint, picture
from tests.support.admin import stored_below, url
from tests.support.browsing import hold, scrolls_sideways
from tests.support.fakes import BLUE, GREEN, RED

# Drops files with their folders, as a person does with a mouse: name -> bytes in base64.
_DROP = """async (files) => {
    const transfer = new DataTransfer();
    for (const [name, content] of Object.entries(files)) {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name));
    }
    const target = document.querySelector("[data-drop]");
    for (const name of ["dragenter", "dragover", "drop"]) {
        target.dispatchEvent(new DragEvent(name, { dataTransfer: transfer, bubbles: true, cancelable: true }));
    }
}"""


_NOTE_PROGRESS = """() => {
    window.seen = [];
    new MutationObserver(() => window.seen.push(document.querySelector("progress").value))
        .observe(document.querySelector("[data-told]"), { childList: true });
}"""


@pytest.fixture
def shop(make_company: Callable[..., Company], sign_in: SignIn) -> Company:
    sign_in(User.objects.create_superuser("ann"))
    return make_company("shop", {"Hats/a.png": RED, "Hats/b.png": GREEN, 'Odd "<b>/x?#%.png': RED, "Shoes/c.png": BLUE})


def open_pictures(page: Page, company: Company, query: str = "") -> None:
    page.goto(url("pictures", company) + query)


def encoded(colour: tuple[int, int, int]) -> str:
    return b64encode(picture(colour).getvalue()).decode()


def test_pictures_are_seen_by_folder_and_by_name(page: Page, shop: Company) -> None:
    open_pictures(page, shop)
    pictures = page.locator(".tile img")
    expect(pictures).to_have_count(4)
    for image in page.locator(".tile img").all():
        expect(image).not_to_have_js_property("naturalWidth", 0)
    page.get_by_role("navigation", name="Folders").get_by_role("link", name="Hats").click()
    expect(pictures).to_have_count(2)
    page.get_by_role("searchbox").fill("B.PNG")
    page.get_by_role("searchbox").press("Enter")
    expect(page.locator(".tile")).to_have_text(["b.png"])
    page.go_back()
    expect(pictures).to_have_count(2)
    page.get_by_role("navigation", name="Folders").get_by_role("link", name='Odd "<b>').click()
    page.get_by_role("link", name="x?#%.png").click()
    expect(page.get_by_text("8 \u00d7 8")).to_be_visible()


def test_several_are_deleted_with_a_confirmation_by_keyboard(page: Page, shop: Company) -> None:
    open_pictures(page, shop, "?folder=Hats")
    remove = page.get_by_role("button", name="Delete selected")
    expect(remove).to_be_disabled()
    page.get_by_label("Select all on this page").focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("status").filter(has_text="2 selected")).to_be_visible()
    remove.press("Enter")
    expect(page.get_by_role("heading", name="Delete 2 pictures?")).to_be_visible()
    page.get_by_role("button", name="Yes, delete 2 pictures").press("Enter")
    expect(page.get_by_text("Deleted 2 pictures")).to_be_visible()
    assert stored_below(shop.image_directory) == {'Odd "<b>/x?#%.png', "Shoes/c.png"}


@pytest.mark.slow
def test_a_picture_is_replaced_after_a_look_at_the_new_one(page: Page, shop: Company, tmp_path: Path) -> None:
    open_pictures(page, shop, "?folder=Shoes")
    page.get_by_role("link", name="c.png").click()
    page.get_by_label("New picture").set_input_files(paint(tmp_path / "new.png", GREEN))
    expect(page.locator("[data-preview] canvas")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Replace").click()
    expect(page.get_by_text("Shoes/c.png was replaced")).to_be_visible()
    assert (shop.image_directory / "Shoes/c.png").read_bytes() == (tmp_path / "new.png").read_bytes()


def test_dropped_files_are_uploaded_with_a_bar_and_shown(page: Page, shop: Company) -> None:
    open_pictures(page, shop, "?folder=Hats")
    files = {"new.png": encoded(BLUE), "a.png": encoded(BLUE), "notes.txt": "eA=="}
    page.evaluate(_DROP, files)
    expect(page.get_by_text("2 files", exact=False).first).to_be_visible()
    expect(page.get_by_text("1 file of other types left out: notes.txt")).to_be_visible()
    page.evaluate(_NOTE_PROGRESS)
    page.get_by_role("button", name="Upload 2 files").click()
    expect(page.get_by_text("1 picture stored, 1 refused.").last).to_be_visible()
    expect(page.get_by_text("already exists")).to_be_visible()
    expect(page.locator(".upload-outcome td canvas")).to_be_visible()
    expect(page.locator(".upload-outcome .tile img").first).not_to_have_js_property("naturalWidth", 0)
    assert page.evaluate("window.seen")[-1] == 1
    assert (shop.image_directory / "Hats/new.png").read_bytes() == picture(BLUE).getvalue()
    assert shop.builds.active().exists()


@pytest.mark.slow
def test_files_that_are_chosen_before_the_script_is_there_are_uploaded(page: Page, shop: Company) -> None:
    held = hold(page, "**/uploads.js")
    page.goto(url("change", shop), wait_until="commit")
    page.get_by_label("Pictures, or a zip of pictures").set_input_files(
        {"name": "new.png", "mimeType": "image/png", "buffer": picture(BLUE).getvalue()}
    )
    held[0].continue_()
    page.get_by_role("button", name="Upload 1 file").click()
    expect(page.get_by_text("1 picture stored, 0 refused.").last).to_be_visible()


@pytest.mark.slow
def test_a_folder_is_uploaded_with_its_paths_in_as_many_requests_as_it_needs(
    page: Page, shop: Company, tmp_path: Path
) -> None:
    for number in range(51):
        paint(tmp_path / f"Coats/Wool/{number:02}.png", (number, 0, 0))
    (tmp_path / "Coats/.DS_Store").touch()
    open_pictures(page, shop)
    page.get_by_text("Upload pictures").click()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    page.get_by_label("A folder of pictures").set_input_files(tmp_path / "Coats")
    page.get_by_role("button", name="Upload 51 files").click()
    expect(page.get_by_text("51 pictures stored, 0 refused.").last).to_be_visible()
    assert len(asked) == 2
    page.wait_for_load_state("networkidle")  # thumbnails
    assert {f"Coats/Wool/{number:02}.png" for number in range(51)} <= stored_below(shop.image_directory)


@pytest.mark.slow
def test_an_upload_that_breaks_off_goes_on_where_it_was(context: BrowserContext, shop: Company) -> None:
    page = context.new_page()  # which logs the broken connection
    open_pictures(page, shop)
    page.get_by_text("Upload pictures").click()
    page.evaluate(_DROP, {"new.png": encoded(BLUE)})
    page.route("**/upload/", lambda route: route.abort())
    page.get_by_role("button", name="Upload 1 file").click()
    expect(page.get_by_text("The connection broke. 1 file not uploaded").last).to_be_visible()
    page.unroute("**/upload/")
    page.get_by_role("button", name="Upload 1 file").click()
    expect(page.get_by_text("1 picture stored, 0 refused.").last).to_be_visible()
    assert "new.png" in stored_below(shop.image_directory)
    page.wait_for_load_state("networkidle")


@pytest.mark.slow
def test_an_upload_is_stopped_and_goes_on_by_keyboard(page: Page, shop: Company) -> None:
    open_pictures(page, shop)
    page.evaluate(_DROP, {"new.png": encoded(RED)})
    page.route("**/upload/", lambda _: None, times=1)  # never answers
    page.get_by_role("button", name="Upload 1 file").press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("[data-outcome]")).to_contain_text("You stopped the upload. 1 file not uploaded")
    expect(page.get_by_role("button", name="Upload 1 file")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("[data-outcome]")).to_contain_text("1 picture stored")


@pytest.mark.slow
def test_without_scripts_the_plain_form_uploads(
    chromium: Browser, context: BrowserContext, shop: Company, served: str, tmp_path: Path
) -> None:
    bare = chromium.new_context(java_script_enabled=False, base_url=served)
    bare.add_cookies(context.cookies())
    page = bare.new_page()
    open_pictures(page, shop)
    page.get_by_text("Upload pictures").click()
    page.get_by_label("Pictures, or a zip of pictures").set_input_files(paint(tmp_path / "new.png", GREEN))
    page.get_by_role("button", name="Upload").click()
    expect(page.get_by_text("1 stored")).to_be_visible()
    assert "new.png" in stored_below(shop.image_directory)
    bare.close()


@pytest.mark.slow
def test_a_picture_whose_file_is_gone_has_a_placeholder(context: BrowserContext, shop: Company) -> None:
    (shop.image_directory / "Hats/a.png").unlink()
    page = context.new_page()  # which logs that there is none
    open_pictures(page, shop, "?folder=Hats")
    expect(page.locator(".frame.is-gone")).to_have_count(1)
    page.get_by_role("link", name="a.png").click()
    expect(page.get_by_text("The file is gone.")).to_be_visible()
    expect(page.locator(".frame.is-gone")).to_have_count(1)


@pytest.mark.slow
def test_a_picture_that_failed_before_the_script_came_has_a_placeholder(context: BrowserContext, shop: Company) -> None:
    (shop.image_directory / "Hats/a.png").unlink()
    page = context.new_page()  # which logs that there is none
    held = hold(page, "**/pictures.js*")
    with (
        page.expect_request("**/pictures.js*"),
        page.expect_event("requestfinished", lambda each: "thumbnail" in each.url),
    ):
        page.goto(url("pictures", shop) + "?folder=Hats", wait_until="commit")
    page.wait_for_function("[...document.querySelectorAll('[data-thumbnail]')].every((image) => image.complete)")
    held[0].continue_()
    expect(page.locator(".frame.is-gone")).to_have_count(1)


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_the_pages_fit_a_narrow_window(page: Page, shop: Company, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 400, "height": 800})
    open_pictures(page, shop)
    expect(page.get_by_role("link", name="Hats")).to_be_hidden()
    page.get_by_text("Folders", exact=True).click()
    expect(page.get_by_role("link", name="Hats")).to_be_visible()
    page.get_by_text("Upload pictures").click()
    assert not scrolls_sideways(page)
    page.get_by_role("link", name="c.png").click()
    delete = page.get_by_role("button", name="Delete")
    expect(delete).to_be_visible()
    assert not scrolls_sideways(page)
    delete.click()
    expect(page.get_by_role("button", name="Yes, delete it")).to_be_visible()
    assert not scrolls_sideways(page)


@pytest.mark.slow
def test_an_upload_on_the_companys_page_shows_its_build_without_a_reload(page: Page, shop: Company) -> None:
    page.goto(url("change", shop))
    page.evaluate(_DROP, {"new.png": encoded(BLUE)})
    page.get_by_role("button", name="Upload 1 file").click()
    expect(page.locator("[data-fragment=overview] .badge")).to_have_text("queued")
    page.wait_for_load_state("networkidle")
