"""The dashboard in a real browser: accessible, quiet, by keyboard, and without JavaScript."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from ojs_cluster.ui.formats import NONE
from ojs_cluster.ui.navigation import MENU
from tests.support.servers import own_server
from tests.ui.conftest import FULL
from tests.ui.dashboard import Running, dashboard
from tests.ui.demo import Demo
from tests.ui.every_page import every_page
from tests.ui.screenshots import ARGUMENTS, CHROMIUM, MAX_BYTES, take

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
AXE = files("axe_playwright_python").joinpath("axe.min.js")
WAIT_MS = 60_000
CLOSED = (
    "details.help, details.card-like, details.mark, details.times, details.numbers, "
    ".failure details"
)
VIOLATIONS = """
window.cspViolations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.cspViolations.push(event.violatedDirective + " " + event.blockedURI));
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        expect.set_options(timeout=WAIT_MS)
        yield browser
        browser.close()


class Visitor:
    """A browser window that records what must not happen."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.url = url
        self.faults: list[str] = []
        context.add_init_script(VIOLATIONS)
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("request", self._note_request)

    def _note_console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.faults.append(f"console: {message.text}")

    def _note_request(self, request: Any) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.faults.append(f"request: {request.url}")

    def open(self, path: str) -> Page:
        self.page.goto(f"{self.url}/ui/{path}")
        return self.page

    def log_in(self) -> None:
        page = self.open("login")
        page.get_by_label("API key").fill("admin-key")
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{self.url}/ui/")

    def check(self) -> None:
        assert self.faults == [], self.page.url
        assert self.page.evaluate("window.cspViolations || []") == []


def window(browser: Browser, running: Running, **options: Any) -> Visitor:
    return Visitor(browser.new_context(**options), running.url)


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (1920, "dark")])
def test_every_page_is_accessible_and_fits(
    chromium: Browser, running: Running, demo: Demo, width: int, scheme: str
) -> None:
    visitor = window(
        chromium, running, viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    axe = AXE.read_text()
    page = visitor.open("login")
    assert _violations(page, axe) == []
    visitor.log_in()
    with running.api() as api:  # the choice of a mark is as wide as the longest label
        mark = api.post("/ojs/v1/admin/marks", json={"label": "W" * 100}).json()["id"]
    for path in every_page(demo).values():
        page = visitor.open(path)
        for closed in page.locator(CLOSED).all():
            closed.evaluate("each => { each.open = true }")
        assert _violations(page, axe) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        # The browser itself reports the status of an error page.
        visitor.faults = [fault for fault in visitor.faults if "the server responded" not in fault]
        visitor.check()
    for text, shown in (("many", ".field-error"), ("0", "form.ask")):
        page = visitor.open("queues/email?tab=settings")
        page.get_by_label("Jobs at the same time").fill(text)
        page.get_by_role("button", name="Save limits").click()
        page.locator(shown).wait_for()
        assert _violations(page, axe) == [], f"a refused form, and a question: {text}"
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    with running.api() as api:
        api.delete(f"/ojs/v1/admin/marks/{mark}").raise_for_status()
    visitor.page.context.close()


def test_a_chosen_language_fits_and_is_accessible(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running, viewport={"width": 360, "height": 800})
    axe = AXE.read_text()
    visitor.log_in()
    for code, direction in (("de", "ltr"), ("ar", "rtl")):  # the longest words, and right to left
        page = visitor.open("queues")
        page.locator("label[for=menu-open]").click()
        page.locator("details.language summary").click()
        page.locator("#language").select_option(code)
        page.locator("details.language button").click()
        page.locator(f'html[lang="{code}"][dir="{direction}"]').wait_for()
        for path in ("", "queues", f"jobs/{demo.jobs['discarded']}"):
            page = visitor.open(path)
            assert _violations(page, axe) == [], path
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    visitor.check()
    visitor.page.context.close()


def test_no_column_is_cut_off_in_a_window_of_1280_pixels(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running, viewport={"width": 1280, "height": 800})
    visitor.log_in()
    paths = ("queues", "errors", "cluster", "workers", "cron", "limits", "pools", "tenants")
    longest = ("queues", "errors")  # in the languages with the longest words
    for language, opened in (("en", paths), ("de", longest), ("ru", longest)):
        visitor.page.set_extra_http_headers({"Accept-Language": language})
        for path in opened:
            page = visitor.open(path)
            page.locator(f'html[lang="{language}"]').wait_for()
            for table in page.locator(".scroll").all():
                hidden = table.evaluate("each => each.scrollWidth - each.clientWidth")
                assert hidden <= 0, (path, language)
    visitor.page.set_extra_http_headers({})
    visitor.check()
    # The buttons stay in sight, but in a narrow window they would cover the numbers.
    page = visitor.open("queues")
    cell = page.locator("td.act").first
    for width, position in ((1000, "sticky"), (700, "static")):
        page.set_viewport_size({"width": width, "height": 800})
        assert cell.evaluate("each => getComputedStyle(each).position") == position
    visitor.page.context.close()


def test_columns_and_the_menu_are_readable_in_a_window_of_360_pixels(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running, viewport={"width": 360, "height": 800})
    visitor.log_in()
    for path in (
        "bulk",
        "operations",
        "audit",
        "limits",
        "webhooks",
        "cluster",
        "pools",
        "tenants",
    ):
        page = visitor.open(path)
        for cell in page.locator("tbody .break-name").all()[:20]:
            box = cell.bounding_box()
            assert box is not None
            assert box["width"] >= 120, path
        header = page.locator(".side").bounding_box()
        assert header is not None
        assert header["height"] <= 60, "the menu is folded"
        assert page.locator("nav[aria-label=Pages]").is_hidden()
        page.locator("label[for=menu-open]").click()
        entry = page.locator("nav[aria-label=Pages] [aria-current]").bounding_box()
        assert entry is not None
        assert 0 <= entry["x"] <= entry["x"] + entry["width"] <= 360, path
    page = visitor.open("")
    expect(page.locator(".charts-box > summary")).to_be_visible()
    expect(page.locator(".charts-box[open]")).to_have_count(0)
    expect(page.get_by_text("Drag in a chart")).to_be_hidden()
    visitor.check()
    visitor.page.context.close()


def _violations(page: Page, axe: str) -> list[str]:
    page.evaluate(axe)
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {[node['html'][:200] for node in each['nodes'][:3]]}"
        for each in result["violations"]
    ]


def test_the_pictures_of_the_documentation_can_be_taken_again(
    chromium: Browser, running: Running, demo: Demo, tmp_path: Path
) -> None:
    taken = take(chromium, running, demo, tmp_path)
    kept = {path.name: path for path in (ROOT / "docs" / "img").iterdir()}
    assert kept.keys() == {path.name for path in taken}, "run: make screenshots"
    for path in (*taken, *kept.values()):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 10_000, path
    # Those taken here also show what other tests have left, so they may be larger.
    assert [path for path in kept.values() if path.stat().st_size >= MAX_BYTES] == []


def test_everything_works_without_javascript(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running, java_script_enabled=False)
    visitor.log_in()
    page = visitor.open("queues/reports")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("status")).to_contain_text("The queue reports is paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("status")).to_contain_text("runs again")
    page = visitor.open("cron/_new")
    page.get_by_label("Name").fill("by-hand")
    page.get_by_label("Schedule").fill("0 3 * * 1")
    page.get_by_label("Job type").fill("report.build")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#preview li")).to_have_count(5)
    page.get_by_label("Arguments").fill("[1,")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_label("Arguments")).to_be_focused()
    expect(page.locator(".field-error")).to_contain_text("not valid JSON")
    page.get_by_label("Arguments").fill("[1]")
    page.get_by_role("button", name="Create").click()
    expect(page.get_by_role("status")).to_contain_text("The cron job by-hand is created")
    page.get_by_text("Delete", exact=True).first.click()
    page.get_by_role("button", name="Yes, delete").click()
    expect(page.get_by_role("status")).to_contain_text("is deleted")
    page.locator("details.times summary").click()
    page.get_by_label("Another time zone").fill("asia/tokyo")
    page.get_by_role("button", name="Show its times").click()
    expect(page.locator("details.times summary")).to_contain_text("Asia/Tokyo")
    page.get_by_role("searchbox", name="Search jobs").fill("type:report.* state:active")
    page.get_by_role("searchbox", name="Search jobs").press("Enter")
    page.get_by_role("link", name="report.build").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("report.build")
    page.get_by_text("Cancel", exact=True).first.click()  # the confirmation opens
    expect(page.get_by_text("A cancelled job cannot be retried")).to_be_visible()
    visitor.page.context.close()


def test_the_time_zone_of_the_browser_is_offered_first_and_charts_follow_it(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running, timezone_id="America/St_Johns")
    visitor.log_in()
    page = visitor.open("?range=1h")
    page.locator("details.times summary").click()
    expect(page.locator("#zones option").first).to_be_attached()
    page.locator("#times button").first.click()
    expect(page.locator("details.times summary")).to_contain_text("America/St_Johns")
    at = page.locator("#series tbody time").last
    local = at.text_content() or ""
    expect(page.locator(".u-legend .u-value").first).to_have_text(local)
    assert (at.get_attribute("datetime") or "")[14:16] != local[-2:], (
        "it is not a whole number of hours from UTC"
    )
    visitor.check()
    visitor.page.context.close()


def test_a_schedule_is_previewed_while_it_is_typed(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running)
    visitor.log_in()
    for path in ("cron/_new", "cron/nightly-report/edit"):
        page = visitor.open(path)
        page.locator("html.js").wait_for()
        for schedule, zone in (("30 4 * * *", "UTC"), ("15 5 * * *", "Asia/Tokyo")):
            page.get_by_label("Schedule").fill(schedule)
            page.locator("main").get_by_label("Time zone").fill(zone)
            minute, hour, *_ = schedule.split()
            expected = page.locator("#preview li", has_text=f"0{hour}:{minute}:00")
            expect(expected).to_have_count(5)
        page.get_by_label("Schedule").fill("99 <b>")
        expect(page.locator("#preview")).to_contain_text("is not a cron")
    visitor.check()
    visitor.page.context.close()


def test_a_job_is_found_and_opened_by_keyboard_alone(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running)
    visitor.log_in()
    keys = visitor.page.keyboard
    keys.press("/")
    keys.type("state:discarded type:email.*")
    keys.press("Enter")
    visitor.page.wait_for_url("**/jobs?query=*")
    visitor.page.wait_for_load_state()
    visitor.page.locator("html.js").wait_for()
    keys.press("j")
    keys.press("Enter")
    visitor.page.wait_for_url(f"**/jobs/{demo.jobs['discarded']}")
    visitor.check()
    visitor.page.context.close()


def test_a_search_is_completed_by_keyboard(chromium: Browser, running: Running, demo: Demo) -> None:
    visitor = window(chromium, running)
    visitor.log_in()
    page = visitor.open("jobs")
    page.locator("html.js").wait_for()
    field = page.get_by_role("combobox", name="Search", exact=True)
    field.press_sequentially("type:a* sta")
    options = page.locator("#query-options").get_by_role("option")
    expect(options).to_have_text(["state:"])
    field.press("ArrowDown")
    expect(field).to_have_attribute("aria-activedescendant", "query-options-0")
    assert _violations(page, AXE.read_text()) == []
    field.press("Enter")
    expect(field).to_have_value("type:a* state:")
    field.press_sequentially("DIS")
    expect(options).to_have_text(["discarded"])
    field.press("ArrowDown")
    field.press("Enter")
    expect(field).to_have_value("type:a* state:discarded ")
    field.press_sequentially("queue:em")
    expect(options).to_have_text(["email"])
    field.press("Escape")
    expect(options).to_have_count(0)
    expect(field).to_be_focused()
    field.fill("")
    field.press_sequentially("constructor:x")
    expect(options).to_have_count(0)
    field.fill("state:discarded")
    field.press("Enter")
    page.wait_for_url("**/jobs?*query=state*")
    visitor.check()
    visitor.page.context.close()


def test_a_list_offers_new_jobs_instead_of_moving(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running)
    visitor.log_in()
    body = {"type": "image.new", "args": [], "options": {"queue": "growing"}}
    with running.api() as api:
        api.post("/ojs/v1/jobs", json={**body, "type": "image.old"})
    page = visitor.open("jobs?queue=growing")
    first = page.locator("tr[data-id]").first.get_attribute("data-id")
    page.locator("#live").select_option("2")
    with running.api() as api:
        assert api.post("/ojs/v1/jobs", json=body).status_code == 201
    expect(page.locator("#newer")).to_contain_text("1 new job")
    assert page.locator("tr[data-id]").first.get_attribute("data-id") == first
    page.locator("#newer a").click()
    expect(page.get_by_role("link", name="image.new").first).to_be_visible()
    visitor.check()
    visitor.page.context.close()


def test_numbers_refresh_by_themselves_and_colours_are_remembered(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running)
    visitor.log_in()
    page = visitor.open("queues/fresh")
    with running.api() as api:
        body = {"type": "a.b", "args": [], "options": {"queue": "fresh"}}
        api.post("/ojs/v1/jobs", json=body)
        visitor.faults.clear()  # the queue did not exist yet
        page = visitor.open("queues/fresh")
        page.locator("#live").select_option("2")
        api.post("/ojs/v1/jobs", json=body)
    expect(page.locator(".tile-available .tile-value")).to_have_text("2")
    page.locator("#theme").select_option("dark")
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.locator("#live").input_value() == "2"
    visitor.check()
    visitor.page.context.close()


def test_a_zoom_of_a_chart_does_not_reach_to_the_newest_mark(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running)
    visitor.log_in()
    page = visitor.open("")
    found = page.evaluate(
        """async () => {
          const Drawn = window.uPlot, plots = [];
          window.uPlot = class extends Drawn {
            constructor(...given) { super(...given); plots.push(this); }
          };
          dispatchEvent(new Event("resize"));
          while (!plots.length) await new Promise((done) => setTimeout(done, 20));
          const [plot] = plots, times = plot.data[0], shown = [];
          const zooms = [[times[0], times[1]], [times[0], times.at(-1)]];
          for (const [min, max] of zooms) {
            plot.setScale("x", {min, max});
            await new Promise((done) => setTimeout(done));
            shown.push([plot.scales.x.min, plot.scales.x.max]);
          }
          const marks = [...document.querySelectorAll("#marks time")];
          const newest = Math.max(...marks.map((each) => Date.parse(each.dateTime) / 1000));
          return {zooms, shown, newest};
        }"""
    )
    assert found["newest"] > found["zooms"][0][1]
    assert found["shown"][0] == found["zooms"][0]
    assert found["shown"][1][1] == max(found["zooms"][1][1], found["newest"]), "the full range"
    visitor.check()
    visitor.page.context.close()


def test_a_page_keeps_what_has_not_changed(chromium: Browser, running: Running, demo: Demo) -> None:
    visitor = window(chromium, running)
    visitor.log_in()
    page = visitor.page
    page.locator("html.js").wait_for()
    with page.expect_event("response", lambda reply: reply.status == 304):
        page.locator("#live").select_option("2")
    expect(page.locator(".tile-available .tile-value")).to_be_visible()
    expect(page.locator("#not-refreshed")).to_be_hidden()
    visitor.check()
    visitor.page.context.close()


def test_a_workflow_refreshes_and_its_map_leads_to_a_part_of_the_drawing(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    with running.api() as api:
        options = {"queue": "mapped", "retry": {"max_attempts": 1}}
        steps = [{"type": f"map.n{number}", "args": [], "options": options} for number in range(20)]
        made = api.post("/ojs/v1/workflows", json={"type": "chain", "steps": steps}).json()
        visitor = window(chromium, running)
        visitor.log_in()
        page = visitor.open(f"workflows/{made['id']}")
        expect(page.locator(".map")).to_be_visible()
        page.locator(".tip").focus()
        legend = "getComputedStyle(document.querySelector('.tip'), '::after').content"
        assert page.evaluate(legend) != "none", "it is shown without a mouse, too"
        expect(page.get_by_role("note", name="Full bars: completed")).to_be_focused()
        assert page.locator("details.numbers[open]").count() == 2
        width = page.evaluate("document.querySelector('.map').clientWidth")
        page.locator(".map").click(position={"x": width - 4, "y": 4})
        page.wait_for_function("document.querySelector('.dag').scrollLeft > 1000")
        page.locator("#live").select_option("2")
        job = api.post("/ojs/v1/workers/fetch", json={"queues": ["mapped"]}).json()["jobs"][0]
        expect(page.locator(".waits").first).to_have_text(NONE)
        assert page.evaluate("document.querySelector('.dag').scrollLeft") > 1000, "it stays"
        assert page.locator("details.numbers[open]").count() == 2
        page.get_by_role("button", name="Fit").click()
        expect(page.locator(".map")).to_be_hidden()
        api.post("/ojs/v1/workers/ack", json={"job_id": job["id"]})
        api.delete(f"/ojs/v1/workflows/{made['id']}")
    visitor.check()
    visitor.page.context.close()


def test_a_new_installation_draws_what_the_page_has_seen(chromium: Browser, tmp_path: Path) -> None:
    with own_server(tmp_path, cluster=False) as redis, dashboard(redis, FULL) as own:
        visitor = window(chromium, own)
        visitor.log_in()
        page = visitor.page
        page.locator("#live").select_option("2")
        with own.api() as api:
            api.post("/ojs/v1/jobs", json={"type": "a.b", "args": []}).raise_for_status()
        expect(page.locator(".tile-available .tile-value")).to_have_text("1")
        expect(page.locator('[data-table="seen"] .u-legend')).to_contain_text("Available1")
        visitor.check()
        visitor.page.context.close()


def test_a_page_that_cannot_refresh_says_so(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running)
    visitor.log_in()
    page = visitor.page
    page.locator("html.js").wait_for()
    page.locator("#live").select_option("2")
    page.context.set_offline(True)
    expect(page.locator("#not-refreshed")).to_contain_text("could not be refreshed since")
    page.context.set_offline(False)
    expect(page.locator("#not-refreshed")).to_be_hidden()
    visitor.page.context.close()


def test_keys_open_pages_and_change_colours_and_refresh(
    chromium: Browser, running: Running, demo: Demo
) -> None:
    visitor = window(chromium, running)
    visitor.log_in()
    page, keys = visitor.page, visitor.page.keyboard
    page.locator("html.js").wait_for()
    keys.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    assert _violations(page, AXE.read_text()) == []
    pages = page.locator("#keys dd").all_text_contents()
    assert set(page.locator("nav[aria-label=Pages] a").all_text_contents()) < set(pages)
    keys.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    keys.press("t")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    keys.press("x")
    assert page.locator("#live").input_value() == "0"
    with page.expect_response("**/ui/") as refreshed:
        keys.press("r")
    assert refreshed.value.request.headers["hx-request"] == "true"
    keys.press("q")  # alone it does nothing
    keys.press("g")
    keys.press("q")
    page.wait_for_url("**/ui/queues")
    page.locator("html.js").wait_for()
    page.get_by_role("combobox", name="Search").focus()
    keys.type("gw")  # text, while a field has the focus
    assert page.get_by_role("combobox", name="Search").input_value() == "gw"
    assert page.url.endswith("/ui/queues")
    visitor.check()
    visitor.page.context.close()


def test_every_page_of_the_menu_has_a_key_of_its_own() -> None:
    keys = [entry.key for entry in MENU]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 1 and key.islower() for key in keys)
