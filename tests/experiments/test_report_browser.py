"""The page in a real browser: quiet, self-contained, and inside every window."""

import pytest
from PIL import Image

from experiments.page.report import write_report
from tests.browser import Browser, find_browser

# Colour as the browser computes it -> relative luminance (WCAG 2), for each element
# that shows text of its own against the nearest background below it.
CONTRASTS = """
(() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const luminance = c => {
    const [r, g, b] = parse(c).slice(0, 3).map(v => v / 255)
      .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const opaque = c => { const v = parse(c); return v.length < 4 || v[3] === 1; };
  const below = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (opaque(c)) return c;
    }
    return 'rgb(255, 255, 255)';
  };
  let worst = [99, ''];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility({checkVisibilityCSS: true})) continue;
    const style = getComputedStyle(e);
    const ink = e.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [a, b] = [luminance(ink), luminance(below(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < worst[0]) worst = [ratio, e.tagName + '.' + e.className];
  }
  return worst;
})()
"""

# Elements that stick out of the window although nothing lets one scroll to them.
OUTSIDE = """
[...document.querySelectorAll('body *')].filter(e => {
  if (e.closest('.scroll, pre, .hidden, .skip, thead') || !e.checkVisibility())
    return false;
  const box = e.getBoundingClientRect();
  return box.width && (box.right > innerWidth + 1 || box.left < -1);
}).map(e => e.tagName + '.' + (e.className.baseVal ?? e.className)).slice(0, 5)
"""

# Texts of charts that leave the chart's frame, where they would be cut.
CUT = """
[...document.querySelectorAll('.chart text')].filter(e => {
  const box = e.getBoundingClientRect();
  const frame = e.ownerSVGElement.getBoundingClientRect();
  return box.left < frame.left - 1 || box.right > frame.right + 1
    || box.top < frame.top - 1 || box.bottom > frame.bottom + 1;
}).map(e => e.textContent)
"""

SHOWN = (
    "[...document.querySelectorAll('.card')].filter(e => e.checkVisibility()).length"
)


@pytest.fixture(scope="module")
def page(demo_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "report.html"
    write_report(demo_run, output)
    return output


@pytest.fixture(scope="module")
def browser():
    with Browser(find_browser()) as running:
        yield running


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1440])
def test_the_page_is_quiet_fits_and_can_be_read(width, dark, browser, page, tmp_path):
    browser.show(width, dark=dark)
    browser.open(page)
    # Every rollout open, so that all the page can show is measured.
    browser.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert browser.messages == []
    assert browser.requests == [page.resolve().as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(OUTSIDE) == []
    assert browser.evaluate(CUT) == []
    images = "[...document.images].every(e => e.complete && e.naturalWidth === 48)"
    assert browser.evaluate("document.images.length") == 60
    assert browser.evaluate(images)
    ratio, where = browser.evaluate(CONTRASTS)
    assert ratio >= 4.5, where
    shot = tmp_path / "page.png"
    browser.screenshot(shot, {"x": 0, "y": 0, "width": width, "height": 900})
    with Image.open(shot) as image:
        assert image.size == (width, 900)
        corner = image.convert("RGB").crop((2, 2, 3, 3)).tobytes()
        assert (max(corner) < 60) == dark


def test_a_page_that_logs_or_asks_is_noticed(browser, page, tmp_path):
    loud = tmp_path / "loud.html"
    loud.write_text(
        "<script>console.error('lost'); throw new Error('broken')</script>"
        "<img src='missing.png'>",
        encoding="utf-8",
    )
    browser.open(loud)
    assert any("lost" in message for message in browser.messages)
    assert any("broken" in message for message in browser.messages)
    assert any(url.endswith("missing.png") for url in browser.requests)


def test_filters_work_without_a_script(browser, page):
    browser.show(1440)
    browser.open(page)
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate(SHOWN) == 60
    mixed = browser.evaluate("document.querySelectorAll('.card.is-mixed').length")
    both = browser.evaluate(
        "document.querySelectorAll('.card.is-mixed.is-kept').length"
    )
    assert 60 > mixed > both > 0
    click = "document.querySelectorAll('{}').forEach(e => e.click())"
    browser.evaluate(click.format(".f-mixed"))
    assert browser.evaluate(SHOWN) == mixed
    browser.evaluate(click.format(".f-kept"))
    assert browser.evaluate(SHOWN) == both
    browser.evaluate(click.format(".f-mixed, .f-kept"))
    assert browser.evaluate(SHOWN) == 60


def test_it_prints_on_white_even_from_a_dark_screen(browser, page, tmp_path):
    browser.show(794, media="print", dark=True)
    browser.open(page)
    paper = "getComputedStyle(document.body).backgroundColor"
    assert browser.evaluate(paper) == "rgb(255, 255, 255)"
    assert browser.evaluate("document.documentElement.scrollWidth") <= 794
    ratio, where = browser.evaluate(CONTRASTS)
    assert ratio >= 4.5, where
    assert not browser.evaluate("document.querySelector('nav').checkVisibility()")
    pdf = tmp_path / "page.pdf"
    browser.print_pdf(pdf)
    assert pdf.read_bytes().startswith(b"%PDF-")


def test_a_missing_browser_is_a_skip_or_a_failure_if_demanded(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("MPRM_REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no browser in PATH"):
        find_browser()
    monkeypatch.setenv("MPRM_REQUIRE_BROWSER", "1")
    with pytest.raises(pytest.fail.Exception, match="MPRM_REQUIRE_BROWSER is set"):
        find_browser()
