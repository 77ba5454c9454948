import pytest
import torch

from vbmstat.image import compiled
from vbmstat.preproc.steps.denoise import denoise, noise_sigma


def two_tissues(sigma, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.full((40, 40, 40), 70.0)
    clean[20:] = 100.0
    return clean, clean + sigma * torch.randn(clean.shape, generator=generator)


@pytest.mark.parametrize("sigma", [1.0, 5.0, 12.0])
def test_noise_is_measured_within_five_percent(sigma):
    _, noisy = two_tissues(sigma)
    assert noise_sigma(noisy, torch.ones(noisy.shape, dtype=torch.bool)) == pytest.approx(sigma, rel=0.05)


def test_noise_falls_and_the_edge_stays():
    clean, noisy = two_tissues(5.0)
    quiet = denoise(noisy, 5.0)
    inner = (slice(4, -4),) * 3
    assert float((quiet - clean)[inner].std()) < 0.45 * 5.0
    step = quiet[20:22, 4:-4, 4:-4].mean() - quiet[18:20, 4:-4, 4:-4].mean()
    assert float(step) == pytest.approx(30, abs=1.0)


def test_more_strength_removes_more_noise():
    clean, noisy = two_tissues(5.0)
    spreads = [float((denoise(noisy, 5.0, strength) - clean).std()) for strength in (0.2, 0.5, 1.0)]
    assert spreads == sorted(spreads, reverse=True)


def test_without_noise_nothing_changes():
    clean, _ = two_tissues(0.0)
    assert torch.equal(denoise(clean, 0.0), clean)


def test_mirrored_image_gives_the_mirrored_result():
    _, noisy = two_tissues(5.0)
    torch.testing.assert_close(denoise(noisy.flip(1), 5.0).flip(1), denoise(noisy, 5.0), atol=1e-3, rtol=1e-5)


def test_compiled_loop_and_torch_agree(monkeypatch):
    image = 100 + 5 * torch.randn(13, 11, 17, generator=torch.Generator().manual_seed(1))
    image[6:] += 60
    looped = denoise(image, 5.0)
    monkeypatch.setattr(compiled, "takes", lambda *_: False)
    torch.testing.assert_close(looped, denoise(image, 5.0), rtol=0, atol=2e-3)
