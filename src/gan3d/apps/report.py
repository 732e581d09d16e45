"""`report.html`: a self-contained page of a run with curves, pictures, videos and config."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass
from pathlib import Path

from gan3d.apps.curves import Curve, curve_svg
from gan3d.apps.page import page, shown, small_url
from gan3d.apps.run_files import RunFiles, read_run
from gan3d.results import refuse_existing, write_whole

GENERATED = '<meta name="generator" content="gan3d report">'
MAX_MOMENTS = 6  # pictures of the progress of a run


def write_report(run_dir: str | Path, *, overwrite: bool = False) -> Path:
    """Writes `report.html` into a run folder, atomically; returns its path.

    A report that this function wrote is replaced.

    Args:
        run_dir: folder of the run.
        overwrite: replace a `report.html` of another origin, too.

    Raises:
        ValueError: the folder has neither metrics nor pictures, or the page is somebody else's.
    """
    path = Path(run_dir) / "report.html"
    refuse_existing([path], overwrite or _is_ours(path))
    run = read_run(Path(run_dir))
    if not (run.columns or run.pictures):
        raise ValueError(
            f"{run_dir} holds neither metrics.csv nor pictures; give the folder of a run"
        )
    sections = (
        _head(run),
        _compared(run),
        _results(run),
        _progress(run),
        _curves(run),
        _training(run),
        _config(run),
    )
    body = "\n".join(section for section in sections if section)
    text = page(run.dir.resolve().name, body, generator=GENERATED)
    return write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _is_ours(path: Path) -> bool:
    """Whether a file is a page that was generated here."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return GENERATED in file.read(1000)


def report(run_dir: str | Path, overwrite: bool = False) -> str:
    """Makes an HTML report of a run: curves, pictures, videos, key figures, config.

    Args:
        run_dir: folder of the run; `report.html` is written into it.
        overwrite: replace a `report.html` that is no earlier report, too.

    Returns:
        The key figures and the path of the report, for the console.
    """
    path = write_report(run_dir, overwrite=overwrite)
    figures = key_figures(read_run(Path(run_dir)))
    width = max((len(number) for number, _ in figures), default=0)
    return "\n".join([*(f"{number:>{width}}  {what}" for number, what in figures), str(path)])


# -- sections --------------------------------------------------------------------------------------


def _head(run: RunFiles) -> str:
    """The title and the key figures."""
    tiles = ""
    for figure, what in key_figures(run):
        tiles += f'<div class="tile"><div class="figure">{figure}</div>'
        tiles += f'<div class="what">{html.escape(what)}</div></div>'
    return f"<h1>{html.escape(run.dir.resolve().name)}</h1>\n<div class='tiles'>{tiles}</div>"


