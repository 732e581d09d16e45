"""What a run logs: one set of keys for every model, in W&B, TensorBoard and the run folder.

A row of `KEYS` is a number, a picture, a video or a point cloud. The dashboards are made of these
rows (gan3d.apps.dashboard, gan3d.apps.workspace), and so is the table of docs/dashboards.md; a test
trains every member of the zoo and compares.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "picture", "video", "cloud"]

# Who logs a key; all but the first follow from the options of a run.
EVERY = "every run"
IN_3D = "3D models"
OPAQUE = "3D models, where the scene is opaque"
HELDOUT = "runs with held-out images"
HELDOUT_3D = "3D models, with held-out images"
CONDITIONED = "3D models whose generator is given the camera"
HEADS_3D = "3D models of procedural heads"
POSES = "procedural heads, and discriminators that predict poses"
ADA = "`--model.augmentation.ada`"
R1 = "`--model.r1`"
LAZY_R1 = "`--model.r1`, where its interval is above 1"
R2 = "`--model.r2`"
DENSITY = "`--model.density`"
PATH_LENGTH = "`--model.path_length`"
POSE_LOSS = "`--model.pose`"
POSE_REAL = "`--model.pose`, with `real_weight`"
CONSISTENCY = "`--model.consistency`"
FLOAT16 = "`--trainer.precision 16-mixed`"


@dataclass(frozen=True)
class Key:
    """One key of a run's loggers.

    Attributes:
        name: the key.
        section: of the dashboards.
        meaning: in a few words.
        logged: who logs it.
        unit: of a number; empty for a pure one.
        kind: number, picture, video or cloud.
        log: whether its axis is logarithmic.
    """

    name: str
    section: str
    meaning: str
    logged: str = EVERY
    unit: str = ""
    kind: Kind = "number"
    log: bool = False


QUALITY, PICTURES, HEADS = "Quality", "Pictures", "Heads"
ALARMS, GAME, PENALTIES, GRADIENTS, SPEED = "Alarms", "Game", "Penalties", "Gradients", "Speed"

KEYS = (
    # quality
    Key("distance/frechet", QUALITY,
        "Frechet distance to held-out images, conditioned on the camera that renders (`same`)",
        HELDOUT, log=True),
    Key("distance/frechet_3d", QUALITY,
        "the same, conditioned on the frontal camera, from the cameras of the set (`3d`)",
        HELDOUT_3D, log=True),
    Key("distance/floor", QUALITY, "one half of the held-out images against the other", HELDOUT),
    Key("distance/mean_image", QUALITY, "the mean held-out image against them", HELDOUT),
    # pictures
    Key("fakes", PICTURES, "images of the averaged generator", kind="picture"),
    Key("layers", PICTURES, "raw, final image and depth of each", IN_3D, kind="picture"),
    Key("reals", PICTURES, "some held-out images", HELDOUT, kind="picture"),
    Key("orbit", PICTURES, "the camera moves around some scenes", IN_3D, kind="video"),
    Key("cloud", PICTURES, "colored points of the surface that three views of a scene show",
        OPAQUE,
        "world units", "cloud"),
    Key("logit_histogram", PICTURES, "the discriminator's logits of fakes and of held-out images",
        kind="picture"),
    Key("pose_histogram", PICTURES, "yaw and pitch: labels of the set, and read of fakes", POSES,
        "degrees", "picture"),
    # heads against their truth
    Key("heads/face_slope", HEADS, "relief of the face over the true one: 1 right, 0 flat, "
        "-1 hollow", HEADS_3D),
    Key("heads/face_convex", HEADS, "share of convex faces", HEADS_3D),
    Key("heads/body_slope", HEADS, "as `face_slope`, with the shoulders", HEADS_3D),
    Key("heads/body_convex", HEADS, "share of convex heads, with the shoulders", HEADS_3D),
    Key("heads/background_behind", HEADS, "background behind the face", HEADS_3D, "camera radii"),
    Key("heads/turn", HEADS, "turn of the head per turn of the camera: 1 right", HEADS_3D),
    Key("heads/identity", HEADS, "how much of the head's shape stays while it turns", HEADS_3D),
    # alarms
    Key("alarm/sounding", ALARMS, "alarms that sound", unit="alarms"),
    Key("alarm/z_sensitivity", ALARMS, "how much z changes the image, of a range of 2"),
    Key("alarm/flatness", ALARMS, "depth from its best-fit plane", IN_3D, "camera radii"),
    Key("alarm/bulge", ALARMS, "the center before the rim; hollow is negative", IN_3D,
        "camera radii"),
    Key("alarm/opaque", ALARMS, "share of opaque pixels", IN_3D),
    Key("alarm/camera_leak", ALARMS, "change by the conditioning camera, over that by z",
        CONDITIONED),
    # the game
    Key("loss/generator", GAME, "adversarial loss of the generator"),
    Key("loss/discriminator", GAME, "loss of the discriminator, without penalties of a step of "
        "their own"),
    Key("logits/real", GAME, "mean logit of training images, as the discriminator sees them"),
    Key("logits/fake", GAME, "mean logit of fakes"),
    Key("logits/heldout", GAME, "mean logit of held-out images: far below `logits/real`, the "
        "discriminator overfits", HELDOUT),
    Key("signs/real", GAME, "mean sign of the logits of training images, which ADA steers by"),
    Key("augment/p", GAME, "probability of ADA's augmentations", ADA),
    # penalties and other losses
    Key("loss/r1", PENALTIES, "gradient penalty on real images", R1, log=True),
    Key("loss/r2", PENALTIES, "gradient penalty on fakes", R2, log=True),
    Key("loss/density", PENALTIES, "density regularization", DENSITY, log=True),
    Key("loss/path_length", PENALTIES, "path length regularization", PATH_LENGTH, log=True),
    Key("path/length", PENALTIES, "mean path length", PATH_LENGTH),
    Key("loss/consistency", PENALTIES, "final image against the raw one", CONSISTENCY, log=True),
    Key("pose/generator", PENALTIES, "error of the pose predicted of fakes, generator's step",
        POSE_LOSS, log=True),
    Key("pose/fake", PENALTIES, "the same, discriminator's step", POSE_LOSS, log=True),
    Key("pose/real", PENALTIES, "the same of training images", POSE_REAL, log=True),
    # gradients
    Key("gradient/generator", GRADIENTS, "norm of the generator's gradient", log=True),
    Key("gradient/discriminator", GRADIENTS, "norm of the discriminator's gradient", log=True),
    Key("gradient/r1", GRADIENTS, "norm in the step of the penalties", LAZY_R1, log=True),
    Key("gradient/density", GRADIENTS, "norm in the step of the density", DENSITY, log=True),
    Key("gradient/path_length", GRADIENTS, "norm in the step of the path lengths", PATH_LENGTH,
        log=True),
    Key("float16/scale", GRADIENTS, "what losses are multiplied with, for gradients of float16",
        FLOAT16, log=True),
    Key("float16/skipped", GRADIENTS, "share of iterations with a step that was skipped, because a "
        "gradient was infinite", FLOAT16),
    # speed
    Key("progress/kimg", SPEED, "images seen", unit="thousands"),
    Key("speed/images_per_second", SPEED, "training images, by the clock", unit="images/s"),
    Key("speed/images_per_cpu_second", SPEED, "training images, by the time of the process on the "
        "CPU", unit="images/s"),
    Key("memory/peak_gib", SPEED, "peak memory: of the GPU, or resident", unit="GiB"),
)  # fmt: skip
SECTIONS = tuple(dict.fromkeys(key.section for key in KEYS))


def keys_in(section: str, kind: Kind | None = None) -> list[Key]:
    """The keys of a section, all or those of a kind."""
    return [key for key in KEYS if key.section == section and kind in (None, key.kind)]
