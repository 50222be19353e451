"""The search page in a browser: every way in which people give it a picture, and how they find their way back."""

import re
from base64 import b64encode
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from PIL import Image
from playwright.sync_api import Browser, FilePayload, Page, expect

from tenants.models import Company
from tests.browser.conftest import SignIn
from tests.conftest import Colour, paint, picture
from tests.support.admin import rebuild
from tests.support.browsing import Watch, hold, scrolls_sideways
from tests.support.fakes import BLUE, GREEN, RED
from tests.support.waiting import eventually

MakeCompany = Callable[..., Company]
PICTURES = {"Warm/red.png": RED, "Warm/wine.png": (200, 0, 0), "blue.png": BLUE, "green.png": GREEN}


@pytest.fixture(autouse=True)
def acme(transactional_db: None, make_company: MakeCompany, settings: Any, tmp_path: Path) -> Company:
    settings.CACHE_DIR = tmp_path / "cache"
    company = make_company("acme", PICTURES)
    Company.objects.filter(pk=company.pk).update(public_page=True)
    return company


def upload(colour: Colour, name: str = "photo.png") -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": picture(colour).getvalue()}


def halves(left: Colour, right: Colour, side: int = 400) -> FilePayload:
    """Return an upload whose left half has one colour, and the right half another."""
    canvas = Image.new("RGB", (side, side), left)
    canvas.paste(right, (side // 2, 0, side, side))
    file = BytesIO()
    canvas.save(file, "PNG")
    return {"name": "halves.png", "mimeType": "image/png", "buffer": file.getvalue()}


def choose(page: Page, file: FilePayload) -> None:
    page.get_by_label("Choose pictures").set_input_files(file)


def expect_found(page: Page, *names: str) -> None:
    """Expect that the results begin with the pictures of these names."""
    results = page.locator("[data-results] .name")
    for place, name in enumerate(names):
        expect(results.nth(place)).to_have_text(name)


def transfer(page: Page, *files: FilePayload) -> Any:
    """Return the browser's DataTransfer with the files, as a drop and a paste bring it."""
    return page.evaluate_handle(
        """(files) => {
            const transfer = new DataTransfer();
            for (const [content, name, type] of files) {
                const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
                transfer.items.add(new File([bytes], name, { type }));
            }
            return transfer;
        }""",
        [[b64encode(file["buffer"]).decode(), file["name"], file["mimeType"]] for file in files],
    )


def paste(page: Page, data: Any) -> None:
    data.evaluate(
        """(clipboardData) => document.activeElement.dispatchEvent(
            new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true }))"""
    )


def test_chosen_picture_is_searched_with(page: Page):
    page.goto("/search/acme/")
    choose(page, upload(RED))
    expect_found(page, "red", "wine")
    expect(page.get_by_role("status")).to_have_text("4 pictures found.")
    expect(page.get_by_role("img", name="The picture that is searched with: photo.png")).to_be_visible()
    shown = page.locator("[data-results] img").first
    expect(shown).to_have_js_property("complete", True)
    assert shown.evaluate("(image) => image.naturalWidth") > 0


def test_picture_that_is_chosen_before_the_script_is_there_is_searched_with(page: Page):
    held = hold(page, "**/search_page.js")
    page.goto("/search/acme/", wait_until="commit")
    choose(page, upload(RED))
    held[0].continue_()
    expect_found(page, "red", "wine")


def test_dropped_picture_is_searched_with(page: Page):
    page.goto("/search/acme/")
    data = transfer(page, upload(BLUE))
    page.locator("body").dispatch_event("dragover", {"dataTransfer": data})
    page.locator("body").dispatch_event("drop", {"dataTransfer": data})
    expect_found(page, "blue")


def test_pasted_picture_is_searched_with(page: Page):
    page.goto("/search/acme/")
    paste(page, transfer(page, upload(GREEN, "image.png")))
    expect_found(page, "green")


@pytest.mark.slow
def test_text_that_is_dropped_is_no_picture(page: Page):
    page.goto("/search/acme/")
    data = page.evaluate_handle("new DataTransfer()")
    page.locator("body").dispatch_event("drop", {"dataTransfer": data})
    expect(page.get_by_role("status")).to_contain_text("That is no picture file.")


@pytest.mark.slow
def test_what_is_no_picture_leaves_the_results_as_they_are(page: Page):
    page.goto("/search/acme/")
    choose(page, upload(RED))
    expect_found(page, "red")
    paste(page, page.evaluate_handle("new DataTransfer()"))
    expect(page.locator("[data-refused]")).to_have_text(re.compile("What was pasted is no picture."))
    choose(page, {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"milk"})
    expect(page.locator("[data-refused]")).to_have_text(re.compile("notes.txt can't be read as a picture."))
    expect_found(page, "red")
    page.get_by_label("Min. score").focus()
    paste(page, page.evaluate_handle("new DataTransfer()"))  # text into a field
    expect(page.locator("[data-refused]")).to_contain_text("notes.txt")
    page.get_by_label("Folder").select_option("Warm")
    expect(page.locator("[data-results] .name")).to_have_count(2)
    expect(page.locator("[data-refused]")).to_be_empty()


@pytest.mark.slow
def test_pictures_that_are_dropped_together_are_searched_with_together(page: Page):
    page.goto("/search/acme/")
    data = transfer(page, upload(RED, "fire.png"), upload(GREEN, "leaf.png"), upload(BLUE, "sea.png"))
    page.locator("body").dispatch_event("drop", {"dataTransfer": data})
    expect(page.locator(".asked li")).to_have_count(3)
    expect(page.locator("[data-results] .name")).to_have_count(4)
    page.get_by_role("button", name="Search without fire.png").click()
    expect_found(page, "blue", "green")
    expect(page.get_by_role("heading", level=2)).to_be_focused()
    page.get_by_role("button", name="Search without sea.png").click()
    expect_found(page, "green")
    expect(page.get_by_role("img", name="The picture that is searched with: leaf.png")).to_be_visible()
    page.go_back()
    page.reload()
    expect(page.locator(".asked li")).to_have_count(2)
    expect_found(page, "blue", "green")
    page.evaluate("sessionStorage.clear()")
    page.reload()
    expect(page.get_by_role("status")).to_have_text("Not all of the pictures are still at hand. Choose them again.")


@pytest.mark.slow
def test_more_files_than_can_be_searched_with_are_counted(page: Page):
    page.goto("/search/acme/")
    broken: FilePayload = {"name": "notes.png", "mimeType": "image/png", "buffer": b"milk"}
    data = transfer(page, broken, *[upload(BLUE, f"sea-{number}.png") for number in range(6)])
    page.locator("body").dispatch_event("drop", {"dataTransfer": data})
    expect_found(page, "blue")
    expect(page.locator(".asked li")).to_have_count(4)
    expect(page.locator("[data-refused]")).to_contain_text("notes.png can't be read as a picture.")
    expect(page.locator("[data-refused]")).to_contain_text("Only the first 5 of the 7 files were taken.")


def test_ticked_results_are_searched_with(page: Page):
    page.goto("/search/acme/")
    choose(page, upload((128, 128, 0)))
    tick(page, "wine", "green")
    expect(page.get_by_role("status")).to_contain_text("2 pictures ticked.")
    page.get_by_role("button", name="More like these").click()
    expect(page).to_have_url(re.compile(r"\?like=[0-9a-f-]{36}&like=[0-9a-f-]{36}$"))
    expect_found(page, "red", "blue")
    expect(page.get_by_role("heading", level=2, name="2 pictures")).to_be_focused()
    tick(page, "blue")
    page.get_by_role("button", name="Less like these").click()
    expect(page.locator("[data-results] .name")).to_have_text(["red"])
    address = page.url
    assert "&unlike=" in address
    page.go_back()
    expect_found(page, "red", "blue")
    page.goto(address)  # as a colleague does
    expect(page.get_by_role("list").filter(has=page.get_by_role("img", name="blue"))).to_have_class("asked is-less")
    page.get_by_role("link", name="Search without wine").press("Enter")
    expect_found(page, "wine", "red")
    page.get_by_role("link", name="Search without blue").press("Enter")
    expect(page.get_by_role("img", name="The picture that is searched with: green")).to_be_visible()


@pytest.mark.slow
def test_results_are_ticked_by_keyboard(page: Page):
    page.goto("/search/acme/")
    choose(page, upload(RED))
    box = page.get_by_role("checkbox", name="Tick blue")
    box.press(" ")
    expect(page.get_by_role("button", name="More like these")).to_be_visible()
    page.get_by_role("button", name="Untick all").press("Enter")
    expect(page.get_by_role("button", name="More like these")).to_be_hidden()
    box.press(" ")
    box.press("Enter")
    expect(page.locator("[data-query]")).to_contain_text("blue")


def tick(page: Page, *names: str) -> None:
    for name in names:
        page.get_by_role("checkbox", name=f"Tick {name}").check()


@pytest.mark.slow
def test_picture_that_is_slow_to_open_does_not_replace_a_later_one(page: Page):
    page.add_init_script(
        """const open = window.createImageBitmap;
        window.createImageBitmap = async (file, options) => {
            if (file.name === "slow.png") await new Promise((resolve) => { window.goOn = resolve; });
            return open(file, options);
        };"""
    )
    page.goto("/search/acme/")
    choose(page, upload(RED, "slow.png"))
    choose(page, upload(BLUE, "quick.png"))
    expect_found(page, "blue")
    page.evaluate("window.goOn()")
    page.get_by_label("Folder").select_option("Warm")
    expect(page.locator("[data-query]")).to_contain_text("quick.png")


@pytest.mark.slow
def test_large_picture_is_made_smaller_before_it_is_sent(page: Page):
    note_what_is_sent(page)
    page.goto("/search/acme/")
    choose(page, halves(RED, RED, side=3000))
    expect_found(page, "red")
    assert page.evaluate("window.sent") == ["halves.jpg", 1600, 1600]


@pytest.mark.slow
def test_large_drawing_on_transparency_stays_transparent(page: Page):
    logo, file = Image.new("RGBA", (3000, 3000), (255, 255, 255, 0)), BytesIO()
    logo.paste("white", (0, 0, 1500, 3000))
    logo.save(file, "PNG")
    note_what_is_sent(page)
    page.goto("/search/acme/")
    choose(page, {"name": "logo.png", "mimeType": "image/png", "buffer": file.getvalue()})
    expect(page.locator("[data-results] .name").first).to_be_visible()
    assert page.evaluate("window.sent") == ["logo.png", 1600, 1600]


def note_what_is_sent(page: Page) -> None:
    """Let window.sent be the name, the width and the height of the picture that was sent last."""
    page.add_init_script(
        """const send = window.fetch;
        window.fetch = async (address, options) => {
            const file = options.body.get("image");
            const { width, height } = await createImageBitmap(file);
            window.sent = [file.name, width, height];
            return send(address, options);
        };"""
    )


@pytest.mark.slow
def test_name_is_made_to_agree_with_what_the_file_holds(page: Page):
    page.goto("/search/acme/")
    choose(page, upload(RED, "photo.jpg"))  # a PNG, which the server would refuse under this name
    expect_found(page, "red")


def test_picture_of_the_results_is_searched_with_by_a_click(page: Page):
    page.goto("/search/acme/")
    page.get_by_role("link", name="Search with blue").click()
    expect(page).to_have_url(re.compile(r"\?like=[0-9a-f-]{36}$"))
    expect_found(page, "wine")
    expect(page.locator("[data-query]")).to_contain_text("blue")
    expect(page.get_by_role("heading", level=2)).to_be_focused()
    page.reload()
    expect_found(page, "wine")
    expect(page.locator("[data-query]")).to_contain_text("blue")


def test_back_and_forward_show_what_was_searched_with(page: Page):
    page.goto("/search/acme/")
    choose(page, upload(BLUE))
    expect_found(page, "blue")
    page.get_by_role("link", name="Search with wine").click()
    expect_found(page, "red")
    page.get_by_label("Folder").select_option("Warm")
    expect(page.locator("[data-results] .name")).to_have_count(1)
    page.go_back()
    expect(page.locator("[data-results] .name")).to_have_count(3)
    expect(page.get_by_label("Folder")).to_have_value("")
    page.go_back()
    expect_found(page, "blue")
    expect(page.locator("[data-query]")).to_contain_text("photo.png")
    page.reload()  # the picture is in the session, not in the address
    expect_found(page, "blue")
    expect(page.get_by_role("img", name="The picture that is searched with: photo.png")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", level=2)).to_contain_text("Start with a picture")
    page.go_forward()
    expect_found(page, "blue")


@pytest.mark.slow
def test_address_holds_the_whole_search(page: Page, served: str):
    page.goto("/search/acme/")
    page.get_by_role("link", name="Search with wine").click()
    expect_found(page, "red")
    page.get_by_label("Folder").select_option("Warm")
    page.get_by_label("Min. score").fill("0.9")
    page.get_by_label("Min. score").press("Enter")
    page.get_by_label("Leave out duplicates").check()
    page.get_by_role("combobox", name="Results").select_option("50")
    expect(page).to_have_url(re.compile(r"\?like=[^&]+&folder=Warm&min_score=0.9&collapse=duplicates&top=50$"))
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    expect(page.locator("[data-results] .name")).to_have_text(["red"])
    expect(page.get_by_label("Folder")).to_have_value("Warm")
    expect(page.get_by_label("Min. score")).to_have_value("0.9")
    expect(page.get_by_label("Leave out duplicates")).to_be_checked()
    expect(page.get_by_role("combobox", name="Results")).to_have_value("50")


def test_box_drawn_by_mouse_searches_with_that_part(page: Page):
    page.goto("/search/acme/")
    choose(page, halves(BLUE, RED))
    expect_found(page, "wine")
    stage = page.locator("[data-stage]").bounding_box()
    assert stage
    left, top, side = stage["x"], stage["y"], stage["width"]
    page.mouse.move(left + 0.6 * side, top + 0.2 * side)
    page.mouse.down()
    page.mouse.move(left + 0.9 * side, top + 0.8 * side, steps=3)
    page.mouse.up()
    expect_found(page, "red")
    page.mouse.move(left + 0.75 * side, top + 0.5 * side)  # in the box: it moves
    page.mouse.down()
    page.mouse.move(left + 0.25 * side, top + 0.5 * side, steps=3)
    page.mouse.up()
    expect_found(page, "blue")
    label = page.get_by_role("application").get_attribute("aria-label")
    assert label == "Crop box: 30 percent wide, 60 percent high, 10 percent from the left, 20 percent from the top"
    page.go_back()
    expect_found(page, "red")
    page.get_by_role("button", name="Remove crop").click()
    expect(page.get_by_role("application")).to_be_hidden()


def test_box_is_moved_sized_and_removed_by_keyboard(page: Page):
    page.goto("/search/acme/")
    choose(page, halves(RED, BLUE))
    expect_found(page, "wine")
    page.get_by_role("button", name="Crop").press("Enter")
    box = page.get_by_role("application")
    expect(box).to_be_focused()
    for _ in range(15):
        box.press("Shift+ArrowLeft")
    for _ in range(20):
        box.press("ArrowRight")
    box.press("ArrowUp")
    box.press("Enter")
    wanted = "Crop box: 30 percent wide, 60 percent high, 60 percent from the left, 18 percent from the top"
    expect(box).to_have_attribute("aria-label", wanted)
    expect_found(page, "blue")
    box.press("Escape")
    expect(box).to_be_hidden()
    expect_found(page, "wine")


@pytest.mark.slow
def test_part_of_a_picture_of_the_company_stands_in_the_address(page: Page, acme: Company):
    Image.open(BytesIO(halves(RED, BLUE)["buffer"])).save(acme.image_directory / "halves.png")
    rebuild(acme)
    page.goto("/search/acme/")
    page.get_by_role("link", name="Search with halves").click()
    page.get_by_role("button", name="Crop").press("Enter")
    box = page.get_by_role("application")
    for _ in range(15):
        box.press("Shift+ArrowLeft")
    for _ in range(20):
        box.press("ArrowRight")
    box.press("Enter")
    expect_found(page, "blue")
    expect(page).to_have_url(re.compile(r"\?like=[0-9a-f-]{36}&crop=0\.6,0\.2,0\.3,0\.6$"))
    address = page.url
    page.go_back()
    page.go_back()
    expect(box).to_be_hidden()
    page.goto(address)  # as a colleague does
    expect_found(page, "blue")
    expect(box).to_have_attribute("aria-label", re.compile("30 percent wide, .* 60 percent from the left"))


@pytest.mark.slow
def test_part_of_a_picture_over_the_limit_is_searched_with(page: Page, settings: Any):
    settings.MAX_UPLOAD_BYTES = 300_000
    file = BytesIO()
    Image.open(BytesIO(halves(BLUE, RED, side=900)["buffer"])).save(file, "BMP")  # 2.4 MB
    page.goto("/search/acme/")
    choose(page, {"name": "halves.bmp", "mimeType": "image/bmp", "buffer": file.getvalue()})
    page.get_by_role("button", name="Crop").press("Enter")
    box = page.get_by_role("application")
    for _ in range(15):
        box.press("Shift+ArrowLeft")
    for _ in range(20):
        box.press("ArrowRight")
    box.press("Enter")
    expect_found(page, "red")


@pytest.mark.slow
def test_small_part_is_sent_with_its_pixels(page: Page):
    note_what_is_sent(page)
    page.goto("/search/acme/")
    choose(page, halves(BLUE, RED, side=2000))
    page.get_by_role("button", name="Crop").press("Enter")
    expect_found(page, "wine")
    assert page.evaluate("window.sent") == ["halves.jpg", 1600, 1600]
    box = page.get_by_role("application")
    for _ in range(25):
        box.press("Shift+ArrowLeft")
    box.press("Enter")
    expect(box).to_have_attribute("aria-label", re.compile("10 percent wide"))
    eventually(lambda: page.evaluate("window.sent")[1] == 2000, "the picture is sent as large as it is")


@pytest.mark.slow
def test_page_is_used_by_keyboard_alone(page: Page):
    page.goto("/search/acme/")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Choose pictures")).to_be_focused()
    page.get_by_role("link", name="Search with green").focus()
    page.keyboard.press("Enter")
    expect(page.locator("[data-query]")).to_contain_text("green")
    page.get_by_text("This search as curl").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".command pre")).to_be_visible()


@pytest.mark.slow
def test_path_and_command_are_copied(page: Page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/search/acme/")
    choose(page, upload(RED))
    expect_found(page, "red")
    page.get_by_role("button", name="Copy path of red").click()
    expect(page.get_by_role("status")).to_have_text("Copied.")
    assert page.evaluate("navigator.clipboard.readText()") == "Warm/red.png"
    page.get_by_text("This search as curl").click()
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.locator(".command").get_by_role("button")).to_have_text("Copied")
    assert 'image=@"photo.png"' in page.evaluate("navigator.clipboard.readText()")


@pytest.mark.slow
def test_file_that_is_gone_is_said_to_be(chromium: Browser, served: str, acme: Company):
    (acme.image_directory / "blue.png").unlink()
    context = chromium.new_context(base_url=served)  # the page logs the 404, as browsers do
    page = context.new_page()
    page.goto("/search/acme/")
    expect(page.locator(".thumb.is-missing")).to_have_count(1)
    context.close()


@pytest.mark.parametrize("scheme", ["dark", pytest.param("light", marks=pytest.mark.slow)])
def test_page_fits_a_telephone(chromium: Browser, served: str, scheme: Any, acme: Company):
    name = "A-name-without-a-place-to-break-it-" * 5
    paint(acme.image_directory / f"{name}.png", RED)
    rebuild(acme)
    context = chromium.new_context(
        base_url=served, viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True, color_scheme=scheme
    )
    page = context.new_page()
    watch = Watch(page, served)
    page.goto("/search/acme/")
    assert not scrolls_sideways(page)
    expect(page.get_by_text("Take a photograph")).to_be_visible()
    assert page.locator("#photograph").get_attribute("capture") == "environment"
    choose(page, halves(RED, RED))
    expect_found(page, name)
    page.get_by_role("button", name="Crop").tap()
    page.get_by_text("This search as curl").tap()
    assert not scrolls_sideways(page)
    assert is_dark(page) == (scheme == "dark")
    assert not watch.complaints
    context.close()


def is_dark(page: Page) -> bool:
    return page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).every((level) => Number(level) < 60)"
    )


