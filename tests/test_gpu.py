"""Every path on a device, on a pretend GPU (:mod:`tests.pretend_gpu`): it runs, and gives what the CPU gives."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import warnings

import numpy as np
import pytest
import torch

from tests.device_cases import CASES, HALF, CatSurf, coarse, make_world, numbers, on_device
from tests.glm.conftest import GRID, make_images, make_table
from tests.pretend_gpu import pretend_gpu
from vbmstat import fit_glm, preproc, tracts
from vbmstat.batch.run import preprocess
from vbmstat.glm.design.contrast import build_contrasts
from vbmstat.glm.design.matrix import build_design, with_map_column
from vbmstat.glm.design.subsets import draw_subsets
from vbmstat.glm.fit.map_covariate import fit_voxels_with_map
from vbmstat.glm.fit.plan import make_covariate_plan, make_plan
from vbmstat.glm.spec import INFERENCE_KINDS, SCHEMES, VARIANCES, Compute
from vbmstat.image import compiled, deform, grid, io, smooth, volume
from vbmstat.image.volume import Volume
from vbmstat.maps.store import ArrayMaps
from vbmstat.preproc import pipeline
from vbmstat.preproc.engines import cat
from vbmstat.preproc.longitudinal import preprocess_person
from vbmstat.preproc.spec import ENGINES, PreprocSpec

ON_A_DEVICE = re.compile(r"Tensor|Volume|Displacement|Brain|Evidence|Segmentation|torch\.device")
LISTED = (deform, grid, smooth, volume, preproc, tracts)  # modules and packages whose functions must be cases
ELSEWHERE = {  # why a function needs no case
    "tracts.outputs": "on the CPU: reads and writes files", "tracts.prior": "on the CPU", "tracts.references": "files",
    "tracts.structure_tensor": "on the CPU, by scipy", "tracts.network.cube_around": "before the network, on the CPU",
    "tracts.network.needed_side": "a number", "tracts.network.directions_on": "before the network, on the CPU",
    "tracts.network.predict_tracts": "on the CPU",
    "tracts.network.load_tract_network": "test_the_networks_of_tracts_load",
    "preproc.group_template": "on the CPU: made from files",
    "preproc.longitudinal": "test_a_person_of_two_scans",
    "preproc.pipeline": "test_a_scan_from_file_to_file", "preproc.lesions.wmh_network": "test_a_scan_from_file_to_file",
    "preproc.networks.weights.find_set": "deep.networks",
}  # fmt: skip
MODELS = {
    "subsets": {"repeats": 3, "contrasts": ["age", "site"]},
    "hc3": {"repeats": 3, "variance": "hc3"}, "spm": {"repeats": 3, "variance": "spm"},
    "sandwich:COLUMN": {"repeats": 0, "variance": "sandwich:family"},
    "groups:COLUMN": {"repeats": 0, "variance": "groups:sex", "inference": "fwe", "permutations": 20},
    "ols": {"repeats": 0, "inference": ["fdr", "fwe"], "permutations": 120, "tail": "gpd"},
    "float64": {"repeats": 2, "inference": "fwe", "permutations": 20, "scheme": "smith"},
    "chunks": {"repeats": 2, "chunk_voxels": 512}, "weights": {"repeats": 2, "weights": "tiv_ml"},
    "maps": {"repeats": 0, "inference": ["tfce", "cluster", "rft"], "permutations": 20, "scheme": "freedman-lane"},
}  # fmt: skip


@pytest.fixture(scope="module")
def world():
    with coarse():
        yield make_world(6.0)


@pytest.fixture
def gpu():
    with pretend_gpu() as device:
        yield device


def name_of(function):
    return f"{function.__module__.removeprefix('vbmstat.')}.{function.__qualname__}"


@pytest.mark.parametrize("function", CASES, ids=name_of)
@torch.inference_mode()
def test_a_function_gives_the_same_on_both(world, function, monkeypatch):
    monkeypatch.setattr(compiled, "takes", lambda *_: False)  # torch's functions on both: equal to the last bit
    expected = numbers(CASES[function](world))
    with pretend_gpu() as device:
        found = numbers(CASES[function](on_device(world, device)))
    for one, other in zip(found, expected, strict=True):
        difference = np.abs(one.astype(float) - other.astype(float))
        assert one.shape == other.shape
        assert np.mean(difference) < 1e-3 if function in HALF else not difference.any()


@pytest.mark.gpu
@pytest.mark.parametrize("function", CASES, ids=name_of)
@torch.inference_mode()
def test_a_function_stays_near_the_cpu_on_cuda(world, function):
    expected, found = (numbers(CASES[function](on_device(world, device))) for device in ("cpu", "cuda"))
    for one, other in zip(found, expected, strict=True):
        assert np.mean(np.abs(one.astype(float) - other)) < 1e-3 * max(1.0, np.abs(other.astype(float)).max(initial=0))


def public_functions():
    """Functions of the listed modules that take something that may be on a device, by name."""
    found = {}
    for top in LISTED:
        inside = pkgutil.walk_packages(top.__path__, f"{top.__name__}.") if hasattr(top, "__path__") else ()
        for module in [top, *(importlib.import_module(one.name) for one in inside)]:
            for name, function in inspect.getmembers(module, inspect.isfunction):
                types = " ".join(str(one) for key, one in inspect.get_annotations(function).items() if key != "return")
                own = function.__module__ == module.__name__ and not name.startswith("_")
                if own and ON_A_DEVICE.search(types):
                    found[name_of(function)] = function
    return found


def test_every_function_on_a_device_is_a_case():
    """A new step, network or engine fails here until `CASES` of device_cases.py has it."""
    covered = {*map(name_of, CASES), *ELSEWHERE}
    missing = [one for one in public_functions() if one not in covered and one.rpartition(".")[0] not in covered]
    assert not missing
    assert set(ENGINES) == {"classic", "cat", "deep"}  # the cases have the parts of deep
    options = {str(value) for model in MODELS.values() for value in model.values()}
    kinds = {kind for kind in INFERENCE_KINDS if any(kind in one for one in options)}
    assert (kinds, set(VARIANCES) - set(MODELS)) == (set(INFERENCE_KINDS), set())
    assert set(SCHEMES) <= options


def test_a_scan_by_engine_cat(world, gpu, monkeypatch):
    monkeypatch.setattr(cat, "_cat_surf", CatSurf)
    monkeypatch.setattr(cat.metadata, "version", lambda _: "stand-in")
    done = pipeline.preprocess_scan(world.t1w, PreprocSpec(engine="cat", device="cuda", fwhm_mm=0))
    assert done.modulated.data.device == gpu
    assert done.modulated.sums_ml == pytest.approx(done.segmented.volumes_ml, rel=0.1)


def test_a_person_of_two_scans(world, gpu):
    scans = [world.t1w, Volume(world.t1w.data * 1.1, world.t1w.grid)]
    pipeline.template_pyramid.cache_clear()
    person = preprocess_person(scans, PreprocSpec(device="cuda", fwhm_mm=6), years=[0.0, 2.0])
    pipeline.template_pyramid.cache_clear()
    for one in person.time_points:
        assert one.preprocessed.modulated.data.device == one.aged.data.device == gpu
        assert one.aged.sums_ml == pytest.approx(one.preprocessed.segmented.volumes_ml, rel=0.1)
    assert person.rate.data.device == gpu


@pytest.mark.usefixtures("coarse_drawing")
def test_a_scan_from_file_to_file(world, tmp_path):
    """A run with all outputs, figures, hypointensities and a lesion that the user brings."""
    io.write_volume(tmp_path / "in" / "sub-01_T1w.nii.gz", world.t1w)
    io.write_volume(tmp_path / "mask.nii.gz", Volume(world.lesion[None].float(), world.t1w.grid))
    lesion = {"wmh": True, "wmh_as": "class", "lesion_mask": str(tmp_path / "mask.nii.gz")}
    pipeline.template_pyramid.cache_clear()
    with pretend_gpu():
        preprocess(tmp_path / "in", tmp_path / "out", device="cuda", fwhm_mm=6, **lesion)
        again = preprocess(tmp_path / "in", tmp_path / "out", device="cuda", fwhm_mm=(6, 8), **lesion)
    pipeline.template_pyramid.cache_clear()
    sidecar = json.loads((tmp_path / "out" / "report" / "vbmstat_sub-01_T1w.json").read_text())
    assert (len(again.table), sidecar["device"]) == (1, "cuda (pretended)")
    assert (tmp_path / "out" / "mri" / "s8mwp1sub-01_T1w.nii.gz").is_file()


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Maps as files, with their table; constant and nearly constant voxels are among them."""
    folder, table = tmp_path_factory.mktemp("study"), make_table()
    table["family"] = [f"f{i // 2}" for i in range(len(table))]
    images = make_images(table)
    images[:, 5, 6, 4] = images[:, 5, 6, 4] * 1e-7 + 0.5  # too few digits in float32: fitted again in float64
    for scan, image in zip(table["participant_id"], images, strict=True):
        io.write_volume(folder / "mri" / f"s6mwp1{scan}_T1w.nii.gz", Volume(torch.from_numpy(image)[None], GRID))
    return folder, table, images


