"""The report in headless Chromium, as it is read: with a mouse, by keyboard, on a phone, in the dark, offline."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qexp.results.library import REFERENCE
from qexp.results.report.page import to_report
from qexp.results.section import Section
from qexp.runner.plan import table_names

pytest.importorskip("selenium", reason="needs selenium: pip install -e '.[dev]'")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver (chromium-driver)")
PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests; it logs every request that a page makes."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium: Any, sections: list[Section], tmp_path: Path) -> Any:
    """The page, freshly opened from disk, in a wide window."""
    page = tmp_path / "report.html"
    page.write_text(to_report(sections), encoding="utf-8")
    chromium.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    open_page(chromium, page)
    return chromium


def open_page(browser: Any, page: Path) -> None:
    """On a busy machine ``get`` may return while a large page is still read."""
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(lambda one: one.execute_script("return document.readyState") == "complete")


def first(browser: Any, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def texts(browser: Any, selector: str) -> list[str]:
    return [one.text for one in browser.find_elements("css selector", selector)]


def test_it_opens_from_disk_without_a_request_or_a_complaint(browser: Any) -> None:
    assert browser.title == "qexp report"  # a planted script would have changed it
    assert browser.get_log("browser") == []
    sent = [
        entry["message"] for entry in browser.get_log("performance") if "Network.requestWillBeSent" in entry["message"]
    ]
    assert not [message for message in sent if '"url":"http' in message]
    assert "<script>document.title = 'run'</script>" in texts(browser, "#paper-one tbody th")


def test_the_committed_page_opens_from_disk_with_every_table(chromium: Any) -> None:
    open_page(chromium, REFERENCE / "report.html")
    chapters = {one.get_attribute("id") for one in chromium.find_elements("css selector", "section.chapter")}
    assert chapters == {re.sub(r"[^a-z0-9]+", "-", name) for name in table_names()}
    assert not [entry for entry in chromium.get_log("browser") if "report.html" in entry["message"]]


def test_columns_sort_by_keyboard_and_say_so(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    heading = first(browser, "#paper-one thead th:nth-child(3)")
    button = heading.find_element("css selector", "button")
    figures = "#paper-one .scroll tbody td:nth-child(3) .figure"
    button.send_keys(Keys.ENTER)
    assert heading.get_attribute("aria-sort") == "ascending"
    assert texts(browser, figures) == ["65.44 ± 0.22", "70.22 ± 0.11"]
    button.send_keys(Keys.SPACE)
    assert heading.get_attribute("aria-sort") == "descending"
    assert texts(browser, figures) == ["70.22 ± 0.11", "65.44 ± 0.22"]
    first(browser, "#paper-one thead th:first-child button").click()
    assert heading.get_attribute("aria-sort") is None and len(texts(browser, "#paper-one [aria-sort]")) == 1


def test_a_figure_opens_its_provenance_by_keyboard_and_gives_the_focus_back(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    figure = first(browser, "#paper-one .figure")
    figure.send_keys(Keys.ENTER)
    panel = first(browser, ".panel:popover-open")
    assert panel.get_attribute("id") == figure.get_attribute("popovertarget")
    assert browser.switch_to.active_element.text == "Float, A"  # its heading
    assert "c0ffeec0ff" in panel.text and "qexp run seed=<script>" in panel.text
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not browser.find_elements("css selector", ".panel:popover-open")
    assert browser.switch_to.active_element == figure


def test_whoever_tabs_sees_where_they_are(browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    for place in range(12):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        focused = browser.switch_to.active_element
        if place == 0:
            assert focused.text == "Skip to the overview" and focused.is_displayed()
        assert focused.tag_name in ("a", "button", "div", "select", "summary")
        assert focused.value_of_css_property("outline-style") == "solid", focused.get_attribute("outerHTML")
        assert focused.value_of_css_property("outline-width") == "2px"


def test_a_panel_shows_what_was_measured_of_its_network_once(browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    assert not browser.find_elements("css selector", "[data-portrait] > *")
    for _ in range(2):
        first(browser, "#paper-one .figure").send_keys(Keys.ENTER)
        maps = texts(browser, ".panel:popover-open [data-portrait] summary")
        assert maps[:2] == ["Outliers by site and layer", "Outliers by layer and hidden dimension"] and len(maps) == 3
        browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert "36" in first(browser, "[data-portrait] .heat").get_attribute("textContent")


def test_on_a_phone_only_the_tables_scroll_sideways(browser: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    browser.refresh()
    assert browser.execute_script("return document.documentElement.scrollWidth") == PHONE["width"]
    assert browser.execute_script("return document.querySelector('nav details').open") is False
    assert browser.execute_script(
        "const box = document.querySelector('#overview .scroll'); return box.scrollWidth > box.clientWidth"
    )


def test_colours_follow_the_system_until_the_reader_chooses(browser: Any) -> None:
    def paper() -> str:
        return str(first(browser, "body").value_of_css_property("background-color"))

    light = paper()
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    dark = paper()
    assert dark != light
    first(browser, "#theme [value=light]").click()
    assert paper() == light
    browser.refresh()
    assert paper() == light  # remembered
    first(browser, "#theme [value='']").click()
    assert paper() == dark


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(browser: Any, scheme: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    for selector in ("body", ".soft", ".legend", ".evidence", ".badge", "nav .empty", ".over a", ".heat td[class]"):
        assert _contrast(browser, selector) >= 4.5, selector


CONTRAST = """
const light = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255).map(
    (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
return Math.min(...[...document.querySelectorAll(arguments[0])].map((element) => {
  let behind = element;
  while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
  const ends = [light(getComputedStyle(element).color), light(getComputedStyle(behind).backgroundColor)].sort();
  return (Math.max(...ends) + 0.05) / (Math.min(...ends) + 0.05);
}));
"""
"""The smallest contrast ratio of the elements' text (WCAG 2.2), which is at least 4.5 for ordinary text."""


def _contrast(browser: Any, selector: str) -> float:
    return float(browser.execute_script(CONTRAST, selector))
