"""The page in a real browser: what a visitor does, and what comes of it."""

from __future__ import annotations

import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

from captum_deduce import Counterfactuals
from captum_deduce.explorer.work import THREAD
from tests.explorer.test_uploads import SVG, huge_png

ENDED = "#stage .said.good, #stage .said.weak"
UPLOAD = "input[data-testid$='upload-button']"
SECOND = 1000
PATIENCE = 30 * SECOND
"""Milliseconds after which a page that does nothing is broken; a busy machine is no failure."""


@pytest.fixture
def page(browser, explorer):
    """A visitor's page, and afterwards: no request that left the machine, no error in it."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    opened = context.new_page()
    opened.set_default_timeout(PATIENCE)
    asked, errors = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("websocket", lambda socket: asked.append(socket.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(explorer.url)
    opened.wait_for_selector("#stage img")
    yield opened
    context.close()
    elsewhere = [
        url
        for url in asked
        if urlsplit(url).scheme not in ("data", "blob")
        and urlsplit(url).netloc != urlsplit(explorer.url).netloc
    ]
    assert asked
    assert not elsewhere
    assert not errors


def said(page, selector: str = "#stage .said") -> str:
    return page.inner_text(selector)


def choose(page, widget: str, option: str) -> None:
    page.click(f"{widget} input")
    page.get_by_role("option", name=option, exact=True).click()


def explain(page, explainer: str = "DeDUCE") -> None:
    choose(page, "#explainer", explainer)
    page.click("#explain")
    page.wait_for_selector(ENDED)
    # the result's own lines come with the very end
    page.wait_for_selector("#walk:visible")


def shown(page, place: str) -> str:
    return page.get_attribute(f"#stage .{place} img", "src")


def test_an_image_is_chosen_explained_and_walked_through(page):
    first = shown(page, "now")
    page.click("#gallery button.thumbnail-item >> nth=2")
    page.wait_for_function("s => document.querySelector('#stage .now img').src != s", arg=first)
    original = shown(page, "now")
    explain(page)
    assert shown(page, "original") == original
    found = shown(page, "now")
    assert found != original
    assert page.locator("#stage .curve").count() == 2
    page.fill("#walk input[type=number]", "0")
    page.press("#walk input[type=number]", "Enter")
    page.wait_for_function("s => document.querySelector('#stage .now img').src == s", arg=original)
    assert "step 0" in page.inner_text("#stage .now")


def test_names_of_classes_are_text_wherever_they_stand(page):
    explain(page)
    assert "<b>&" in page.inner_text("#stage .now figcaption")
    assert "<b>&" in page.inner_text("#stage .curve >> nth=0")
    assert "<b>&" in page.input_value("#target input")


def test_explainers_are_compared_with_what_an_oracle_sees(page):
    page.click("#comparison > button")
    for name in ("slow", "broken"):
        page.uncheck(f"#comparison label:has-text('{name}') input")
    page.click("#compare")
    page.wait_for_selector("#compared tbody tr:nth-child(3)")
    page.wait_for_selector("#compared .said", state="detached")
    rows = page.locator("#compared tbody tr").all_inner_texts()
    assert [row.split("\t")[0].strip() for row in rows] == ["DeDUCE", "closest", "Wachter"]
    assert "<itself> sees" in page.inner_text("#compared thead")
    assert page.locator("#compared tbody img").count() == 6


def test_only_what_is_painted_changes(page, explorer, tmp_path):
    page.click("#paint > button")
    canvas = page.locator("#editor canvas").first
    canvas.wait_for()
    page.wait_for_timeout(2 * SECOND)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2 - 60, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 60, middle, steps=8)
    page.mouse.up()
    page.wait_for_timeout(SECOND)
    explain(page)
    files = kept(page, tmp_path)
    with Image.open(files["mask.png"]) as read:
        mask = torch.from_numpy(np.asarray(read) > 127)
    assert 0 < int(mask.sum()) < mask.numel() / 2
    result = Counterfactuals.load(files["counterfactuals.safetensors"])
    changed = (result.attributions != 0)[0, 0]
    assert changed.any()
    assert not (changed & ~mask).any()
    assert "mask=mask" in files["explain.py"].read_text()


def kept(page, folder) -> dict:
    page.click("#keep > button")
    page.click("#make-files")
    page.wait_for_selector("#keep a[download]")
    found = {}
    for link in page.locator("#keep a[download]").all():
        with page.expect_download() as download:
            link.click()
        path = folder / download.value.suggested_filename
        download.value.save_as(path)
        found[path.name] = path
    return found


def test_what_was_found_can_be_kept(page, tmp_path):
    explain(page)
    found = kept(page, tmp_path)
    assert set(found) == {
        "counterfactual.png",
        "counterfactual.gif",
        "counterfactuals.safetensors",
        "explain.py",
    }
    result = Counterfactuals.load(found["counterfactuals.safetensors"])
    assert f"L0 {int(result.l0())}" in said(page)
    page.click("#python > button")
    page.wait_for_selector("#python .cm-line")
    assert "generate(" in page.inner_text("#python")


def test_an_image_of_ones_own_is_explained(page, tmp_path):
    levels = np.zeros((90, 120), np.uint8)
    levels[20:70, 55:65] = 255
    Image.fromarray(levels).save(tmp_path / "one.jpg")
    page.set_input_files(UPLOAD, tmp_path / "one.jpg")
    page.wait_for_selector("text=uploaded, seen as")
    explain(page)
    page.click("#python > button")
    page.wait_for_selector("#python .cm-line")
    assert "Counterfactuals.load" in page.inner_text("#python")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is text", "no image that can be read"),
        (huge_png(), "million are read"),
        (huge_png(100), "damaged"),
        (SVG, "no image that can be read"),
    ],
    ids=["text", "bomb", "truncated", "svg"],
)
def test_bad_files_are_refused_and_the_page_lives_on(page, tmp_path, content, message):
    path = tmp_path / "file.png"
    path.write_bytes(content)
    before = shown(page, "now")
    page.set_input_files(UPLOAD, path)
    page.wait_for_selector("#stage .said.error")
    assert message in said(page)
    assert shown(page, "now") == before
    explain(page)


def test_an_error_of_the_model_is_a_message_and_the_page_lives_on(page, broken):
    broken.works = False
    try:
        choose(page, "#explainer", "broken")
        page.click("#explain")
        page.wait_for_selector("#stage .said.error")
        assert "the <model> is out of order" in said(page)
    finally:
        broken.works = True
    explain(page)


def quiet(explorer, seconds: float = 1.0) -> bool:
    """Whether nobody runs the slow classifier any more."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        before = explorer.slow.calls
        time.sleep(seconds)
        if explorer.slow.calls == before:
            return True
    return False


