"""The page: its fields, its parts, and which click does what."""

import shutil
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import gradio as gr

from flashdiffusion.app import figures
from flashdiffusion.app.choice import DEFAULT, METHODS, QUALITIES
from flashdiffusion.app.clicks import NONE, Clicks, choice_of, example, refused, words
from flashdiffusion.app.damages import DAMAGES, FACES, PHOTOGRAPHS, Damage, damages_for
from flashdiffusion.app.run import Stopped
from flashdiffusion.errors import FlashDiffusionError

TITLE = "Flash-Diffusion"
MODELS = [("A face, cropped to 128 x 128 pixels (faces-128)", FACES), ("Any photograph (photos)", PHOTOGRAPHS)]
ORIGINS = [("Is whole: damage it, then restore it", "whole"), ("Came damaged: restore it", "damaged")]
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif"]  # none is fetched
MONO = ["ui-monospace", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace"]
# Parts of the page that hold a result, by what `words` calls them; hidden until there is one.
OPTIONAL = ("map", "tiles", "compare", "compared", "samples", "spread", "deviation")


def theme() -> gr.themes.Base:
    """Colours of enough contrast, fonts of the machine."""
    return gr.themes.Base(
        primary_hue="indigo", secondary_hue="indigo", neutral_hue="slate", radius_size="md", font=FONTS, font_mono=MONO
    ).set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_text_color="white",
    )


def style() -> str:
    """The page's own style."""
    return (files("flashdiffusion") / "assets" / "app" / "page.css").read_text()


