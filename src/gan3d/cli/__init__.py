"""The command line: `lightning`, `gan3d` and `python -m gan3d` are one program.

Two stages. The first knows the verbs and the names of the configs, and answers help, version and
misspelt names without importing torch (`import lightning` costs seconds). The second is one
LightningCLI for `fit | validate | test | predict` (gan3d.cli.trainer), or the function behind
another verb: a new verb is one row of `VERBS`.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from gan3d import __version__
from gan3d.allocator import keep_memory
from gan3d.cli import configs
from gan3d.cli.bombs import refuse_bombs
from gan3d.cli.errors import Silent, exit_code, in_words
from gan3d.cli.help import PAGES
from gan3d.cli.messages import CommandError, listen, log, nearest, say, wants_traceback

TRAINER_VERBS = {
    "fit": "train",
    "validate": "evaluate a checkpoint on the validation protocol",
    "test": "evaluate a checkpoint on the test protocol",
    "predict": "draw samples from a checkpoint",
    "estimate": "say what a training would need: memory, time, and what makes it fit",
}


@dataclass(frozen=True)
class Verb:
    """A verb beside the Trainer's: its words run the function `target` ("module:function").

    Where `positional` is set, the function's required arguments are given without a name; the rest
    are options. Where `list_from` is set, the words from that one on, up to the first option, are
    one list: a required argument, or the option `list_name`, which may be left out. Values of
    `unchecked` arguments are the function's own matter.
    """

    words: tuple[str, ...]
    target: str
    summary: str
    positional: bool = False
    list_from: int | None = None
    list_name: str = ""
    unchecked: tuple[str, ...] = ()


VERBS = (
    Verb(("configs",), "gan3d.cli.configs:print_configs", "list the packaged configs"),
    Verb(
        ("models",),
        "gan3d.cli.zoo:print_models",
        "list the trained models that come with gan3d",
        True,
    ),
    Verb(
        ("sample",),
        "gan3d.cli.stills:write_stills",
        "draw pictures of a model: images, depth, normals, one by one or on a sheet",
        True,
    ),
    Verb(
        ("video",),
        "gan3d.cli.videos:write_video_of",
        "film a model: the camera moves, heads turn into others, or both",
        True,
    ),
    Verb(
        ("mesh",),
        "gan3d.cli.mesh:write_mesh_of",
        "make a textured mesh of a scene: .glb, .obj or .ply",
        True,
    ),
    Verb(
        ("view",),
        "gan3d.cli.view:view_models",
        "look at models in a browser: a free camera, seeds, layers, meshes",
        True,
        list_from=0,
    ),
    Verb(
        ("edit",),
        "gan3d.cli.edit:edit_scenes",
        "move scenes along directions of the latent space",
        True,
    ),
    Verb(
        ("invert",),
        "gan3d.cli.invert:invert_pictures",
        "find the scene of a model that photographs show",
        True,
        list_from=1,
    ),
    Verb(
        ("data", "heads"),
        "gan3d.data.heads:write_heads",
        "make the procedural multi-view heads",
    ),
    Verb(
        ("data", "gram"),
        "gan3d.data.gram_poses:write_gram",
        "bring GRAM's images and poses into our layout",
        True,
    ),
    Verb(
        ("report",),
        "gan3d.apps.report:report",
        "make an HTML report of a run folder",
        positional=True,
    ),
    Verb(
        ("dashboard",),
        "gan3d.cli.dashboard:make_dashboard",
        "put runs beside each other, on a page or in W&B",
        list_from=0,
        list_name="runs",
    ),
    Verb(
        ("measure",),
        "gan3d.cli.measure:measure",
        "measure a generator: FID, KID, PPL, equivariance, ..",
        True,
    ),
    Verb(
        ("bench", "suites"),
        "gan3d.cli.bench:print_suites",
        "list the suites of the benchmark",
    ),
    Verb(
        ("bench", "run"),
        "gan3d.cli.bench:run_suite",
        "train a model under a suite's budget, and evaluate it",
        unchecked=("model",),  # a config, too
    ),
    Verb(
        ("bench", "eval"),
        "gan3d.cli.bench:evaluate_models",
        "evaluate trained models by one protocol",
        True,
        list_from=0,
    ),
    Verb(
        ("bench", "table"),
        "gan3d.cli.bench:write_table",
        "put results of one protocol into a table and a page",
        True,
        list_from=0,
    ),
    Verb(
        ("epi",),
        "gan3d.cli.consistency:write_epi_of",
        "draw a row of the picture while the camera turns",
        True,
    ),
    Verb(
        ("reproject",),
        "gan3d.cli.consistency:reproject_views",
        "measure how well views agree",
        True,
    ),
    Verb(
        ("stylize",),
        "gan3d.cli.stylize:stylize_heads",
        "mix a model with its fine-tuned relative",
        True,
    ),
    Verb(
        ("symmetry",),
        "gan3d.cli.symmetry:measure_symmetry",
        "measure whether heads turn or are mirrored",
        True,
    ),
    Verb(
        ("export", "manifolds"),
        "gan3d.cli.consistency:export_surfaces",
        "write GRAM-HD's surfaces as a .glb",
        True,
    ),
    Verb(
        ("import", "eg3d"),
        "gan3d.checkpoints.official.eg3d:import_eg3d",
        "read official EG3D weights, safely",
        True,
    ),
    Verb(
        ("import", "stylegan2"),
        "gan3d.checkpoints.official.stylegan2:import_stylegan2",
        "the same for StyleGAN2",
        True,
    ),
    Verb(
        ("import", "stylegan3"),
        "gan3d.checkpoints.official.stylegan3:import_stylegan3",
        "the same for StyleGAN3",
        True,
    ),
    Verb(
        ("import", "cips3d"),
        "gan3d.checkpoints.official.cips3d:import_cips3d",
        "the same for CIPS-3D",
        True,
    ),
    Verb(
        ("import", "pigan"),
        "gan3d.checkpoints.official.pigan:import_pigan",
        "the same for pi-GAN",
        True,
    ),
    Verb(
        ("import", "gram"),
        "gan3d.checkpoints.official.gram:import_gram",
        "the same for GRAM and GRAM-HD",
        True,
    ),
    Verb(
        ("export", "training"),
        "gan3d.cli.export:export_training",
        "make a portable file of a checkpoint",
        True,
    ),
    Verb(
        ("export", "eg3d"),
        "gan3d.checkpoints.official.eg3d:export_eg3d",
        "write weights for official EG3D code",
        True,
    ),
    Verb(
        ("export", "stylegan2"),
        "gan3d.checkpoints.official.stylegan2:export_stylegan2",
        "the same for StyleGAN2",
        True,
    ),
    Verb(
        ("export", "stylegan3"),
        "gan3d.checkpoints.official.stylegan3:export_stylegan3",
        "the same for StyleGAN3",
        True,
    ),
    Verb(
        ("export", "cips3d"),
        "gan3d.checkpoints.official.cips3d:export_cips3d",
        "the same for CIPS-3D",
        True,
    ),
    Verb(
        ("export", "pigan"),
        "gan3d.checkpoints.official.pigan:export_pigan",
        "the same for pi-GAN",
        True,
    ),
    Verb(
        ("export", "gram"),
        "gan3d.checkpoints.official.gram:export_gram",
        "the same for GRAM and GRAM-HD",
        True,
    ),
)

HELP = """\
gan3d {version}: a zoo of 3D-aware GANs. `lightning`, `gan3d` and `python -m gan3d` are the same
program.