@pytest.mark.parametrize("model", MODELS)
def test_a_model_gives_the_same_on_both(model, study):
    folder, table, images = study
    maps = {"gm": folder, "float64": images.reshape(len(images), -1)[:, 400:900].astype(float)}.get(model, folder)
    fits = {}
    for device in ("cpu", "cuda"):
        with pretend_gpu() if device == "cuda" else warnings.catch_warnings():
            fits[device] = fit_glm(
                maps, "gm ~ age + sex + site", table, device=device, backend="stacked", n_threads=1, **MODELS[model]
            )
    assert fits["cuda"].record["device"] == "cuda (pretended)"
    for contrast, of_cpu in fits["cpu"].maps.items():
        for name, one in of_cpu.items():
            assert np.allclose(
                fits["cuda"].maps[contrast][name].values, one.values, rtol=1e-4, atol=1e-5, equal_nan=True
            )


def test_a_map_as_covariate_gives_the_same_on_both(study):
    _, table, images = study
    design = build_design("age", table, list(table["participant_id"]))
    contrasts = build_contrasts(["map(wm)", "age"], with_map_column(design, "wm"))
    plan = make_plan(design, (), draw_subsets(design.scan_ids, 3, 0.8, 0))
    y, w = (ArrayMaps(images.reshape(len(images), -1)[:, at : at + 300], design.scan_ids) for at in (400, 700))
    fits = []
    for device in ("cpu", "cuda"):
        with pretend_gpu() if device == "cuda" else warnings.catch_warnings():
            fits.append(
                fit_voxels_with_map(y, w, make_covariate_plan(plan, design, contrasts), Compute(device, n_threads=1))
            )
    for one, other in zip(numbers(fits[0]), numbers(fits[1]), strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda x: x + torch.ones(3), "at least two devices"),
        (lambda x: torch.cat([x, torch.ones(3)]), "at least two devices"),
        (lambda x: torch.ones(3)[torch.zeros(1, dtype=torch.int64, device=x.device)], "at least two devices"),
        (lambda x: x.numpy(), "can't convert cuda:0"),
        (np.asarray, "can't convert cuda:0"),
        (lambda x: x @ torch.from_numpy(np.ones(3, np.float32)), "at least two devices"),
        (lambda x: torch.randn(3, generator=torch.Generator(), device=x.device), "device type for generator"),
        (lambda x: x.normal_(generator=torch.Generator()), "device type for generator"),
        (lambda x: torch.histogram(x, 3), "'CUDA' backend"),
        (lambda x: x.long() @ x.long(), "not implemented on CUDA"),
    ],
)
def test_the_pretend_gpu_refuses_what_cuda_refuses(gpu, fault, message):
    with pytest.raises((RuntimeError, TypeError, NotImplementedError), match=message):
        fault(torch.arange(3.0, device=gpu))


def test_the_pretend_gpu_allows_what_cuda_allows(gpu):
    x = torch.arange(4.0, device=gpu)
    x[1:3] = torch.tensor([5.0, 6.0])  # a copy between devices
    x[torch.tensor([0])] += torch.tensor(2.0)  # an index and a number of the CPU
    with torch.autocast("cuda", torch.float16):
        product = x @ x
    assert (x.tolist(), product.dtype, float(product)) == ([2.0, 5.0, 6.0, 3.0], torch.float16, 74.0)
    assert torch.zeros(2, device="cuda").device == torch.as_tensor(np.ones(2), device=gpu).device == gpu
