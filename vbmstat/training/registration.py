"""The network that registers: GM and WM of scan and template -> half velocities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from vbmstat import assets
from vbmstat.image.grid import Grid, from_normalised
from vbmstat.image.volume import jacobian_determinant
from vbmstat.preproc.networks.cascade import resample_low_passed, view_grid
from vbmstat.preproc.networks.symnet import Velocities, compose_warps, pull
from vbmstat.training import losses
from vbmstat.training.cases import CaseFile
from vbmstat.training.config import RunConfig
from vbmstat.training.task import Example, Stage, Task


class RegistrationTask(Task):
    """GM and WM of scan and template -> half velocities."""

    kind = cases_kind = "registration"

    def __init__(self, cases: CaseFile, config: RunConfig, device: torch.device, folder: Path) -> None:
        super().__init__(cases, config, device, folder)
        template = assets.template()
        view = registration_grid(cases.shape)
        self.template = resample_low_passed(template.data, template.grid, view)[None].to(device)

    def stages(self) -> list[Stage]:
        """A single stage."""
        settings = {"refine": self.config.refine, "shape": list(self.cases.shape)}
        return [Stage(self.kind, self.config.epochs, (self.kind, None), self.start, settings)]

    def examples(self, name: str, stage: Stage, source: torch.Generator | None) -> Iterator[Example]:
        """Tissues of scan and template, and the forward half velocity; as in the paper, without augmentation."""
        del stage, source
        case = self._load(name)
        velocity = functional.interpolate(
            case["velocity"][None], self.cases.shape, mode="trilinear", align_corners=True
        )
        yield torch.cat([case["scan"][None], self.template], dim=1), velocity

    def loss(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Loss of supervised SYMNet."""
        return losses.registration_loss(
            self._velocities(network, inputs), Velocities(targets, -targets), inputs[:, :2], inputs[:, 2:]
        )

    def score(self, network: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        """Mean squared difference to the template with the predicted, the target and no warp; smallest Jacobian.

        Also the error of the forward velocity relative to its norm, which is 1 for a network that predicts no motion.
        """
        scan, template = inputs[:, :2], inputs[:, 2:]
        predicted = self._velocities(network, inputs)
        warp = compose_warps(predicted).forward
        target_warp = compose_warps(Velocities(targets, -targets)).forward
        return {
            "mse": float(functional.mse_loss(pull(scan, warp), template)),
            "mse_target": float(functional.mse_loss(pull(scan, target_warp), template)),
            "mse_affine": float(functional.mse_loss(scan, template)),
            "velocity_error": float((predicted.forward - targets).norm() / targets.norm()),
            "least_jacobian": float(jacobian_determinant(warp).min()),
        }

    @staticmethod
    def _velocities(network: nn.Module, inputs: torch.Tensor) -> Velocities:
        forward, backward = network(inputs)
        return Velocities(from_normalised(forward.float()), from_normalised(backward.float()))


def registration_grid(shape: Sequence[int]) -> Grid:
    """The template's field of view with another number of voxels and the same first and last voxel centres."""
    return view_grid(assets.template().grid, tuple(shape))  # type: ignore[arg-type]
