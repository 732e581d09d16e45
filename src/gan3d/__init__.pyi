# For editors and type checkers: the names of `__all__` with their types, and the rooms. Generators
# and discriminators are found by name when they are asked for (`gan3d.EG3D`): no list to keep.
from typing import Any

from gan3d import apps as apps
from gan3d import camera as camera
from gan3d import data as data
from gan3d import discriminators as discriminators
from gan3d import generators as generators
from gan3d import metrics as metrics
from gan3d import ops as ops
from gan3d import rendering as rendering
from gan3d.apps.extraction import extract_mesh as extract_mesh
from gan3d.apps.inversion import invert as invert
from gan3d.apps.samples import orbit as orbit
from gan3d.apps.samples import picture as picture
from gan3d.apps.samples import sample as sample
from gan3d.apps.viewer import view as view
from gan3d.camera import Camera as Camera
from gan3d.camera import PosePrior as PosePrior
from gan3d.checkpoints.models import create as create
from gan3d.checkpoints.models import from_pretrained as from_pretrained
from gan3d.checkpoints.portable import save_pretrained as save_pretrained
from gan3d.discriminators import DISCRIMINATORS as DISCRIMINATORS
from gan3d.discriminators import Discriminator as Discriminator
from gan3d.discriminators import DiscriminatorOutput as DiscriminatorOutput
from gan3d.generators import GENERATORS as GENERATORS
from gan3d.generators import Generator as Generator
from gan3d.generators import Rendering as Rendering
from gan3d.randomness import Randomness as Randomness
from gan3d.training.gan import GAN as GAN
from gan3d.zoo.models import list_models as list_models

__version__: str

def __getattr__(name: str) -> Any: ...