def build(clicks: Clicks) -> gr.Blocks:
    """Lay out the page, and say what its clicks do."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600), fill_width=True) as page:
        _html(_header(), "top")
        with gr.Row(equal_height=False, elem_id="columns"):
            with gr.Column(scale=5, min_width=320, elem_id="fields"):
                fields = _fields(clicks)
            with gr.Column(scale=7, min_width=320, elem_id="results"):
                parts = _parts()
        _wire(page, clicks, fields, parts)
    # One more than `Runs` lets in line, so that none is turned away here, with a ticket that nobody takes.
    page.queue(max_size=clicks.limits.waiting + 1, default_concurrency_limit=1)
    return page


def _header() -> str:
    return (
        "<header><h1>Flash-Diffusion</h1><p>Restores a damaged picture in as many diffusion steps as it needs. "
        "Pick a picture, say what is wrong with it, and press Restore.</p></header>"
    )


def _welcome() -> str:
    return (
        "<p>The result appears here:</p><ol><li>what was measured, and how badly it is damaged: its <b>severity</b>, "
        "predicted by a network in one look</li><li>the picture while diffusion runs, from the step that the severity "
        "calls for</li><li>before and after, with figures of quality and cost, downloads, and the command that makes "
        "the same</li></ol>"
    )


# -- what can be said ---------------------------------------------------------------------------------------


def _fields(clicks: Clicks) -> dict[str, Any]:
    first, portrait, limits = DAMAGES["blur"], example(FACES), clicks.limits
    found: dict[str, Any] = {"path": gr.State(str(portrait))}
    # Of a click; sent with it. (A state would be read when its turn comes, and be that of a later click.)
    found["ticket"] = gr.Textbox(visible="hidden", label="Ticket", elem_id="ticket")
    _html("<h2>1. Picture</h2>")
    found["picture"] = gr.Image(
        str(portrait),
        label=f"Drop a picture: up to {limits.megabytes:g} MB, {limits.megapixels:g} megapixels",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        height=260,
        buttons=[],
        elem_id="picture",
        alt_text="The picture to restore",
    )
    # The file as it came: this library reads it, and says what is wrong with it. A subclass would have Gradio write a
    # stub file beside this one. An update of its properties would make it anew, without this: it is given values alone.
    found["picture"].preprocess = lambda payload: None if payload is None else payload.path
    with gr.Row():
        found["portrait"] = gr.Button(
            "Example: a portrait", size="sm", min_width=120, icon=str(portrait), elem_id="portrait"
        )
        photograph = str(example(PHOTOGRAPHS))
        found["photograph"] = gr.Button(
            "Example: a photograph", size="sm", min_width=120, icon=photograph, elem_id="photograph"
        )
    found["model"] = gr.Radio(MODELS, value=FACES, label="What it shows", elem_id="model")
    _html("<h2>2. Damage</h2>")
    found["origin"] = gr.Radio(ORIGINS, value="whole", label="The picture", elem_id="origin")
    found["damage"] = gr.Dropdown(
        _damages(FACES, False), value=first.name, label="Kind of damage", filterable=False, elem_id="damage"
    )
    found["strength"] = _slider(first, 0, "strength")
    found["second"] = _slider(first, 1, "second")
    # Hidden and shown by the box around it, for the same reason.
    with gr.Group(visible=False) as found["canvas"]:
        drawing = found["drawing"] = gr.ImageEditor(
            label="Draw over the parts that are missing",
            type="numpy",
            image_mode="RGBA",
            sources=[],
            transforms=[],
            layers=False,
            brush=gr.Brush(default_size=12, colors=["#e11d48"], color_mode="fixed"),
            buttons=[],
            height=360,
            elem_id="drawing",
        )
    drawing.preprocess = lambda payload: _layers(drawing, payload)  # decoded if the damage asks for it
    found["estimated"] = gr.Checkbox(True, label="Estimate the noise from the picture", visible=False, elem_id="auto")
    found["noise"] = gr.Slider(
        0, 0.3, first.noise_std, step=0.005, label="Noise: standard deviation, of values in [0, 1]", elem_id="noise"
    )
    with gr.Accordion("3. Method, samples, seed", open=False, elem_id="more"):
        found["method"] = gr.Dropdown(_methods(FACES), value=DEFAULT, label="Method", filterable=False)
        found["other"] = gr.Dropdown(
            [("none", NONE), *_methods(FACES)], value=NONE, label="Beside it, to compare", filterable=False
        )
        found["quality"] = gr.Radio(QUALITIES, value="balanced", label="Quality of proximal: fewer or more steps")
        found["samples"] = gr.Slider(1, limits.samples, 1, step=1, label="Samples: as many answers to the same picture")
        found["seed"] = gr.Number(0, label="Seed", precision=0, minimum=0)
    with gr.Row(elem_id="actions"):
        found["restore"] = gr.Button("Restore", variant="primary", elem_id="restore", scale=3, min_width=140)
        found["stop"] = gr.Button("Stop", variant="secondary", elem_id="stop", scale=1, min_width=90)
    return found


def _layers(editor: Any, payload: Any) -> list[str | bytes]:
    """What was drawn, layer by layer, as it was sent: image files, or their content."""
    if payload is None:
        return []
    if payload.id is None:
        return [one.path for one in payload.layers]
    sent = editor.blob_storage.pop(payload.id, None)
    return [] if sent is None else [one for one in sent.layers if one]  # some are empty


def _slider(damage: Damage, place: int, name: str) -> Any:
    return gr.Slider(**_strength(damage, place), elem_id=name)


def _strength(damage: Damage, place: int) -> dict[str, Any]:
    """What a slider is for the strength of a damage at this place; hidden where it has none."""
    if place >= len(damage.strengths):
        return {"minimum": 0, "maximum": 1, "value": 0, "step": 1, "label": "Strength", "visible": False}
    one = damage.strengths[place]
    return {"minimum": one.low, "maximum": one.high, "value": one.usual, "step": one.step, "label": one.label} | {
        "visible": True
    }


def _damages(model: str, damaged: bool) -> list[tuple[str, str]]:
    return [(one.label, one.name) for one in damages_for(model, damaged)]


def _methods(model: str) -> list[tuple[str, str]]:
    return [(label, name) for name, label in METHODS[model].items()]


# -- what is shown ------------------------------------------------------------------------------------------


def _parts() -> dict[str, Any]:
    found: dict[str, Any] = {
        "status": _html(figures.status("Ready"), "status"),
        "welcome": _html(_welcome(), "welcome"),
    }
    with gr.Row(visible=False, elem_id="looks") as found["looks"]:
        found["measured"] = _image("What was measured", "measured", "The measurement")
        found["live"] = _html("", "live")
    with gr.Column(visible=False) as found["ends"]:
        found["slider"] = _pair("Before and after: drag the line", "slider")
        found["results"] = _html("", "figures")
        with gr.Row():
            found["result_file"] = gr.DownloadButton(
                "Download the result", elem_id="download", size="sm", min_width=140
            )
            found["bundle_file"] = gr.DownloadButton(
                "Download all, with the command", elem_id="bundle", size="sm", min_width=140
            )
        found["command"] = gr.Code(
            label="The same on the command line, in the folder of that download",
            language=None,  # the colours of shell are too pale to read
            interactive=False,
            lines=2,
            wrap_lines=True,
            show_line_numbers=False,
            elem_id="command",
        )
    with gr.Column(visible=False) as found["seen"]:
        found["severity"] = _html("", "severity")
        with gr.Row():
            found["map"] = _image("Where errors are expected: blue few, yellow many", "map", "The severity map")
            found["tiles"] = _image("Steps of each tile: blue few, yellow many", "tiles", "The steps of each tile")
    found["compared"] = _html("", "compared", visible=False)
    found["compare"] = _pair("The two methods: drag the line", "compare", visible=False)
    found["deviation"] = _html("", "deviation", visible=False)
    found["samples"] = gr.Gallery(
        label="Samples", columns=3, visible=False, buttons=[], elem_id="samples", height="auto"
    )
    spread = "Where samples differ: blue little, yellow by 0.1 or more"
    found["spread"] = _image(spread, "spread", "How samples differ", False)
    return found


def _html(value: str, name: str | None = None, **more: Any) -> Any:
    return gr.HTML(value, elem_id=name, apply_default_css=False, min_width=160, **more)


def _image(label: str, name: str, alt: str, visible: bool = True) -> Any:
    look: dict[str, Any] = {"visible": visible, "min_width": 160, "buttons": ["fullscreen"], "height": 260}
    return gr.Image(label=label, interactive=False, elem_id=name, alt_text=alt, **look)


def _pair(label: str, name: str, visible: bool = True) -> Any:
    return gr.ImageSlider(
        label=label, interactive=False, buttons=["fullscreen"], elem_id=name, visible=visible, max_height=560
    )


# -- which click does what -----------------------------------------------------------------------------------


def _wire(page: gr.Blocks, clicks: Clicks, fields: dict[str, Any], parts: dict[str, Any]) -> None:
    picture, path, drawing = fields["picture"], fields["path"], fields["drawing"]
    kind = [fields[name] for name in ("model", "origin", "damage")]
    shown = {"drawing": drawing, "picture": picture, "path": path, "status": parts["status"]}
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}

    def take(file: str | None, request: gr.Request) -> dict[Any, Any]:
        """A picture is there: check it, and show it."""
        if file is None:
            return {path: None, drawing: None}
        try:
            seen = clicks.preview(file, _visitor(request))
        except FlashDiffusionError as error:
            return {picture: None, path: None, drawing: None, parts["status"]: figures.status(str(error), "error")}
        ready = figures.status(f"{Path(file).name} is there; say what is wrong with it")
        return {picture: seen, path: file, drawing: _background(seen), parts["status"]: ready}

    def bundled(model: str) -> Callable[[gr.Request], dict[Any, Any]]:
        def taken(request: gr.Request) -> dict[Any, Any]:
            return take(str(example(model)), request) | {fields["model"]: model}

        return taken

    def cleared(request: gr.Request) -> dict[Any, Any]:
        return take(None, request)

    def first(request: gr.Request) -> Any:
        return _background(clicks.preview(example(FACES), _visitor(request)))

    picture.upload(take, picture, [*shown.values()], **quick)
    picture.clear(cleared, None, [path, drawing], **quick)
    for name, model in (("portrait", FACES), ("photograph", PHOTOGRAPHS)):
        one = fields[name].click(bundled(model), None, [*shown.values(), fields["model"]], **quick)
        one.then(_kinds(fields), kind, _kind_fields(fields), **quick)
    for name in ("model", "origin"):
        fields[name].input(_kinds(fields), kind, _kind_fields(fields), **quick)
    fields["damage"].input(_strengths(fields), kind, _kind_fields(fields), **quick)
    fields["estimated"].input(lambda on: gr.update(visible=not on), fields["estimated"], fields["noise"], **quick)
    page.load(first, None, drawing, **quick)

    def ask(request: gr.Request) -> str:
        try:
            return clicks.runs.ask(_visitor(request))
        except FlashDiffusionError as error:
            raise gr.Error(str(error), print_exception=False) from error

    fields["restore"].click(ask, None, fields["ticket"], queue=False, show_progress="hidden", api_name="ask").success(
        _restoring(clicks, parts),
        [fields[name] for name in _ORDER],
        [*parts.values()],
        concurrency_limit=1,
        trigger_mode="multiple",  # else one that follows a stop would be dropped where that is not heard yet
        show_progress="minimal",
        show_progress_on=parts["status"],
        api_name="restore",
    )

    on_phones = "() => { if (innerWidth < 720) document.querySelector('#results').scrollIntoView() }"
    fields["restore"].click(None, None, None, js=on_phones, **quick)

    def stop(request: gr.Request) -> str:
        stopped = clicks.runs.stop(_visitor(request))
        return figures.status("Stopped" if stopped else "Nothing is running")

    fields["stop"].click(stop, None, parts["status"], **quick)

    def left(request: gr.Request) -> None:
        clicks.left(_visitor(request))

    page.unload(left)


def _visitor(request: gr.Request) -> str:
    return request.session_hash or ""


def _background(file: str) -> dict[str, Any]:
    return {"background": file, "layers": [], "composite": None}


def _kind_fields(fields: dict[str, Any]) -> list[Any]:
    names = ("damage", "strength", "second", "canvas", "estimated", "noise", "method", "other")
    return [fields[name] for name in names]


def _kinds(fields: dict[str, Any]) -> Callable[[str, str, str], dict[Any, Any]]:
    """Another model, or another origin: what can be chosen changes."""

    def changed(model: str, origin: str, damage: str) -> dict[Any, Any]:
        known = _damages(model, origin == "damaged")
        damage = damage if damage in dict((name, label) for label, name in known) else known[0][1]
        methods = _methods(model)
        return _strengths(fields)(model, origin, damage) | {
            fields["damage"]: gr.update(choices=known, value=damage),
            fields["method"]: gr.update(choices=methods, value=DEFAULT),
            fields["other"]: gr.update(choices=[("none", NONE), *methods], value=NONE),
        }

    return changed


def _strengths(fields: dict[str, Any]) -> Callable[[str, str, str], dict[Any, Any]]:
    """Another damage: its sliders, its noise, and whether it is drawn."""

    def changed(model: str, origin: str, damage: str) -> dict[Any, Any]:
        one, damaged = DAMAGES[damage], origin == "damaged"
        estimated = damaged and one.told is None
        return {
            fields["strength"]: gr.update(**_strength(one, 0)),
            fields["second"]: gr.update(**_strength(one, 1)),
            fields["canvas"]: gr.update(visible=one.masked),
            fields["estimated"]: gr.update(value=estimated, visible=damaged),
            fields["noise"]: gr.update(value=one.told or 0 if damaged else one.noise_std, visible=not estimated),
        }

    return changed


_ORDER = (
    *("ticket", "path", "drawing", "model", "origin", "damage", "strength", "second", "noise", "estimated"),
    *("method", "other", "quality", "samples", "seed"),
)


def _restoring(clicks: Clicks, parts: dict[str, Any]) -> Callable[..., Iterator[dict[Any, Any]]]:
    def restore(
        ticket: str,
        path: str | None,
        drawn: Any,
        model: str,
        origin: str,
        damage: str,
        strength: float,
        second: float,
        noise: float,
        estimated: bool,
        method: str,
        other: str,
        quality: str,
        samples: float,
        seed: float | None,
        request: gr.Request,
    ) -> Iterator[dict[Any, Any]]:
        visitor, folder = _visitor(request), Path(mkdtemp(dir=clicks.folder))

        def keep(name: str, data: bytes) -> str:
            (folder / name).write_bytes(data)
            return str(folder / name)

        try:
            yield {parts["status"]: figures.status("Looking at the picture", "busy")} | _hidden(parts)
            damaged = origin == "damaged"
            given = model, damaged, damage, (strength, second), noise, estimated, method, other, quality, samples, seed
            for found in words(clicks.begin(visitor, ticket, path, drawn, choice_of(*given)), keep):
                yield _updates(parts, found)
        except Stopped:
            yield {parts["status"]: figures.status("Stopped")}
        except FlashDiffusionError as error:
            yield _updates(parts, refused(error))
        finally:
            clicks.runs.leave(ticket)
            shutil.rmtree(folder, ignore_errors=True)  # Gradio has copies of what it shows

    return restore


def _hidden(parts: dict[str, Any]) -> dict[Any, Any]:
    """What a result was shown in, before there is one."""
    return {parts[name]: gr.update(visible=False) for name in ("welcome", "looks", "ends", "seen", *OPTIONAL)}


def _updates(parts: dict[str, Any], found: dict[str, Any]) -> dict[Any, Any]:
    """Values of parts of the page, with those shown that have one."""
    updates: dict[Any, Any] = {}
    for name, value in found.items():
        visible = {"visible": bool(value)} if name in OPTIONAL else {}
        updates[parts[name]] = gr.update(value=value, **visible)
    for name, part in (("looks", "measured"), ("seen", "severity"), ("ends", "slider")):
        if found.get(part):
            updates[parts[name]] = gr.update(visible=True)
    if "slider" in found:
        updates[parts["looks"]] = gr.update(visible=False)
    return updates