def start_slow(page) -> None:
    choose(page, "#explainer", "slow")
    page.click("#explain")
    page.wait_for_selector("#stage .said.busy:has-text('step 2')")


def test_a_search_is_stopped(page, explorer):
    start_slow(page)
    page.click("#stop")
    page.wait_for_selector("#stage .said:has-text('Stopped after')")
    assert quiet(explorer)
    explain(page)


def opened_by(browser, explorer):
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(explorer.url)
    page.wait_for_selector("#stage img")
    return page


WAITING = "#stage .said.busy:has-text('Waiting for 1 other search')"


def test_a_search_that_waits_for_its_turn_is_stopped(browser, one_at_a_time):
    ann, bob = (opened_by(browser, one_at_a_time) for _ in range(2))
    try:
        start_slow(ann)
        choose(bob, "#explainer", "quick")
        bob.click("#explain")
        bob.wait_for_selector(WAITING)
        bob.click("#stop")
        bob.wait_for_selector("#stage .said:has-text('Stopped before it began')")
        assert "Searching" in said(ann)
        ann.click("#stop")
        ann.wait_for_selector("#stage .said:has-text('Stopped after')")
        explain(bob, "quick")
    finally:
        for page in (ann, bob):
            page.context.close()


def test_a_search_that_waits_for_its_turn_ends_with_its_page(browser, one_at_a_time):
    ann, bob, cid = (opened_by(browser, one_at_a_time) for _ in range(3))
    try:
        start_slow(ann)
        choose(bob, "#explainer", "counted")
        bob.click("#explain")
        bob.wait_for_selector(WAITING)
        bob.context.close()
        choose(cid, "#explainer", "quick")
        cid.click("#explain")
        # one, and no longer two: nobody stands in line for a page that is gone
        cid.wait_for_selector(WAITING)
        ann.click("#stop")
        cid.wait_for_selector(ENDED)
        assert one_at_a_time.counted.calls == 0
    finally:
        for page in (ann, cid):
            page.context.close()