usage: lightning VERB [options]

train and evaluate (PyTorch Lightning; each has --help and --print_config):
{trainer}

everything else:
{others}

examples:
  lightning fit --config eg3d_heads32.yaml --data.path heads32.zip
  lightning fit --config eg3d_heads32.yaml --config debug.yaml --model.r1.gamma 5
  lightning fit --config eg3d_heads32.yaml --data.path heads32.zip --ckpt_path last   (go on)
  lightning fit --model.generator.help EG3D

A config is a file, or the name of a packaged one (gan3d configs); several lie on top of one
another. GAN3D_TRACEBACK=1 shows the Python traceback of an error."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the words after the program's name; None takes them from sys.argv.

    Returns:
        exit code: 0 well, 1 the run failed, 2 the command or its input is wrong, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    listen()
    try:
        return _dispatch(words)
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes it exit code 1
            return _interrupted(words, stop.__context__)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt as interrupt:
        return _interrupted(words, interrupt)
    except BrokenPipeError:  # `gan3d configs | head`
        sys.stdout = None
        return 0
    except Exception as error:
        told = in_words(error)
        code = exit_code(told)
        if code is None or wants_traceback():
            raise
        if not isinstance(told, Silent):
            log.error("error: %s", told or type(told).__name__)
        return code


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("--version", "-V", "version"):
        print(f"gan3d {__version__}")
        return 0
    if words[0] in TRAINER_VERBS:
        if words[1:] in (["--help"], ["-h"]):
            print(PAGES[words[0]], end="")
            return 0
        asked = ["--help"] if words[1:] == ["--help", "all"] else words[1:]
        resolved, paths = configs.resolve(asked)
        refuse_bombs(resolved, paths)
        keep_memory()
        if words[0] == "estimate":
            from gan3d.cli.estimate import run as estimate

            return estimate(resolved, paths)
        from gan3d.cli.trainer import run

        return run(words[0], resolved, paths)
    for verb in VERBS:
        if tuple(words[: len(verb.words)]) == verb.words:
            return _call(verb, words[len(verb.words) :])
    if words[1:] in (["-h"], ["--help"]) and any(verb.words[0] == words[0] for verb in VERBS):
        print(
            "\n".join(
                f"gan3d {' '.join(v.words)}  {v.summary}" for v in VERBS if v.words[0] == words[0]
            )
        )
        return 0
    raise _unknown(words)


