"""The page, for people who want to see what the models do. `python app.py` serves it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from pathlib import Path

import gradio as gr
import scenes
import shelf

from hfgen.core.errors import HfgenError
from hfgen.families.model import Model

HERE = Path(__file__).resolve().parent
TITLE = "Generative models, measured"
INTRODUCTION = """# {title}

VAEs, diffusion models and others of [hfgen](https://github.com/hfgen/hfgen), with what each was measured at. They draw here as you watch."""
SECONDS_A_FRAME = 0.05
PICTURE = {"format": "png", "interactive": False, "show_label": False, "buttons": ["download", "fullscreen"]}
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
WALK = """Move over the map, drag a finger, or use the arrow keys: the picture beside it is what the decoder makes of that point z of
the plane. Cells lie at quantiles of N(0, 1), so that each stands for an equal share of p(z)."""
BOUND = """What was measured on held-out images, ± the standard error over images; a bound is an upper one on the negative log-likelihood. Of a
diffusion model the pictures tell what each step costs: first the term of each t, then what they add up to."""
NO_MODELS = (
    "There are no models here: put their folders into `model_cards/`, or name repositories as `models:` in the card."
)
PLANE_HTML = """<div class="walk">
<div class="map" tabindex="0" role="application" aria-label="map of the plane of latents"><img src="${value.map}" alt=""><i></i></div>
<figure><img class="here" src="${value.here}" alt="the picture of that point"><figcaption>z = (${value.z})</figcaption></figure>
</div>"""
PLANE_CSS = """
.walk { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.map { position: relative; flex: 1 1 16rem; max-width: 35rem; touch-action: none; cursor: crosshair; line-height: 0; }
.map img { width: 100%; height: auto; margin: 0; user-select: none; -webkit-user-drag: none; }
.map i {
  position: absolute; left: 50%; top: 50%; width: 14px; height: 14px; margin: -9px 0 0 -9px; box-sizing: content-box;
  border: 2px solid #ff7c00; border-radius: 50%; box-shadow: 0 0 0 1px #000; pointer-events: none;
}
figure { margin: 0; flex: 0 1 280px; min-width: 9rem; }
figure img { width: 100%; height: auto; margin: 0; display: block; }
figcaption { font-variant-numeric: tabular-nums; padding-top: .4rem; }
"""
# one question at a time is on its way; of points that come meanwhile the last is asked for next
PLANE_JS = """
let at = [0.5, 0.5], next = null, busy = false;
async function ask() {
  if (busy) return;
  busy = true;
  while (next) {
    const [x, y] = next;
    next = null;
    const [picture, z] = await server.decode([props.value.name, x, y]);
    element.querySelector('.here').src = picture;
    element.querySelector('figcaption').textContent = `z = (${z})`;
  }
  busy = false;
}
function go(x, y) {
  at = [x, y].map(share => Math.min(1, Math.max(0, share)));
  const dot = element.querySelector('.map i');
  dot.style.left = `${100 * at[0]}%`;
  dot.style.top = `${100 * at[1]}%`;
  next = at;
  ask();
}
function follow(event) {
  const map = event.target.closest('.map');
  if (!map) return;
  const box = map.getBoundingClientRect();
  go((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}
element.addEventListener('pointermove', follow);
element.addEventListener('pointerdown', follow);
element.addEventListener('keydown', event => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step || !event.target.closest('.map')) return;
  event.preventDefault();
  go(at[0] + step[0] / 50, at[1] + step[1] / 50);
});
"""
TABLE_HTML = """<table>
{{#each value}}<tr><th>{{this.name}}</th><td>{{this.value}}</td></tr>{{/each}}
</table>"""
TABLE_CSS = """
table { border-collapse: collapse; max-width: 100%; }
th, td { border: 0; border-bottom: 1px solid var(--border-color-primary); padding: .35rem .8rem .35rem 0; text-align: left; }
th { font-weight: 400; overflow-wrap: break-word; }
td { white-space: nowrap; font-variant-numeric: tabular-nums; padding-right: 0; }
@media (max-width: 40rem) {
  th, td { display: block; padding: .1rem 0 .4rem; }
  th { border: 0; padding: .4rem 0 0; opacity: .75; }
}
"""


def told(function: Callable) -> Callable:
    """A generator of the page whose `HfgenError` is shown as a message on it."""

    @wraps(function)
    def shown(*values):
        try:
            yield from function(*values)
        except HfgenError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return shown


def played(models: Mapping[str, Model], name: str, wish: scenes.Wish) -> Iterator[tuple]:
    """The pictures as they come, not faster than eyes can follow; then all of them and the slider that goes back and forth in them."""
    pictures = []
    for picture in scenes.moments(models[name], wish):
        pictures.append(picture)
        yield picture, gr.skip(), gr.skip()
        time.sleep(SECONDS_A_FRAME)
    last = len(pictures) - 1
    yield gr.skip(), pictures, gr.Slider(value=last, maximum=max(last, 1), visible=last > 0)


def stage() -> tuple[gr.Image, gr.State, gr.Slider]:
    """Where pictures are played, with the slider of its moments."""
    picture = gr.Image(label="samples", **PICTURE)
    moments = gr.State([])
    moment = gr.Slider(0, 1, 0, step=1, label="from noise to the sample", visible=False)
    moment.input(lambda shown, at: shown[at], [moments, moment], picture, show_progress="hidden")
    return picture, moments, moment


def draw_tab(models: Mapping[str, Model]) -> None:
    """Choose a model, draw, and watch."""
    names = list(models)
    first = models[names[0]]
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            name = gr.Dropdown(names, value=names[0], label="model")
            summary = gr.Markdown(first.summary())
            count = gr.Slider(1, 16, 9, step=1, label="images")
            steps = gr.Slider(1, 250, 20, step=1, label="denoising steps", visible=scenes.has_steps(first))
            classes = gr.Dropdown(
                scenes.class_names(first), multiselect=True, label="classes", visible=bool(scenes.class_names(first))
            )
            guidance = gr.Slider(1, 5, 1.5, step=0.1, label="guidance", visible=scenes.takes_guidance(first))
            seed = gr.Number(0, label="seed", precision=0, minimum=0)
            button = gr.Button("Draw", variant="primary")
        with gr.Column(scale=2, min_width=280):
            shown = stage()

    def chosen(name):
        model, known = models[name], scenes.class_names(models[name])
        return (
            model.summary(),
            gr.Slider(visible=scenes.has_steps(model)),
            gr.Dropdown(known, value=[], visible=bool(known)),
            gr.Slider(visible=scenes.takes_guidance(model)),
        )

    @told
    def draw(name, count, steps, classes, guidance, seed):
        weight = guidance if scenes.takes_guidance(models[name]) else 1.0
        wish = scenes.Wish(
            count=int(count),
            seed=int(seed or 0),
            steps=int(steps),
            guidance_scale=weight,
            class_labels=tuple(classes or ()),
        )
        yield from played(models, name, wish)

    name.change(chosen, name, [summary, steps, classes, guidance])
    button.click(draw, [name, count, steps, classes, guidance, seed], list(shown))


def words_tab(models: Mapping[str, Model]) -> None:
    """Type words, and watch."""
    names = list(models)
    with gr.Row():
        with gr.Column(scale=1, min_width=260):
            name = gr.Dropdown(names, value=names[0], label="model")
            prompt = gr.Textbox(scenes.example_prompt(models[names[0]]), label="words")
            count = gr.Slider(1, 16, 4, step=1, label="images")
            steps = gr.Slider(2, 100, 20, step=1, label="denoising steps")
            guidance = gr.Slider(1, 10, 3, step=0.5, label="guidance")
            seed = gr.Number(0, label="seed", precision=0, minimum=0)
            button = gr.Button("Draw", variant="primary")
        with gr.Column(scale=2, min_width=280):
            shown = stage()

    @told
    def draw(name, prompt, count, steps, guidance, seed):
        if not prompt.strip():
            raise HfgenError("there are no words: type some")
        wish = scenes.Wish(
            count=int(count), seed=int(seed or 0), steps=int(steps), guidance_scale=guidance, prompt=prompt.strip()
        )
        yield from played(models, name, wish)

    name.change(lambda name: scenes.example_prompt(models[name]), name, prompt)
    gr.on([button.click, prompt.submit], draw, [name, prompt, count, steps, guidance, seed], list(shown))


def plane_tab(models: Mapping[str, Model]) -> None:
    """Walk the plane of latents."""
    names = list(models)

    def start(name):
        here, z = scenes.at_point(models[name], 0.5, 0.5)
        whole = scenes.data_url(scenes.plane_map(models[name]))
        return {"name": name, "map": whole, "here": scenes.data_url(here), "z": z_words(z)}

    def decode(point):
        name, right, down = point
        image, z = scenes.at_point(models[name], right, down)
        return scenes.data_url(image), z_words(z)

    name = gr.Dropdown(names, value=names[0], label="model", visible=len(names) > 1)
    gr.Markdown(WALK)
    plane = gr.HTML(
        start(names[0]),
        html_template=PLANE_HTML,
        css_template=PLANE_CSS,
        js_on_load=PLANE_JS,
        server_functions=[decode],
    )
    name.change(start, name, plane)


def z_words(z: tuple[float, float]) -> str:
    """A point for people."""
    return f"{z[0]:+.2f}, {z[1]:+.2f}"


def bound_tab(models: Mapping[str, Model]) -> None:
    """What was measured, and the terms of the bound."""
    results = {name: found for name, model in models.items() if (found := scenes.results_of(model)) is not None}
    names = sorted(results, key=lambda name: not scenes.has_terms(results[name]))

    def parts(name):
        result = results[name]
        pictures = scenes.terms(result) if scenes.has_terms(result) else (None, None)
        return *scenes.measured(result), *pictures

    def chosen(name):
        line, rows, *pictures = parts(name)
        return line, rows, *(gr.Image(picture, visible=picture is not None) for picture in pictures)

    gr.Markdown(BOUND)
    name = gr.Dropdown(names, value=names[0], label="model")
    line, rows, *terms = parts(names[0])
    line = gr.Markdown(line)
    with gr.Row():
        pictures = [gr.Image(term, visible=term is not None, min_width=280, **PICTURE) for term in terms]
    table = gr.HTML(rows, html_template=TABLE_HTML, css_template=TABLE_CSS, apply_default_css=False)
    name.change(chosen, name, [line, table, *pictures])


def build(models: Mapping[str, Model]) -> gr.Blocks:
    """The page of these models: a tab for what at least one of them can do."""
    tabs = {
        "Draw": (draw_tab, shelf.drawing(models)),
        "Words": (words_tab, shelf.of_words(models)),
        "Plane": (plane_tab, shelf.planes(models)),
        "Bound": (bound_tab, {name: model for name, model in models.items() if scenes.results_of(model)}),
    }
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(INTRODUCTION.format(title=TITLE))
        if not models:
            gr.Markdown(NO_MODELS)
        for title, (tab, able) in tabs.items():
            if able:
                with gr.Tab(title):
                    tab(able)
    return page


if __name__ == "__main__":
    build(shelf.load_all(shelf.places(HERE))).launch(theme=THEME)