@pytest.mark.slow
def test_page_works_without_script(chromium: Browser, served: str):
    context = chromium.new_context(base_url=served, java_script_enabled=False)
    page = context.new_page()
    page.goto("/search/acme/")
    page.locator("#image").set_input_files(upload(BLUE))
    page.get_by_role("button", name="Search").click()
    expect_found(page, "blue")
    page.get_by_role("link", name="Search with red").click()
    expect_found(page, "wine")
    page.get_by_label("Folder").select_option("Warm")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("[data-results] .name")).to_have_text(["wine"])
    tick(page, "wine")
    page.get_by_role("button", name="Less like these").click()
    expect(page.locator("[data-query]")).to_contain_text("Less like")
    page.get_by_role("link", name="Search without wine").click()
    expect(page.locator("[data-results] .name")).to_have_text(["wine"])
    context.close()


@pytest.mark.slow
def test_search_that_did_not_reach_the_server_is_tried_again(chromium: Browser, served: str):
    context = chromium.new_context(base_url=served)  # the page logs the failure, as browsers do
    page = context.new_page()
    page.goto("/search/acme/")
    page.route("**/search/acme/", lambda route: route.abort())
    choose(page, upload(RED))
    expect(page.get_by_role("status")).to_contain_text("The server can't be reached.")
    page.get_by_role("button", name="Try again").press("Enter")
    expect(page.get_by_role("button", name="Try again")).to_be_focused()
    page.unroute("**/search/acme/")
    page.get_by_role("button", name="Try again").press("Enter")
    expect_found(page, "red")
    expect(page.get_by_role("heading", level=2)).to_be_focused()
    context.close()


