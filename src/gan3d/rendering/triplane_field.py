"""The field of tri-planes, at points and along whole rays (EG3D, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gan3d.ops.backend import Backend, choose
from gan3d.ops.composite import Composite
from gan3d.ops.field_decoder import decode
from gan3d.ops.render_triplane import DecoderWeights, is_fused, render_triplane, triplane_density
from gan3d.ops.triplane import PlaneTable
from gan3d.rendering.density_prior import DensityPrior


@dataclass(frozen=True)
class TriplaneField:
    """A `Field` of planes and a decoder, which `render_rays` renders by one op where it can.

    Attributes:
        table: the planes.
        decoder: from their features to density and colors.
        box_warp: side of the cube that the planes span.
        prior: added to the raw density.
        backend: of the ops; None chooses.
    """

    table: PlaneTable
    decoder: DecoderWeights
    box_warp: float
    prior: DensityPrior = DensityPrior()
    backend: Backend | None = None

    def __call__(self, points: Tensor, directions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """sigma [b .. 1] and rgb [b .. f] of points [b .. 3]; directions have no effect."""
        features = self.table.features(points, box_warp=self.box_warp)
        sigma, rgb = decode(features, *self.decoder)
        return self.prior.added(sigma, points, self.box_warp), rgb

    @property
    def is_fused(self) -> bool:
        """Whether a kernel renders rays, which keeps no values of samples."""
        kernel = choose(self.backend, self.table.rows) == "triton"
        return kernel and is_fused(self.table, self.decoder)

    def densities(
        self, origins: Tensor, directions: Tensor, depths: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Raw densities [b r s] of samples, without gradient; arguments as for `composite`."""
        offset = self._offset(origins, directions, depths, noise)
        return triplane_density(
            self.table,
            self.decoder,
            origins,
            directions,
            depths,
            box_warp=self.box_warp,
            offset=offset,
            backend=self.backend,
        )

    def composite(
        self,
        origins: Tensor,
        directions: Tensor,
        depths: Tensor,
        noise: Tensor | None,
        background: float | None,
    ) -> Composite:
        """The mid-point rule along rays.

        Args:
            origins: [b r 3].
            directions: [b r 3].
            depths: of the samples in increasing order, [b r s].
            noise: added to their raw densities, [b r s].
            background: color behind everything; None is black (0).

        Returns:
            rgb [b r f], depth and opacity [b r].
        """
        return render_triplane(
            self.table,
            self.decoder,
            origins,
            directions,
            depths,
            box_warp=self.box_warp,
            offset=self._offset(origins, directions, depths, noise),
            background=background,
            backend=self.backend,
        )

    def _offset(
        self, origins: Tensor, directions: Tensor, depths: Tensor, noise: Tensor | None
    ) -> Tensor | None:
        """Noise and prior, [b r s]."""
        if self.prior.shape == "none":
            return noise
        points = origins[:, :, None] + depths[..., None] * directions[:, :, None]
        start = depths.new_zeros(depths.shape) if noise is None else noise
        return self.prior.added(start[..., None], points, self.box_warp)[..., 0]