def key_figures(run: RunFiles) -> list[tuple[str, str]]:
    """(number, description) of the key figures that the run has logged."""
    figures = []

    # length
    steps = [points[-1][0] for points in run.columns.values() if points]
    if steps:
        figures.append((f"{max(steps) / 1000:,.6g}", "thousand images seen"))

    # distance
    distances = run.columns.get("distance/frechet", [])
    if distances:
        first, last = distances[0][1], distances[-1][1]
        step, best = min(distances, key=lambda point: point[1])
        figures.append((f"{last:.3g}", "Frechet distance at the end (not FID)"))
        if len(distances) > 1:
            figures.append((f"{100 * last / first:.3g} %", "of the distance at the start"))
        if best < last:
            figures.append((f"{best:.3g}", f"best Frechet distance, at {step / 1000:,.6g} kimg"))
        mean_image = run.columns.get("distance/mean_image", [])
        if mean_image:
            share = 100 * last / mean_image[-1][1]
            figures.append((f"{share:.3g} %", "of the mean image's distance"))

    # last values
    for name, what in (
        ("distance/floor", "floor: real images against real images"),
        ("distance/mean_image", "the mean image's distance"),
        ("heads/face_convex", "share of convex faces"),
        ("heads/face_slope", "relief of the face (right 1, flat 0, hollow -1)"),
        ("heads/body_convex", "share of convex heads, with shoulders"),
        ("heads/background_behind", "background behind the face, camera radii (true heads: 0.32)"),
        ("heads/turn", "turn of the head per turn of the camera (right 1)"),
        ("alarm/flatness", "relief of the heads, camera radii (a plane: 0)"),
        ("alarm/bulge", "center before the rim, camera radii"),
        ("alarm/opaque", "share of opaque pixels (fog: 0)"),
        ("alarm/z_sensitivity", "how much z changes the image (collapse: 0)"),
        ("alarm/camera_leak", "camera leak (the head follows the camera: 1)"),
    ):
        if run.columns.get(name):
            value = run.columns[name][-1][1]
            if name == "alarm/bulge" and "heads/face_convex" not in run.columns:
                what = f"{'hollow' if value < 0 else 'not hollow'}: {what}"
            if name == "heads/face_convex":
                what = f"{'hollow or flat: ' if value < 0.5 else ''}{what}"
            if name == "heads/turn":
                what = f"{'do not turn: ' if value < 0.2 else ''}{what}"
            figures.append((f"{value:.3g}", what))

    # speed and memory
    speeds = sorted(value for _, value in run.columns.get("speed/images_per_second", []))
    if speeds:
        figures.append((f"{speeds[len(speeds) // 2]:,.3g}", "images per second (median)"))
    memory = run.columns.get("memory/peak_gib", [])
    if memory:
        figures.append((f"{max(value for _, value in memory):.3g}", "GiB of memory at the peak"))
    return figures


CAPTIONS = {
    "fakes": "Heads of the averaged generator, each seen from its own camera.",
    "layers": "Each head as the volume renderer draws it (if there is super-resolution), as the "
    "final image, and its depth: near is bright, all heads on one scale, white is background.",
    "reals": "Real heads, held out from training.",
    "logit_histogram": "The discriminator's logits of fakes and of held-out images.",
    "pose_histogram": "Yaw and pitch of the set's labels, and as read of fakes.",
    "orbit": "The camera moves, the head should not change. Below the images: depth.",
}


def _results(run: RunFiles) -> str:
    """The last video and the last pictures, large."""
    figures = ""
    for key, videos in run.videos.items():
        step, path = videos[-1]
        figures += _figure(shown(path, key), key, step)
    for key, pictures in run.pictures.items():
        step, path = pictures[-1]
        figures += _figure(shown(path, key), key, step)
    return f"<h2>Results</h2>\n<div class='results'>{figures}</div>" if figures else ""


def _compared(run: RunFiles) -> str:
    """Trained models, to be seen before what this run has made."""
    figures = ""
    for path in run.compared:
        caption = f"{html.escape(path.parent.name)}, trained before: {html.escape(path.stem)}."
        figures += f"<figure>{shown(path, path.stem)}<figcaption>{caption}</figcaption></figure>"
    if not figures:
        return ""
    return f"<h2>A trained model</h2>\n<div class='results'>{figures}</div>"


def _training(run: RunFiles) -> str:
    """What was trained, on which machine, and the command that does it again."""
    if not run.plan:
        return ""
    rows = "".join(
        f"<tr><th>{html.escape(subject)}</th><td>{html.escape(text)}</td></tr>"
        for subject, text in run.plan.items()
    )
    again = f"lightning fit --config {run.dir / 'config.yaml'} --run_dir ANOTHER_FOLDER"
    rows += f"<tr><th>again</th><td><code>{html.escape(again)}</code></td></tr>"
    return f"<h2>How it was trained</h2>\n<table>{rows}</table>"


