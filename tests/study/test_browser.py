"""The page in a browser: asked, answered, left, taken up again and saved."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from captum_deduce.study import analyse_study, make_study, read_answers
from captum_deduce.study.design import ORIGINAL
from tests.study import made_up
from tests.study.test_page import HOSTILE


@pytest.fixture(scope="module")
def study():
    return made_up.study(num_pairs=6)


@pytest.fixture
def visit(browser, study, tmp_path):
    """Open a page as a visitor of its own; whatever it complains of fails the test."""
    contexts, complaints = [], []

    def opened(html=study.html, **settings):
        path = tmp_path / "study.html"
        path.write_text(html, encoding="utf-8")
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url))
        page.goto(path.as_uri())
        complaints[:] = [said for said in complaints if not said.startswith(("file:", "data:"))]
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not [said for said in complaints if not said.startswith(("data:", "blob:", "file:"))]


def start(page, participant):
    page.fill("#participant", participant)
    page.check("#agree")
    page.click("#start button")


def place(page):
    """The number of the question that is shown, and of all."""
    words = page.inner_text("#place").split()
    return int(words[1]), int(words[3])


def wait_for_pictures(page):
    page.wait_for_function(
        "[...document.querySelectorAll('#pictures img')].every((i) => i.complete && i.naturalWidth)"
    )
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 20)))")


def step(page, choose):
    """Answer one question, after reading what a part is about."""
    if page.is_visible("#part"):
        page.click("#go")
    wait_for_pictures(page)
    before = page.inner_text("#place")
    choose(page)
    page.wait_for_function(
        "(before) => document.getElementById('place').textContent !== before", arg=before
    )


def first_button(page):
    page.locator("#choices button").first.click()


def finish(page, choose=first_button):
    while not page.is_visible("#end"):
        step(page, choose)


def saved(page, button="#save"):
    with page.expect_download() as download:
        page.click(button)
    return download.value.suggested_filename, json.loads(download.value.path().read_text())


def test_answers_of_several_people_can_be_analysed(visit, study, tmp_path):
    page = visit()
    paths = []
    for number in ("1", "2", "3", "4", "5", "6"):
        start(page, number)
        finish(page)
        name, content = saved(page)
        assert name == f"answers-{number}.json"
        paths.append(made_up.write(tmp_path, content, name))
        page.click("#another")
    answers = read_answers(paths, study.key)
    asked = {str(number): set(made_up.asked(study.key, number)) for number in range(1, 7)}
    for number, names in asked.items():
        assert {answer.trial for answer in answers if answer.participant == number} == names
    # six people are as many as rounds of the longest task: everything was seen equally often
    seen = Counter(answer.trial for answer in answers)
    for task, times in (("name", 2), ("real", 1), ("prefer", 2)):
        assert {seen[name] for name in made_up.circle(study.key, task)} == {times}
    assert all(0 < answer.seconds < 60 for answer in answers)
    assert not any(answer.interrupted for answer in answers)
    found = analyse_study(answers, study.key, resamples=20)
    assert found.realness["judged_real"].tolist() == [1, 1, 1, 1]  # the first button
    assert found.preference["ties"].tolist() == [0, 0, 0]


def test_orders_and_sides_are_everybodys_own(visit, study):
    orders, first_shown = [], Counter()
    for number in ("1", "4", "anna"):
        page = visit()
        start(page, number)
        finish(page)
        _, content = saved(page)
        orders.append([entry["trial"] for entry in content["answers"]])
        for entry in content["answers"]:
            trial = study.key.trials[entry["trial"]]
            if trial.task == "prefer":
                assert sorted(entry["shown"]) == sorted(trial.pictures)
                first_shown[entry["shown"][0] == trial.pictures[0]] += 1
    # 1 and 4 get the same names, as there are three rounds of them
    assert set(orders[0][:6]) == set(orders[1][:6])
    assert orders[0][:6] != orders[1][:6]
    assert len(orders[2]) == 18
    assert min(first_shown[True], first_shown[False]) >= 3


def test_answers_survive_a_reload(visit, study):
    page = visit()
    start(page, "1")
    for _ in range(8):
        step(page, first_button)
    wait_for_pictures(page)
    question, shown = page.inner_text("#question"), page.get_attribute("#pictures img", "src")
    page.reload()
    assert place(page) == (9, 18)
    assert page.inner_text("#question") == question
    assert page.get_attribute("#pictures img", "src") == shown
    finish(page)
    page.reload()  # neither are finished ones lost
    assert page.is_visible("#end")
    _, content = saved(page)
    assert len(content["answers"]) == 18
    assert content["finished"]
    # what was in sight while the page was loaded again has no time of its own
    assert [entry["interrupted"] for entry in content["answers"]] == [
        number == 8 for number in range(18)
    ]


def test_another_person_does_not_end_what_one_began(visit):
    page = visit()
    start(page, "1")
    step(page, first_button)
    name, content = saved(page, "#pause")
    assert (name, len(content["answers"]), content["finished"]) == ("answers-1.json", 1, None)
    assert "1 of 18 answers saved as answers-1.json" in page.inner_text("#said")
    page.evaluate(
        "() => { const key = Object.keys(localStorage)[0], kept = JSON.parse(localStorage[key]);"
        " localStorage[key] = JSON.stringify({ ...kept, current: null }); }"
    )
    page.reload()
    assert "Answers are kept on this device of: 1." in page.inner_text("#kept")
    start(page, "__proto__")
    assert place(page) == (1, 18)
    finish(page)
    page.click("#another")
    start(page, "1")
    assert place(page) == (2, 18)


def test_consent_is_needed(visit):
    page = visit()
    page.click("#start button")
    assert page.inner_text("#wrong") == "Please enter your number or code."
    assert page.evaluate("document.activeElement.id") == "participant"
    page.keyboard.type("7")
    page.keyboard.press("Enter")
    assert "tick the box" in page.inner_text("#wrong")
    assert page.evaluate("document.activeElement.id") == "agree"
    assert page.get_attribute("#agree", "aria-invalid") == "true"
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    assert page.is_visible("#part")


def test_keys_alone_are_enough(visit, study):
    page = visit()
    for word in ("Tab", "7", "Tab", "Space", "Tab", "Enter"):
        page.keyboard.press(word)
    pressed = []

    def choose(page):
        task = study.key.trials[trial_shown(page)].task
        key = {"name": "?" if len(pressed) % 2 else "4", "real": "2", "prefer": "3"}[task]
        pressed.append(key)
        page.keyboard.press(key)

    def trial_shown(page):
        question = page.inner_text("#question")
        task = {"What": "name", "Is": "real", "A": "prefer"}[question.split()[0]]
        return made_up.circle(study.key, task)[0]

    while not page.is_visible("#end"):
        if page.is_visible("#part"):
            assert page.evaluate("document.activeElement.id") == "part-title"
            page.keyboard.press("Tab")
            page.keyboard.press("Tab")
            page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "question"
        step(page, choose)
    assert page.evaluate("document.activeElement.id") == "end-title"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "save"
    _, content = saved(page)
    expected = {"4": 4, "?": None, "2": False, "3": None}
    assert [entry["answer"] for entry in content["answers"]] == [expected[key] for key in pressed]


def test_the_key_of_a_class_is_its_own_name_where_that_is_one_character(browser, visit):
    for names, key, answer in (("hgfedcbaij", "a", 7), ("hgfedcbaij", "H", 0)):
        page = visit(make_study(made_up.methods(), class_names=list(names)).html)
        start(page, "1")
        step(page, lambda page, key=key: page.keyboard.press(key))
        assert saved(page, "#pause")[1]["answers"][0]["answer"] == answer
    long = [f"kind {number}" for number in range(10)]
    for key, answer in (("1", 0), ("0", 9)):
        page = visit(make_study(made_up.methods(), class_names=long).html)
        start(page, "1")
        step(page, lambda page, key=key: page.keyboard.press(key))
        assert saved(page, "#pause")[1]["answers"][0]["answer"] == answer


def test_keys_can_be_turned_off(visit):
    page = visit()
    start(page, "1")
    page.uncheck("#keys")
    page.click("#go")
    wait_for_pictures(page)
    page.keyboard.press("4")
    assert place(page) == (1, 18)
    assert not page.locator("kbd").first.is_visible()


def test_a_second_thought_replaces_the_first_and_has_no_time(visit):
    page = visit()
    start(page, "1")
    step(page, first_button)
    wait_for_pictures(page)
    page.click("#back")
    assert place(page) == (1, 18)
    assert not page.is_visible("#back")
    step(page, lambda page: page.locator("#choices button").nth(1).click())
    (given,) = saved(page, "#pause")[1]["answers"]
    assert (given["answer"], given["interrupted"]) == (1, True)


def test_hostile_names_stay_text(visit):
    study = make_study(
        made_up.methods(), title=HOSTILE, consent=HOSTILE, class_names=[HOSTILE] * 10
    )
    page = visit(study.html)
    assert page.inner_text("h1") == HOSTILE
    start(page, HOSTILE)
    page.click("#go")
    assert page.locator("#choices button span").first.inner_text() == HOSTILE
    assert page.locator('img[src="x"]').count() == 0
    step(page, first_button)
    page.click("#pause")
    assert "saved as answers-" in page.inner_text("#said")


def test_screen_readers_are_told_what_there_is(visit):
    page = visit()
    start(page, "1")
    page.click("#go")
    wait_for_pictures(page)
    assert page.get_attribute("#pictures img", "alt") == "The picture to judge"
    assert page.get_attribute("#choices", "aria-labelledby") == "question"
    button = page.get_by_role("button", name="5", exact=True)
    assert button.get_attribute("aria-keyshortcuts") == "5"
    assert page.get_by_role("progressbar", name="Question 1 of 18").count() == 1
    assert page.get_attribute("#said", "aria-live") == "polite"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_telephone(visit, scheme):
    page = visit(viewport={"width": 360, "height": 640}, color_scheme=scheme, has_touch=True)
    start(page, "1")
    sizes = []
    while not page.is_visible("#end"):
        if page.is_visible("#trial"):
            sizes += page.eval_on_selector_all(
                "#trial button", "(all) => all.map((one) => one.offsetHeight).filter(Boolean)"
            )
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360
        step(page, first_button)
    assert min(sizes) >= 44  # pixels, what a finger needs


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_told_from_its_background(visit, scheme):
    page = visit(color_scheme=scheme)
    colors = page.evaluate(
        "() => { const style = getComputedStyle(document.documentElement);"
        " return Object.fromEntries(['page', 'card', 'text', 'faint', 'edge', 'accent',"
        " 'on-accent', 'bad', 'warn'].map((name) => [name, style.getPropertyValue('--' + name)])) }"
    )

    def light(color):
        digits = color.strip().lstrip("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a, b):
        low, high = sorted((light(colors[a]), light(colors[b])))
        return (high + 0.05) / (low + 0.05)

    for front, ground in (
        ("text", "page"),
        ("text", "card"),
        ("faint", "page"),
        ("faint", "card"),
        ("on-accent", "accent"),
        ("bad", "page"),
        ("text", "warn"),
    ):
        assert contrast(front, ground) >= 4.5, (front, ground)  # WCAG 2, text
    for front in ("edge", "accent"):
        assert contrast(front, "page") >= 3, front  # WCAG 2, what can be used


def test_a_browser_that_keeps_nothing_says_so(visit, browser, study, tmp_path):
    path = tmp_path / "forgets.html"
    path.write_text(study.html, encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(
        "Object.defineProperty(window, 'localStorage', { get() { throw new Error('no'); } })"
    )
    page.goto(path.as_uri())
    assert page.is_visible("#forgets")
    start(page, "1")
    finish(page)
    assert len(saved(page)[1]["answers"]) == 18
    context.close()


def test_half_of_the_pictures_judged_are_originals(visit, study):
    page = visit()
    start(page, "3")
    finish(page)
    _, content = saved(page)
    trials = [study.key.trials[entry["trial"]] for entry in content["answers"]]
    judged = [trial for trial in trials if trial.task == "real"]
    assert sum(trial.methods[0] == ORIGINAL for trial in judged) == 3
    assert len({trial.pair for trial in judged}) == 6


@pytest.mark.parametrize("width", [360, 500, 640, 1000])
def test_the_versions_to_choose_from_stand_side_by_side_and_are_equally_large(visit, width):
    page = visit(viewport={"width": width, "height": 640})
    start(page, "1")
    while "explains better" not in page.inner_text("#question"):
        step(page, first_button)
    wait_for_pictures(page)
    versions = [
        page.get_by_alt_text(f"Changed version {name}").bounding_box() for name in ("A", "B")
    ]
    for measure in ("y", "width", "height"):
        assert versions[0][measure] == pytest.approx(versions[1][measure], abs=0.5)
    assert versions[0]["x"] + versions[0]["width"] <= versions[1]["x"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