def _help() -> str:
    table = [(" ".join(verb.words), verb.summary) for verb in VERBS]
    width = max(len(name) for name, _ in [*TRAINER_VERBS.items(), *table])

    def lines(rows) -> str:
        return "\n".join(f"  {name:{width}}  {summary}" for name, summary in rows)

    return HELP.format(
        version=__version__, trainer=lines(TRAINER_VERBS.items()), others=lines(table)
    )


def _unknown(words: list[str]) -> CommandError:
    if words[0].startswith("-"):
        return CommandError(
            f"{words[0]} stands before the verb",
            "the verb comes first: lightning fit --config eg3d_heads32.yaml ...",
        )
    inner = [verb.words[1] for verb in VERBS if len(verb.words) == 2 and verb.words[0] == words[0]]
    if inner:
        got = words[1] if len(words) > 1 else ""
        return CommandError(
            f"{words[0]} {got} is not known" if got else f"{words[0]} needs one more word",
            nearest(got, inner, like=f"{words[0]} {{}}")
            or f"there is: {', '.join(f'{words[0]} {w}' for w in inner)}",
        )
    known = [*TRAINER_VERBS, *dict.fromkeys(verb.words[0] for verb in VERBS)]
    return CommandError(
        f"{words[0]} is not a verb",
        nearest(words[0], known, like="{}") or f"verbs: {', '.join(known)}",
        "gan3d --help",
    )


def _call(verb: Verb, arguments: list[str]) -> int:
    """Runs the function of a verb: its signature is the options, its docstring the help page. It is
    imported when its arguments are known to be right.
    """
    from gan3d.cli.checks import check_values
    from gan3d.cli.options import call
    from gan3d.cli.signatures import stand_in

    prog = f"gan3d {' '.join(verb.words)}"
    words = _packed(arguments, verb)
    values = call(stand_in(verb.target), words, prog=prog, positional=verb.positional)
    check_values({name: v for name, v in values.items() if name not in verb.unchecked})
    keep_memory()
    module, _, name = verb.target.partition(":")
    result = getattr(importlib.import_module(module), name)(**values)
    if result is not None and not isinstance(result, int):
        print(result)
    return result if isinstance(result, int) else 0


def _packed(arguments: list[str], verb: Verb) -> list[str]:
    """The words from one on, up to the first option, as one list."""
    start = verb.list_from
    if start is None:
        return arguments
    end = next((k for k, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    if end <= start:
        return arguments
    name = [f"--{verb.list_name}"] * bool(verb.list_name)
    return [*arguments[:start], *name, json.dumps(arguments[start:end]), *arguments[end:]]


def _interrupted(words: list[str], interrupt: KeyboardInterrupt) -> int:
    """Says what the run told the interruption, else how to go on where there is a checkpoint."""
    again = (
        "; go on from its last checkpoint, if there is one: the same command with --ckpt_path last"
    )
    say(str(interrupt) or f"interrupted{again if words[:1] == ['fit'] else ''}")
    return 130
