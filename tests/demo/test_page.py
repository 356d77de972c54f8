"""The demo page itself, where gradio is installed, and in a headless Chromium, where that and playwright are."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import hfgen

NO_GRADIO = "gradio is not installed: `make space` makes an environment that has it"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 120


@pytest.fixture(scope="module")
def app(demo):
    pytest.importorskip("gradio", reason=NO_GRADIO)
    return demo("app")


@pytest.fixture(scope="module")
def url(app, models):
    page = app.build(models)
    _, address, _ = page.launch(theme=app.THEME, prevent_thread_lock=True, quiet=True)
    yield address
    page.close()


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if BROWSER is None:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def tab(request, chromium, url):
    """The page in a browser, and what went wrong in it or was asked of other machines."""
    page = chromium.new_page(viewport={"width": 1200, "height": 900}, color_scheme=request.param)
    page.set_default_timeout(SECONDS * 1000)
    found = []
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith((url, "data:", "blob:")) else found.append(asked.url))
    page.goto(url)
    yield SimpleNamespace(page=page, found=found, scheme=request.param)
    page.close()


def test_what_the_space_installs_is_this_version():
    head = yaml.safe_load((Path(hfgen.__file__).parents[1] / "demo" / "README.md").read_text().split("---")[1])
    wanted = (Path(hfgen.__file__).parents[1] / "demo" / "requirements.txt").read_text().splitlines()
    assert wanted[-1] == f"hfgen @ git+https://github.com/hfgen/hfgen@v{hfgen.__version__}"
    assert (head["sdk"], head["app_file"]) == ("gradio", "app.py")
    assert len(head["short_description"]) <= 60  # the Hub takes no longer one


def test_a_tab_for_what_the_models_can_do(app, models):
    def titles(chosen):
        parts = app.build({name: models[name] for name in chosen}).get_config_file()["components"]
        return [part["props"]["label"] for part in parts if part["type"] == "tabitem"]

    assert titles(["plane", "steps", "words"]) == ["Draw", "Words", "Plane", "Bound"]
    assert titles(["room"]) == ["Draw"]
    assert titles([]) == []


def looks_right(tab, name, out):
    """As wide as the screen, on a desk and on a phone."""
    for width in (1200, 390):
        tab.page.set_viewport_size({"width": width, "height": 900})
        tab.page.wait_for_timeout(300)
        assert tab.page.evaluate("document.documentElement.scrollWidth") == width
        tab.page.screenshot(path=out / f"{tab.scheme}-{width}-{name}.png", full_page=True)


@pytest.mark.slow
def test_people_draw_and_walk(tab, tmp_path):
    page = tab.page
    page.get_by_role("button", name="Draw", exact=True).click()
    page.wait_for_function("document.querySelector('.image-frame img, .image-container img')?.naturalWidth > 100")
    looks_right(tab, "draw", tmp_path)
    page.set_viewport_size({"width": 1200, "height": 900})
    page.get_by_role("tab", name="Plane").click()
    here, told = page.locator("img.here"), page.locator("figcaption")
    before = here.get_attribute("src")
    box = page.locator(".map").bounding_box()
    page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 0.3 * box["height"])
    told.filter(has_text="z = (+1.28, +0.52)").wait_for()  # the 0.9 and 0.7 quantiles of N(0, 1)
    assert here.get_attribute("src") != before
    page.locator(".map").focus()
    page.keyboard.press("ArrowLeft")
    told.filter(has_text="z = (+1.17, +0.52)").wait_for()  # the 0.88 quantile
    looks_right(tab, "plane", tmp_path)
    page.get_by_role("tab", name="Bound").click()
    page.get_by_text("1.678 ± 0.001 bits/dim").wait_for()
    looks_right(tab, "bound", tmp_path)
    assert tab.found == []


@pytest.mark.slow
def test_what_a_model_cannot_do_is_told_on_the_page(tab):
    page = tab.page
    page.get_by_label("model").first.click()
    page.get_by_role("option", name="steps").click()
    page.get_by_label("denoising steps").first.fill("26")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text("steps=26: ").first.wait_for()
