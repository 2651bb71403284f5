"""The site in a real browser: headless Chromium, from file://, with and without scripts.

Screenshots are kept where TOPFIVE_SCREENSHOTS names a folder.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from topfive.cards import load_cards
from topfive.records import list_records
from topfive.records.published import published_rows
from topfive.report.site import Material, read_content, site_files, write_site
from topfive.report.site.thumbnails import Thumbnails

from report_records import write_models, write_run

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="selenium is not installed: pip install '.[browser]'"
)
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver: apt-get install chromium chromium-driver",
    ),
]
ROOT = Path(__file__).resolve().parent.parent
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--window-size=1280,900",
)
ROWS = "return [...document.querySelectorAll('#overview tbody tr')].filter(r => r.offsetParent !== null)"
LOADED = "const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd - t.startTime"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def open_browser() -> Iterator[Open]:
    """A function that starts a browser: open_browser(dark=False, scripts=True)."""
    started = []

    def opened(*, dark: bool = False, scripts: bool = True) -> Any:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for option in OPTIONS:
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        if not scripts:
            options.add_experimental_option(
                "prefs", {"profile.managed_default_content_settings.javascript": 2}
            )
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        started.append(browser)
        scheme = "dark" if dark else "light"
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        return browser

    yield opened
    for browser in started:
        browser.quit()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records of 50 made-up models in 5 cases, and the goldens of the repository."""
    root = tmp_path_factory.mktemp("report")
    write_models(root / "records", [f"network_{n:02d}" for n in range(50)], runs=2)
    write_run(root / "records", [], 2)
    (root / "records" / "bad.json").write_text("{")
    content = read_content([root / "records"], goldens=ROOT / "golden")
    simulated = {"gemmini_sim": "a simulation"}
    material = Material(
        "topfive report",
        "2026-02-01T00:00:00+00:00",
        simulated,
        published_rows(),
        {},
        Thumbnails(load_cards()),
    )
    write_site(site_files(content, material), root / "site")
    return root / "site"