def _progress(run: RunFiles) -> str:
    """The same heads at several moments of the run."""
    moments = spread(run.pictures.get("fakes", []), MAX_MOMENTS)
    if len(moments) < 2:
        return ""
    figures = ""
    for step, path in moments:
        figures += f'<figure><img alt="fakes" src="{small_url(path)}">'
        figures += f"<figcaption>{step / 1000:,.6g} kimg</figcaption></figure>"
    return f"<h2>Progress of training</h2>\n<div class='progress'>{figures}</div>"


def spread(moments: list[tuple[int, Path]], num: int) -> list[tuple[int, Path]]:
    """At most `num` moments including both ends, evenly spaced in sqrt(images)."""
    if len(moments) <= num:
        return moments
    roots = [math.sqrt(step) for step, _ in moments]
    wanted = [roots[0] + (roots[-1] - roots[0]) * i / (num - 1) for i in range(num)]
    chosen = {min(range(len(roots)), key=lambda i: abs(roots[i] - root)) for root in wanted}
    return [moments[i] for i in sorted(chosen)]


@dataclass(frozen=True)
class Plot:
    """A plot of logged numbers.

    Attributes:
        title: title.
        caption: explanation below the plot.
        names: logged numbers drawn as curves.
        log: use a logarithmic axis.
        marks: logged numbers whose last values are drawn as dashed lines.
    """

    title: str
    caption: str
    names: tuple[str, ...]
    log: bool = False
    marks: tuple[str, ...] = ()


PLOTS = (
    Plot(
        "Frechet distance",
        "On fixed random features (not FID): compare within one data set, at one number of images.",
        ("distance/frechet",),
        log=True,
        marks=("distance/floor", "distance/mean_image"),
    ),
    Plot(
        "Losses",
        "In a healthy game, neither diverges.",
        ("loss/generator", "loss/discriminator"),
    ),
    Plot(
        "Logits",
        "Far apart: the discriminator is winning.",
        ("logits/real", "logits/fake"),
    ),
    Plot(
        "Gradient penalty",
        "The discriminator's R1 term.",
        ("loss/r1",),
        log=True,
    ),
    Plot(
        "Relief",
        "Of depth from its best-fit plane, and of the center before the rim, camera radii; a "
        "billboard has 0, a hollow head a negative bulge.",
        ("alarm/flatness", "alarm/bulge"),
    ),
    Plot(
        "Heads against the truth",
        "Of the heads seen from the front: the slope of their relief over the true one (1 right, 0 "
        "flat, -1 hollow), and how far they turn with the camera (1 right, 0 not at all).",
        ("heads/face_slope", "heads/body_slope", "heads/turn"),
    ),
    Plot(
        "What changes the head",
        "z should, the camera should not.",
        ("alarm/z_sensitivity", "alarm/camera_leak"),
    ),
)


def _curves(run: RunFiles) -> str:
    figures = ""
    for plot in PLOTS:
        names = [name for name in plot.names if len(run.columns.get(name, [])) > 1]
        if not names:
            continue
        curves = [Curve(_words(name), run.columns[name]) for name in names]
        marked = [name for name in plot.marks if name in run.columns]
        marks = {_words(name): run.columns[name][-1][1] for name in marked}
        svg = curve_svg(plot.title, curves, log=plot.log, marks=marks)
        caption = f"<b>{plot.title}.</b> {plot.caption}"
        figures += f"<figure>{svg}<figcaption>{caption}</figcaption></figure>"
    return f"<h2>Curves</h2>\n<div class='curves'>{figures}</div>" if figures else ""


def _words(name: str) -> str:
    return name.rpartition("/")[2].replace("_", " ")


def _config(run: RunFiles) -> str:
    if not run.config:
        return ""
    text = f"<pre>{html.escape(run.config)}</pre>"
    return f"<h2>Config</h2>\n<details><summary>show</summary>{text}</details>"


def _figure(content: str, key: str, step: int) -> str:
    caption = f"{CAPTIONS.get(key, html.escape(key))} <span>{step / 1000:,.6g} kimg</span>"
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"
