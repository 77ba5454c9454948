import warnings

import pytest
import torch

from vbmstat import assets
from vbmstat.preproc.steps.linknet import brain_probability


@pytest.mark.parametrize("name", ["deepbet-box", "deepbet-brain"])
@torch.inference_mode()
def test_equals_the_torchscript_of_the_wheel(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        network = torch.jit.load(str(assets.asset_path(name))).eval()
    source = torch.Generator().manual_seed(0)
    image = torch.nn.functional.interpolate(
        torch.rand(1, 1, 8, 9, 10, generator=source), (64, 96, 64), mode="trilinear"
    )
    image[:, :, 12:50, 20:70, 15:50] += 0.8
    expected = network(image)[:, 1:]
    assert expected.std() > 0.1
    torch.testing.assert_close(brain_probability(network.state_dict(), image), expected, rtol=0, atol=2e-4)