def test_images_are_sorted_by_costs_that_are_found_out(page):
    choose(page, "#explainer", "Wachter")
    choose(page, "#order", "cheapest")
    page.wait_for_selector("#known .said:has-text('with Wachter: known of 0 of')")
    number = page.locator("#gallery button.thumbnail-item").count()
    page.click("#measure")
    page.wait_for_selector(f"#known .said:has-text('known of all {number}')")
    captions = page.locator("#gallery .caption-label").all_inner_texts()
    costs = [float(caption.rsplit(": ")[1]) for caption in captions if "none" not in caption]
    assert len(captions) == number
    assert costs == sorted(costs)
    assert len(costs) > 1
    assert page.is_hidden("#measure")
    choose(page, "#explainer", "closest")
    page.wait_for_selector(f"#known .said:has-text('with closest: known of 0 of {number}')")
    choose(page, "#order", "given")
    page.wait_for_selector("#known", state="hidden")


def test_a_search_ends_when_its_page_is_closed(browser, explorer):
    context = browser.new_context()
    left = context.new_page()
    left.goto(explorer.url)
    left.wait_for_selector("#stage img")
    start_slow(left)
    calls = explorer.slow.calls
    context.close()
    assert calls > 0
    assert quiet(explorer)


def test_the_main_picture_is_large_and_its_pixels_are_squares(page):
    explain(page)
    box = page.locator("#stage .now img").bounding_box()
    assert box["width"] >= 256
    rendering = "e => getComputedStyle(e).imageRendering"
    assert page.eval_on_selector("#stage .now img", rendering) == "pixelated"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 768, 1400])
def test_nothing_is_cut_off_at_any_width(browser, explorer, scheme, width):
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, has_touch=width < 500
    )
    opened = context.new_page()
    opened.goto(explorer.url)
    opened.wait_for_selector("#stage img")
    explain(opened)
    wide = opened.evaluate("document.documentElement.scrollWidth")
    dark = opened.evaluate("document.body.classList.contains('dark')")
    context.close()
    assert wide <= width
    assert dark == (scheme == "dark")


def searching() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def many_visitors(browser, explorer, seconds: float) -> tuple[list[str], int]:
    """Ten pages of ten visitors, each of which explains again and again."""
    problems: list[str] = []
    contexts = [browser.new_context() for _ in range(10)]
    pages = [context.new_page() for context in contexts]
    for number, opened in enumerate(pages):
        opened.set_default_timeout(PATIENCE)
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.goto(explorer.url)
        opened.wait_for_selector("#stage img")
        opened.click(f"#gallery button.thumbnail-item >> nth={number % 4}")
    done, deadline = 0, time.monotonic() + seconds
    while time.monotonic() < deadline:
        for opened in pages:
            opened.click("#explain")
        for opened in pages:
            opened.wait_for_selector(ENDED)
            problems += opened.locator(".said.error, .toast-body.error").all_inner_texts()
            done += 1
    for context in contexts:
        context.close()
    return problems, done


def test_ten_visitors_at_once(browser, explorer):
    problems, done = many_visitors(browser, explorer, 1)
    assert not problems
    assert done >= 10


@pytest.mark.slow
def test_ten_visitors_for_two_minutes(browser, explorer):
    problems, done = many_visitors(browser, explorer, 120)
    assert not problems
    assert done >= 50
    deadline = time.monotonic() + 10
    while searching() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not searching()
