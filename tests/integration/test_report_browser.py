"""The page of many runs in a real browser: it is sorted, filtered and looked at, on a desk and on a phone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_runs import result, write_run, write_study

from genaug.reports.page import write_page

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        BROWSER is None or DRIVER is None, reason="needs chromium and chromedriver: apt install chromium-driver"
    ),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, that notes whatever it fetches."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    home = tmp_path_factory.mktemp("looked_at")
    write_study(home / "runs")
    write_page([home / "runs"], home / "report.html")
    return (home / "report.html").as_uri()


def show(browser: Any, address: str, width: int, scheme: str = "light") -> None:
    """Open the page at a width, in light or dark."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme_of = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme_of]})
    browser.get(address)


def column(browser: Any, table: int, number: int) -> list[str]:
    return browser.execute_script(
        "return [...document.querySelectorAll('table')[arguments[0]].tBodies[0].rows]"
        ".map(row => row.cells[arguments[1]].textContent.trim().replace(/\\s+/g, ' '))",
        table,
        number,
    )


def find(browser: Any, selector: str) -> list[Any]:
    return browser.find_elements("css selector", selector)


def test_it_sorts_by_click_and_by_key(browser, address):
    from selenium.webdriver.common.keys import Keys

    show(browser, address, 1280)
    assert column(browser, 0, 0) == ["other", "plain", "more method.scale=1", "more method.scale=2"]
    method, _, score, *_ = find(browser, "table:first-of-type thead th")[:7]
    score.find_element("css selector", "button").click()
    assert [text[:4] for text in column(browser, 0, 2)] == ["85.0", "85.0", "35.0", "35.0"]
    assert (score.get_attribute("aria-sort"), method.get_attribute("aria-sort")) == ("descending", "none")
    score.find_element("css selector", "button").send_keys(Keys.ENTER)
    assert [text[:4] for text in column(browser, 0, 2)] == ["35.0", "35.0", "85.0", "85.0"]
    assert score.get_attribute("aria-sort") == "ascending"
    method.find_element("css selector", "button").send_keys(Keys.SPACE)
    assert column(browser, 0, 0) == ["more method.scale=1", "more method.scale=2", "other", "plain"]
    assert (score.get_attribute("aria-sort"), method.get_attribute("aria-sort")) == ("none", "ascending")


def test_it_filters_rows_pictures_and_marks(browser, address):
    show(browser, address, 1280)

    def seen() -> tuple[int, int, int]:
        return (
            len([row for row in find(browser, "main table:first-of-type tbody tr[data-label]") if row.is_displayed()]),
            len([one for one in find(browser, ".gallery figure") if one.is_displayed()]),
            len([one for one in find(browser, ".chart .series") if one.is_displayed()]),
        )

    every = seen()
    box, said = find(browser, "#filter")[0], find(browser, ".filter output")[0]
    box.send_keys("MORE =2")
    some = seen()
    assert said.text == "1 of 4"
    assert all(0 < few < many for few, many in zip(some, every, strict=True))
    assert some[1:] == (2, 6)  # sheet and maps; the line in the chart of scales, and a mark for each of five measures
    box.send_keys("x")
    assert seen() == (0, 0, 0)
    box.clear()
    box.send_keys(" ")
    assert seen() == every


def test_it_opens_a_gallery(browser, address):
    from selenium.webdriver.common.keys import Keys

    show(browser, address, 1280)
    dialog = find(browser, "dialog")[0]
    assert not dialog.is_displayed()
    first, second, *_ = find(browser, "button.zoom")
    first.click()
    assert dialog.is_displayed()
    image = find(browser, "dialog img")[0]
    assert image.get_attribute("src") == first.find_element("css selector", "img").get_attribute("src")
    assert browser.execute_script("return arguments[0].naturalWidth", image) == 600
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert find(browser, "dialog p")[0].text == second.find_element("css selector", "img").get_attribute("alt")
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    assert browser.switch_to.active_element == second


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_hangs_over_the_side(browser, width, tmp_path):
    write_study(tmp_path / "runs")
    for steps in (100, 200):
        run = result("long", 0, 0.5, steps=steps, comparison=f"long-{steps}")
        run["overrides"].append(f"method.synthesis.generator.{'a_very_long_name_' * 5}={steps}")
        write_run(tmp_path / "runs", run)
    write_page([tmp_path / "runs"], tmp_path / "report.html")
    show(browser, (tmp_path / "report.html").as_uri(), width)
    browser.execute_script("for (const one of document.querySelectorAll('details')) one.open = true")
    wide, seen = browser.execute_script("return [document.documentElement, document.body].map(one => one.scrollWidth)")
    assert width - 20 <= wide == seen <= width  # a desk has a scroll bar
    over = browser.execute_script(
        "return [...document.querySelectorAll('main *, header *')]"
        ".filter(one => !one.closest('.scroll, pre') && one.getBoundingClientRect().right > innerWidth + 1)"
        ".map(one => one.outerHTML.slice(0, 80))"
    )
    assert over == []
    find(browser, "button.zoom")[0].click()
    assert browser.execute_script("return document.querySelector('dialog').getBoundingClientRect().right") <= width


def contrast(one: str, other: str) -> float:
    """Of two colours as a browser writes them (WCAG 2)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_it_is_readable_in_light_and_dark(browser, address, scheme, dark):
    show(browser, address, 1280, scheme)

    def style(selector: str, name: str) -> str:
        return browser.execute_script(
            "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, name
        )

    paper = style("body", "backgroundColor")
    assert (contrast(paper, "rgb(255, 255, 255)") > 10) == dark
    for selector in ("body", "header.top p", "a", ".note", "caption", "td small"):
        assert contrast(style(selector, "color"), paper) >= 4.5, selector
    assert contrast(style(".verdict.better", "color"), style(".verdict.better", "backgroundColor")) >= 4.5
    assert contrast(style("svg text", "fill"), paper) >= 4.5
    for number in range(8):  # marks are no text
        colour = browser.execute_script(
            f"document.body.className = 'c{number}'; return getComputedStyle(document.body).color"
        )
        assert contrast(colour, paper) >= 3, number


def test_nothing_is_fetched_and_nothing_goes_wrong(browser, address):
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get_log("browser")
    show(browser, address, 1280)
    find(browser, "button.zoom")[0].click()
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert address in asked
    assert [url for url in asked if url != address and not url.startswith("data:")] == []
    assert browser.get_log("browser") == []
    assert Path(address.removeprefix("file://")).stat().st_size < 1_000_000
