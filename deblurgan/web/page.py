"""The page: what is on it, and what its buttons do."""

from __future__ import annotations

import html
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deblurgan import images
from deblurgan.inference import Deblurrer
from deblurgan.web import playground, work

if TYPE_CHECKING:
    import gradio as gr

CSS = """
.gradio-container, .gradio-container > main { max-width: 1080px !important; width: 100%; margin: auto; }
.prose h1 { margin: 0 !important; }
.prose h1 + p { margin: 4px 0 0 !important; }
.kernel img { image-rendering: pixelated; background: black; }
.summary { text-align: center; font-variant-numeric: tabular-nums; }
"""


def build(deblurrer: Deblurrer, folder: Path) -> gr.Blocks:
    """The page, whose results lie below `folder`, which must be gradio's own (GRADIO_TEMP_DIR) for it to serve them."""
    import gradio as gr

    with gr.Blocks(title="deblurgan", analytics_enabled=False) as page:
        gr.Markdown("# deblurgan\nSharpens photos that are blurred by camera shake. They stay on this machine.")
        with gr.Tab("Deblur a photo"):
            _deblur_tab(deblurrer, folder)
        with gr.Tab("Camera shake"):
            _shake_tab(deblurrer, folder)
    return page.queue(max_size=200)


def appearance() -> dict[str, Any]:
    """What `launch` takes of the page's looks. The fonts are the system's, so that none is fetched."""
    import gradio as gr

    font, mono = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
    return {"theme": gr.themes.Default(primary_hue="teal", neutral_hue="slate", font=font, font_mono=mono), "css": CSS}


def _deblur_tab(deblurrer: Deblurrer, folder: Path) -> None:
    import gradio as gr

    photo = gr.File(show_label=False, height=260, elem_id="photo")
    with gr.Column(visible=False) as result:
        with gr.Row():
            whole = _slider("Before | after", scale=2, elem_id="whole")
            detail = _slider("Detail at 100 %", scale=1, elem_id="detail")
        summary = gr.Markdown(elem_classes="summary", elem_id="summary")
        download = gr.DownloadButton("Download", variant="primary", elem_id="download")

    def deblur(upload: dict[str, Any], bar: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        source = Path(upload["path"])
        with _errors_in_words(source.name):
            restored = work.restore(
                deblurrer, source, _new_folder(folder), progress=lambda share: bar(share, desc="Restoring")
            )
        named = gr.DownloadButton(f"Download {restored.file.name}", value=str(restored.file))
        return [gr.Column(visible=True), restored.whole, restored.detail, html.escape(restored.summary), named]

    def hide() -> gr.Column:
        return gr.Column(visible=False)

    photo.clear(hide, outputs=result, queue=False, api_visibility="private")
    photo.upload(hide, outputs=result, queue=False, api_visibility="private").then(
        deblur,
        inputs=photo,
        outputs=[result, whole, detail, summary, download],
        preprocess=False,  # gradio's would leave an empty file each time
        show_progress_on=photo,
        api_name="deblur",
    )


def _shake_tab(deblurrer: Deblurrer, folder: Path) -> None:
    import gradio as gr

    first = playground.Shake()
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            kernel = gr.Image(
                first.drawn(),
                label="Kernel",
                height=260,
                format="png",
                interactive=False,
                buttons=[],
                elem_classes="kernel",
                elem_id="kernel",
            )
            with gr.Row(equal_height=True):
                seed = gr.Number(first.seed, label="Seed", precision=0, minimum=0, min_width=100, elem_id="seed")
                new = gr.Button("New shake", min_width=100)
            exposure = gr.Slider(0.05, 1, first.exposure, step=0.05, label="Exposure (share of path)")
            length = gr.Slider(5, 120, first.length, step=1, label="Path length (px)")
            anxiety = gr.Slider(0, 0.02, first.anxiety, step=0.001, label="Anxiety (0: straight)")
        with gr.Column(scale=2, min_width=320):
            slider = _slider("Blurred | restored", elem_id="shaken")
            summary = gr.Markdown(elem_classes="summary", elem_id="psnr")
            run = gr.Button("Blur and restore", variant="primary", elem_id="run")
            with gr.Accordion("A sharp picture of your own", open=False):
                sharp = gr.File(show_label=False, height=120)

    def draw(*numbers: Any) -> Any:
        with _errors_in_words("shake"):
            return playground.Shake(*numbers).drawn()

    def shake(upload: dict[str, Any] | None, *numbers: Any) -> list[Any]:
        source = playground.DEMO_PICTURE if upload is None else Path(upload["path"])
        with _errors_in_words(source.name):
            shaken = playground.shake_and_restore(deblurrer, playground.Shake(*numbers), source, _new_folder(folder))
        return [shaken.pair, shaken.summary]

    numbers: list[Any] = [seed, exposure, length, anxiety]
    gr.on([number.change for number in numbers], draw, numbers, kernel, show_progress="hidden", api_name="draw")
    new.click(lambda: secrets.randbelow(10_000), outputs=seed, queue=False, api_visibility="private")
    run.click(shake, [sharp, *numbers], [slider, summary], preprocess=False, show_progress_on=slider, api_name="shake")


def _slider(label: str, **place: Any) -> gr.ImageSlider:
    import gradio as gr

    return gr.ImageSlider(label=label, interactive=False, max_height=520, buttons=["fullscreen"], **place)


def _new_folder(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=folder))


@contextmanager
def _errors_in_words(subject: str) -> Iterator[None]:
    """Shows what a bad picture or number raises as a message on the page, which stays until it is closed."""
    import gradio as gr

    try:
        yield
    except (*images.FAILURES, TypeError) as error:
        message = html.escape(images.printable(f"{subject}: {images.failure_reason(error)}"))
        raise gr.Error(message, duration=None, print_exception=False) from error