def shot(browser: Any, name: str) -> None:
    if folder := os.environ.get("TOPFIVE_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def errors_of(browser: Any) -> list[str]:
    return [
        entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")
    ]


def requested(browser: Any) -> list[str]:
    import json

    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [event for event in events if event["method"] == "Network.requestWillBeSent"]
    return [str(event["params"]["request"]["url"]) for event in sent]


def test_loads_alone_and_fast(open_browser: Open, site: Path) -> None:
    browser = open_browser()
    pages = [
        site / "index.html",
        site / "models" / "network_00.html",
        site / "models" / "light_resnet50.html",
    ]
    pages += sorted((site / "runs").glob("*.html"))[:1]
    for page in pages:
        start = time.perf_counter()
        browser.get(page.as_uri())
        wall = time.perf_counter() - start
        loaded = browser.execute_script(LOADED)
        print(f"{page.name}: loaded after {loaded:.0f} ms, {wall:.2f} s through the driver")
        assert errors_of(browser) == []
        shot(browser, f"light-{page.stem}")
    urls = requested(browser)
    assert len(urls) > len(pages)
    assert all(url.startswith(("file://", "data:")) for url in urls)


def test_sorting(open_browser: Open, site: Path) -> None:
    browser = open_browser()
    browser.get((site / "index.html").as_uri())
    head = browser.find_element("xpath", "//table[@id='overview']//button[starts-with(., 'p50')]")
    values = f"{ROWS}.map(r => r.cells[5].dataset.v)"
    for direction, reverse in (("ascending", False), ("descending", True)):
        head.click()
        assert head.find_element("xpath", "..").get_attribute("aria-sort") == direction
        found = browser.execute_script(values)
        numbers = [float(value) for value in found if value is not None]
        assert len(numbers) == 250
        assert numbers == sorted(numbers, reverse=reverse)
        # Cases without a latency stay at the end, whichever way it is sorted.
        assert found[len(numbers) :] == [None] * (len(found) - len(numbers))
    assert errors_of(browser) == []


def test_filtering(open_browser: Open, site: Path) -> None:
    from selenium.webdriver.support.ui import Select, WebDriverWait

    browser = open_browser()
    browser.get((site / "index.html").as_uri())
    everything = len(browser.execute_script(ROWS))
    browser.find_element("id", "search").send_keys("network_07 int8")
    assert len(browser.execute_script(ROWS)) == 3
    assert browser.find_element("id", "shown").text == f"3 of {everything} cases"
    Select(browser.find_element("id", "by-target")).select_by_visible_text("gemmini_sim")
    WebDriverWait(browser, 10).until(lambda _: len(browser.execute_script(ROWS)) == 1)
    (row,) = browser.execute_script(ROWS)
    assert row.text.startswith("network_07 gemmini_sim~ int8")
    shot(browser, "filtered")
    browser.find_element("xpath", "//button[.='Clear']").click()
    WebDriverWait(browser, 10).until(lambda _: len(browser.execute_script(ROWS)) == everything)


def test_what_is_chosen_survives_a_reload_and_the_way_back(open_browser: Open, site: Path) -> None:
    """Filters and sorting stand in the address; Clear empties it."""
    from selenium.webdriver.support.ui import Select, WebDriverWait

    browser = open_browser()
    browser.get((site / "index.html").as_uri())
    browser.find_element("id", "search").send_keys("network_0")
    Select(browser.find_element("id", "by-quant")).select_by_visible_text("int8")
    head = "//table[@id='overview']//button[starts-with(., 'p50')]"
    browser.find_element("xpath", head).click()
    browser.find_element("xpath", head).click()
    names = f"{ROWS}.map(r => r.textContent)"
    wanted = browser.execute_script(names)
    assert len(wanted) == 30

    def same(_: Any) -> bool:
        return bool(browser.execute_script(names) == wanted)

    browser.refresh()
    WebDriverWait(browser, 10).until(same)
    browser.find_element("xpath", "//table[@id='overview']//a[starts-with(., 'network_0')]")
    browser.execute_script(f"{ROWS}[0].querySelector('a').click()")
    WebDriverWait(browser, 10).until(lambda _: "/models/" in browser.current_url)
    browser.back()
    WebDriverWait(browser, 10).until(same)
    assert browser.find_element("id", "search").get_attribute("value") == "network_0"
    sort = browser.find_element("xpath", f"{head}/..").get_attribute("aria-sort")
    assert sort == "descending"
    browser.find_element("xpath", "//button[.='Clear']").click()
    WebDriverWait(browser, 10).until(lambda _: len(browser.execute_script(ROWS)) > 250)
    assert "search" not in browser.current_url
    assert errors_of(browser) == []


def test_keyboard(open_browser: Open, site: Path) -> None:
    """Tab alone reaches the skip link, every control and the titles; Enter sorts."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser = open_browser()
    browser.get((site / "index.html").as_uri())
    reached = []
    for _ in range(120):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        active = browser.switch_to.active_element
        reached.append(active.get_attribute("id") or active.text)
        if active.tag_name == "button" and active.text.startswith("p50"):
            break
    assert reached[0] == "Skip to the content"
    wanted = ["search", "by-target", "by-quant", "by-verdict"]
    assert [name for name in reached if name in wanted] == wanted
    outline = browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    head = browser.switch_to.active_element.find_element("xpath", "..")
    assert head.get_attribute("aria-sort") == "ascending"


# Name and description of what a screen reader meets, and headings that skip no level.
AUDIT = """
const faults = [];
const say = (what, e) => faults.push(what + ": " + e.outerHTML.slice(0, 120));
const named = e => e.getAttribute("aria-label") || document.getElementById(e.getAttribute("aria-labelledby"));
const all = q => [...document.querySelectorAll(q)];
if (!document.documentElement.lang || !document.title) faults.push("no language or no title");
if (all("main").length !== 1 || all("h1").length !== 1) faults.push("not one main and one h1");
for (const e of all("section, [role=region], form")) if (!named(e)) say("a landmark without a name", e);
const names = all("section, [role=region]").map(e => e.getAttribute("aria-label") || named(e).textContent);
names.filter((n, i) => names.indexOf(n) !== i).forEach(n => faults.push("two landmarks are named " + n));
for (const e of all("svg:not([role=img])")) say("a figure without a role", e);
for (const e of all("svg[role=img]")) if (!e.querySelector("title")) say("a figure without a title", e);
for (const e of all("img")) if (!e.alt) say("a picture without a text", e);
for (const e of all("th")) if (!e.scope) say("a head without a scope", e);
for (const e of all("table")) if (!e.caption) say("a table without a caption", e);
for (const e of all("input, select")) if (!e.labels.length) say("a control without a label", e);
for (const e of all("a, button")) if (!e.textContent.trim()) say("an empty control", e);
for (const e of all(".scroll")) if (e.tabIndex !== 0) say("scrolls only with a mouse", e);
let before = 0;
for (const e of all("h1, h2, h3, h4")) {
  const level = Number(e.tagName[1]);
  if (level > before + 1) say("a heading skips a level", e);
  before = level;
}
return faults;
"""


def test_what_a_screen_reader_needs(open_browser: Open, site: Path) -> None:
    browser = open_browser()
    for page in (
        "index.html",
        "models/network_00.html",
        "models/light_resnet50.html",
        "runs/session-000.html",
    ):
        browser.get((site / page).as_uri())
        assert browser.execute_script(AUDIT) == [], page


def test_dark(open_browser: Open, site: Path) -> None:
    browser = open_browser(dark=True)
    for page in ("index.html", "models/network_00.html"):
        browser.get((site / page).as_uri())
        ground = "return getComputedStyle(document.body).backgroundColor"
        assert browser.execute_script(ground) == "rgb(20, 24, 29)"
        assert errors_of(browser) == []
        shot(browser, f"dark-{Path(page).stem}")


def test_without_scripts(open_browser: Open, site: Path) -> None:
    """Everything is readable, and no control stands there that would do nothing."""
    browser = open_browser(scripts=False)
    browser.get((site / "index.html").as_uri())
    assert not browser.find_element("id", "filters").is_displayed()
    assert browser.find_elements("css selector", "#overview thead button") == []
    assert len(browser.find_elements("css selector", "#overview tbody tr")) > 250


def test_nothing_is_wider_than_the_window(open_browser: Open, site: Path) -> None:
    """Tables and figures scroll inside the page, also on a small screen."""
    browser = open_browser()
    for width in (1280, 400):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for page in ("index.html", "models/pocket_resnet.html", "runs/session-000.html"):
            browser.get((site / page).as_uri())
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            shot(browser, f"{width}-{Path(page).stem}")
            assert wide <= width, page


# A picture below the window is loaded when it comes into it.
BROKEN_PICTURES = "return [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
LINKS = (
    "return [...document.links].map(a => a.href.split('#')[0]).concat([...document.images].map(i => i.src))"
)
P50 = (
    "return Object.fromEntries([...document.querySelectorAll('#overview tbody tr')].map(r => "
    "[[...r.cells].slice(0, 3).map(c => c.textContent.replace('~', '').trim()).join(' '), "
    "r.cells[5].dataset.v]))"
)


# Read before the tests get an environment of their own.
MADE = os.environ.get("TOPFIVE_SITE", ""), os.environ.get("TOPFIVE_RECORDS", "")


@pytest.mark.skipif(
    not all(MADE),
    reason="TOPFIVE_SITE and TOPFIVE_RECORDS name no site and its records: `tox run -e site` makes them",
)
def test_a_made_site(open_browser: Open) -> None:
    """Every page of a site that was made of real runs, and their figures in it."""
    root, records = (Path(folder).resolve() for folder in MADE)
    pages = sorted(root.rglob("*.html"))
    assert {page.parent.name for page in pages} == {root.name, "models", "runs"}
    browser = open_browser()
    for page in pages:
        browser.get(page.as_uri())
        assert errors_of(browser) == []
        assert browser.execute_script(BROKEN_PICTURES) == []
        links = {urlsplit(link) for link in browser.execute_script(LINKS)}
        linked = {Path(unquote(link.path)) for link in links if link.scheme == "file"}
        assert [path for path in linked if not path.is_file()] == []
        shot(browser, f"made-{page.stem}")
    assert all(url.startswith(("file://", "data:")) for url in requested(browser))

    browser.get((root / "index.html").as_uri())
    shown = browser.execute_script(P50)
    tests = [test for stored in list_records(records) for test in stored.record["tests"]]
    measured = {
        " ".join(test["case"][name] for name in ("model", "target", "quant")): test["values"]["p50"]
        for test in tests
        if test["kind"] == "latency" and test["case"]["batch"] == 1 and test["outcome"] == "passed"
    }
    assert len(measured) > 10
    assert {name: float(shown[name]) for name in measured} == pytest.approx(measured, rel=1e-5)
    scenarios = [test for test in tests if test["kind"] == "scenario"]
    assert len({test["loadgen"]["key"] for test in scenarios}) == 8
    for test in scenarios:
        page = root / "models" / f"{test['case']['model']}.html"
        text = page.read_text(encoding="utf-8")
        verdict = "-<" if "accuracy" in test["loadgen"] else "[^/]{,40}>VALID<"
        assert re.search(f"{test['loadgen']['key']}</td><td>{verdict}", text)