@pytest.mark.slow
def test_who_is_signed_out_meanwhile_is_told(page: Page, sign_in: SignIn):
    Company.objects.update(public_page=False)
    sign_in(User.objects.create_superuser("ann"))
    page.goto("/search/acme/")
    page.context.clear_cookies(name="sessionid")
    choose(page, upload(RED))
    expect(page.get_by_role("status")).to_have_text("You are no longer signed in. Reload this page.")
    page.get_by_role("button", name="Reload the page").click()
    expect(page.get_by_label("Username")).to_be_visible()


@pytest.mark.slow
def test_company_that_is_switched_off_meanwhile_is_said_to_be_gone(chromium: Browser, served: str, acme: Company):
    context = chromium.new_context(base_url=served)  # the page logs the 404, as browsers do
    page = context.new_page()
    page.goto("/search/acme/")
    page.route("**/search/acme/", lambda route: route.fulfill(status=404, content_type="text/html", body="gone"))
    choose(page, upload(RED))
    expect(page.get_by_role("status")).to_contain_text("This page is gone")
    context.close()


@pytest.mark.slow
def test_company_without_pictures_is_said_to_have_none_once(chromium: Browser, served: str):
    Company.objects.create(name="empty", public_page=True)
    context = chromium.new_context(base_url=served)  # the page logs the 503, as browsers do
    page = context.new_page()
    page.goto("/search/empty/")
    choose(page, upload(RED))
    expect(page.get_by_role("status")).to_contain_text("no pictures to search yet")
    expect(page.locator(".notice").filter(visible=True)).to_have_count(1)
    context.close()
