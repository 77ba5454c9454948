from __future__ import annotations

import gzip
import json
import os

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.glm.conftest import GRID, SHAPE, make_images, make_table
from vbmstat.errors import ScanError
from vbmstat.image import io
from vbmstat.image.volume import Volume
from vbmstat.maps.decode import MapReader, storage_index
from vbmstat.maps.masking import MaskRule
from vbmstat.maps.pack import find_store, open_store, pack_maps
from vbmstat.maps.segment import Packing
from vbmstat.maps.store import CHUNK_VOXELS, ArrayMaps, row_positions


def write(path, image, axcodes="LAS", **options):
    volume = Volume(torch.from_numpy(np.asarray(image, dtype=np.float32))[None], GRID)
    io.write_volume(path, volume, axcodes=axcodes, **options)


@pytest.fixture
def maps(tmp_path, table, images):
    """Ids to maps, each stored in another axis order, type or compression."""
    paths = {}
    for i, (scan, image) in enumerate(zip(table["participant_id"], images, strict=True)):
        suffix = ".nii" if i % 3 == 0 else ".nii.gz"
        paths[scan] = tmp_path / f"s6mwp1{scan}{suffix}"
        write(paths[scan], image, ("LAS", "RAS", "PIR")[i % 3])
    return paths


def expected_mask(images, threshold=0.1):
    return (images > threshold).all(axis=0) & (images.max(axis=0) > images.min(axis=0))


@pytest.mark.parametrize("axcodes", ["RAS", "LAS", "PIR", "ASL", "IPL"])
def test_storage_index(tmp_path, axcodes, images):
    write(tmp_path / "map.nii", images[0], axcodes)
    stored = np.asarray(nib.load(tmp_path / "map.nii").dataobj).ravel(order="F")
    assert np.array_equal(stored[storage_index(SHAPE, axcodes)], images[0].ravel())


def test_packed_maps_are_the_maps(tmp_path, maps, images):
    store = pack_maps(maps, tmp_path / "store")
    assert np.array_equal(store.space.unmask(store.mask) > 0, expected_mask(images))
    assert store.scan_ids == tuple(maps)
    everything = store.read(0, store.n_voxels)
    assert np.array_equal(everything, images.reshape(len(images), -1)[:, store.space.voxel_index])
    assert everything.dtype == np.float32
    store = pack_maps(maps, tmp_path / "store", MaskRule(None))
    everything = store.read(0, store.n_voxels)
    assert everything.shape == (26, 11 * 13 * 9)
    for start, stop in ((0, 1), (CHUNK_VOXELS - 3, CHUNK_VOXELS + 5), (7, 5000)):
        assert np.array_equal(store.read(start, stop), everything[:, start:stop])
    chosen = list(maps)[::-2]
    assert np.array_equal(store.select(chosen).read(3, 9), everything[::-2, 3:9])
    assert store.space.axcodes == "LAS"


def test_every_way_to_store_a_number(tmp_path, images):
    reader, index = None, np.arange(np.prod(SHAPE))
    for dtype in (np.uint8, np.int16, np.int32, np.float32, np.float64, np.uint16, np.int8, ">i2", ">f4"):
        image = nib.Nifti1Image(np.rint(images[0] * 100).astype(dtype), GRID.affine)
        image.header.set_data_dtype(dtype)
        image.header.set_slope_inter(0.5, 3.0)
        path = tmp_path / f"{np.dtype(dtype).str[1:]}{'b' if str(dtype).startswith('>') else ''}.nii.gz"
        nib.save(image, path)
        reader = reader or MapReader.like(path)
        out = np.empty(index.size, dtype=np.float32)
        reader.read(path, index, out)
        assert np.array_equal(out, io.read_volume(path).data.numpy().ravel()), path.name


def test_scl_slope_zero_means_unscaled(tmp_path, images):
    write(tmp_path / "a.nii", images[0])
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    raw[112:120] = b"\0" * 8
    (tmp_path / "a.nii").write_bytes(raw)
    out = np.empty(images[0].size, dtype=np.float32)
    MapReader.like(tmp_path / "a.nii").read(tmp_path / "a.nii", np.arange(out.size), out)
    assert np.array_equal(out, images[0].ravel())


def test_gzip_files_of_several_members(tmp_path, images):
    write(tmp_path / "a.nii", images[0])
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]))
    out = np.empty(images[0].size, dtype=np.float32)
    MapReader.like(tmp_path / "a.nii").read(tmp_path / "b.nii.gz", np.arange(out.size), out)
    assert np.array_equal(out, images[0].ravel())


def test_mgz_goes_the_slow_way(tmp_path, images):
    write(tmp_path / "a.nii", images[0], "RAS")
    nib.save(nib.MGHImage(images[0], GRID.affine), tmp_path / "b.mgz")
    out = np.empty(images[0].size, dtype=np.float32)
    MapReader.like(tmp_path / "a.nii").read(tmp_path / "b.mgz", np.arange(out.size), out)
    assert np.array_equal(out, images[0].ravel())


def test_mask_rules(tmp_path, maps, images):
    for threshold in (0.1, 0.4):
        store = pack_maps(maps, tmp_path / "a", MaskRule(threshold))
        assert np.array_equal(store.space.unmask(store.mask) > 0, expected_mask(images, threshold))
    store = pack_maps(maps, tmp_path / "b", MaskRule(0.45, share=0.6))
    assert np.array_equal(store.space.unmask(store.mask) > 0, (images > 0.45).mean(axis=0) >= 0.6)
    half = np.zeros(SHAPE)
    half[:5] = 1
    write(tmp_path / "mask.nii", half, "RAS")
    store = pack_maps(maps, tmp_path / "c", MaskRule(None, image=tmp_path / "mask.nii"))
    vary = images.max(axis=0) > images.min(axis=0)
    assert np.array_equal(store.space.unmask(store.mask) > 0, (half > 0) & vary)
    scale = {scan: 1.0 + (i == 4) for i, scan in enumerate(maps)}
    store = pack_maps(maps, tmp_path / "d", MaskRule(0.4), Packing(scale=scale))
    factors = np.array(list(scale.values()))[:, None, None, None]
    assert np.array_equal(store.space.unmask(store.mask) > 0, expected_mask(images * factors, 0.4))


def test_a_current_store_is_opened_not_written(tmp_path, maps):
    pack_maps(maps, tmp_path / "store")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "store").iterdir()}
    store = pack_maps(dict(list(maps.items())[3:9]), tmp_path / "store")
    assert store.scan_ids == tuple(list(maps)[3:9])
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "store").iterdir()} == before


def test_stale_stores_are_packed_again(tmp_path, maps, images):
    pack_maps(maps, tmp_path / "store")
    scan = list(maps)[4]
    changed = images[4] + np.float32(0.01) * (images[4] > 0)
    write(maps[scan], changed)
    store = pack_maps(maps, tmp_path / "store")
    assert np.array_equal(store.read(0, 9)[4], changed.ravel()[store.space.voxel_index[:9]])
    other_rule = pack_maps(maps, tmp_path / "store", MaskRule(0.4))
    assert other_rule.mask.sum() < store.mask.sum()


@pytest.mark.parametrize("damage", ["no manifest", "half a manifest", "short segment", "no mask", "other format"])
def test_half_written_stores_are_packed_again(tmp_path, maps, damage):
    folder = tmp_path / "store"
    good = pack_maps(maps, folder).read(0, 50)
    manifest = folder / "manifest.json"
    if damage == "no manifest":
        manifest.unlink()
    elif damage == "half a manifest":
        manifest.write_text(manifest.read_text()[:200])
    elif damage == "short segment":
        os.truncate(folder / "segment-0000.f32", 1000)
    elif damage == "no mask":
        (folder / "mask-0001.npy").unlink()
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 0}))
    with pytest.raises(ScanError, match="expected packed maps"):
        open_store(folder)
    assert np.array_equal(pack_maps(maps, folder).read(0, 50), good)


def test_a_failed_pack_leaves_no_store(tmp_path, maps):
    pack_maps(maps, tmp_path / "store")
    maps[list(maps)[-1]].write_bytes(b"not an image")
    with pytest.raises(ScanError, match="sub-025"):
        pack_maps(maps, tmp_path / "store")
    assert find_store(tmp_path / "store") is None


def test_scans_are_appended(tmp_path, maps, images):
    first = dict(list(maps.items())[:15])
    pack_maps(first, tmp_path / "store")
    segment = (tmp_path / "store" / "segment-0000.f32").stat().st_mtime_ns
    store = pack_maps(maps, tmp_path / "store")
    assert (tmp_path / "store" / "segment-0000.f32").stat().st_mtime_ns == segment
    assert len(store.segments) == 2
    inside = store.space.unmask(store.mask) > 0
    assert np.array_equal(inside, expected_mask(images))
    whole = pack_maps(maps, tmp_path / "whole")
    values = whole.read(0, whole.n_voxels)
    by_voxel = dict(zip(whole.space.voxel_index, values.T, strict=True))
    for voxel, column in zip(store.space.voxel_index, store.read(0, store.n_voxels).T, strict=True):
        if voxel in by_voxel:
            assert np.array_equal(by_voxel[voxel], column)
    mixed = store.select([list(maps)[i] for i in (20, 3, 25)])
    assert np.array_equal(mixed.read(0, 5), images.reshape(26, -1)[[20, 3, 25]][:, store.space.voxel_index[:5]])


def test_bad_maps_say_which(tmp_path, maps, images):
    scan = list(maps)[6]
    write(maps[scan], np.zeros((11, 13, 9))[:, :, :9])
    io.write_volume(maps[scan], Volume(torch.ones(1, 8, 8, 8), GRID.crop((0, 0, 0), (8, 8, 8))))
    with pytest.raises(ScanError, match=r"sub-006.*map grid \(8, 8, 8\) @ 3 × 3 × 3 mm differs from \(11, 13, 9\)"):
        pack_maps(maps, tmp_path / "store")
    moved = nib.Nifti1Image(images[6], GRID.affine + np.array([[0, 0, 0, 2.0]] + [[0] * 4] * 3))
    nib.save(moved, maps[scan])
    with pytest.raises(ScanError, match="another origin"):
        pack_maps(maps, tmp_path / "store")
    write(maps[scan], images[6] * 3375)
    with pytest.raises(ScanError, match=r"maps in another unit than the others .*: sub-006 \(mean"):
        pack_maps(maps, tmp_path / "store")
    packed = maps[list(maps)[7]].read_bytes()
    maps[list(maps)[7]].write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ScanError, match=r"sub-007.*again"):
        pack_maps(maps, tmp_path / "store")
    maps[list(maps)[7]].unlink()
    with pytest.raises(ScanError, match="no map file for sub-007"):
        pack_maps(maps, tmp_path / "store")


@pytest.mark.parametrize("at", [2, 25])
def test_nan_inside_the_mask(tmp_path, maps, images, at):
    scan = list(maps)[at]
    hole = images[at].copy()
    hole[5, 6, 4] = np.nan
    hole[0, 0, 0] = np.nan  # outside the mask of the others: no matter
    write(maps[scan], hole)
    with pytest.raises(ScanError, match=rf"NaN or infinite values inside the mask: {scan} \(1 voxels\)"):
        pack_maps(maps, tmp_path / "store")
    store = pack_maps(maps, tmp_path / "store", MaskRule(nan="exclude"))
    expected = expected_mask(images)
    expected[5, 6, 4] = False
    assert np.array_equal(store.space.unmask(store.mask) > 0, expected)
    assert np.isfinite(store.read(0, store.n_voxels)).all()


def test_nan_outside_every_brain_is_no_matter(tmp_path, maps, images):
    for scan, image in zip(maps, images, strict=True):
        write(maps[scan], np.where(image == 0, np.nan, image))
    store = pack_maps(maps, tmp_path / "store")
    assert np.array_equal(store.space.unmask(store.mask) > 0, expected_mask(images))


def test_one_file_for_two_scans(tmp_path, maps):
    scans = list(maps)
    maps[scans[3]] = maps[scans[2]]
    with pytest.raises(ScanError, match="sub-003 and sub-002 name the same file"):
        pack_maps(maps, tmp_path / "store")


def test_nothing_above_the_threshold(tmp_path, maps):
    with pytest.raises(ScanError, match=r"is above 5 in 100% .* the largest value of all maps is 0.7\d+: lower"):
        pack_maps(maps, tmp_path / "store", MaskRule(5))


def write_many(folder, n, seed=0, odd=None):
    """Maps of `n` people, some of them odd (position -> function of the map): paths by id, and (n, X, Y, Z)."""
    values = make_images(make_table(n, seed), seed)
    for i, change in (odd or {}).items():
        values[i] = change(values[i])
    paths = {f"sub-{i:03d}": folder / f"s6mwp1sub-{i:03d}.nii.gz" for i in range(n)}
    for path, image in zip(paths.values(), values, strict=True):
        write(path, image)
    return paths, values


def cut(image, part=slice(0, 6)):
    """A map without its left half."""
    image = image.copy()
    image[part] = 0
    return image


def removed_alone(values, threshold=0.1):
    """By the definition: for each scan, the voxels that pass without it and not with it."""
    present = values > threshold
    everywhere = present.all(axis=0)
    return [int((np.delete(present, i, axis=0).all(axis=0) & ~everywhere).sum()) for i in range(len(values))]


@pytest.mark.parametrize("n_scans", [12, 40])  # all are looked at first, or 8 of them
@pytest.mark.parametrize("at", [5, 10])  # of 40, every fifth is looked at first
def test_the_scan_that_takes_most_voxels_out_is_named(tmp_path, n_scans, at):
    paths, values = write_many(tmp_path, n_scans, odd={at: cut})
    store = pack_maps(paths, tmp_path / "store")
    assert np.array_equal(store.space.unmask(store.mask) > 0, expected_mask(values))
    lost = removed_alone(values)
    assert lost[at] == max(lost) > 0.4 * expected_mask(values).sum()
    alone, lacking = store.manifest["mask_notes"]
    share = lost[at] / (lost[at] + expected_mask(values).sum())
    assert alone.startswith(
        f"scans that alone remove voxels from the mask: sub-{at:03d} ({lost[at]} voxels, {share:.0%} of the voxels of"
    )
    assert lacking.startswith(f"scans that lack many voxels of the others: sub-{at:03d} (")
    assert open_store(tmp_path / "store").manifest["mask_notes"] == [alone, lacking]


@pytest.mark.parametrize(("n_voxels", "is_told"), [(60, True), (8, False)])
def test_from_three_percent_on(tmp_path, n_voxels, is_told):
    def holed(image):
        image = image.copy()
        image.reshape(-1)[np.flatnonzero(image > 0.2)[:n_voxels]] = 0
        return image

    paths, values = write_many(tmp_path, 20, odd={3: holed})
    lost = removed_alone(values)
    share = lost[3] / (lost[3] + expected_mask(values).sum())
    assert share > 0.03 if is_told else 0 < share < 0.03
    notes = pack_maps(paths, tmp_path / "store").manifest["mask_notes"]
    assert any(f"sub-003 ({lost[3]} voxels" in note for note in notes) == is_told


def test_sound_maps_give_no_note(tmp_path, maps):
    assert pack_maps(maps, tmp_path / "store").manifest["mask_notes"] == []


def test_two_maps_cut_off_alike_are_named(tmp_path):
    """None of them alone takes anything out."""
    for n_scans, cut_ones in ((12, (3, 4)), (40, (10, 15)), (40, (11, 12)), (40, (10, 11))):
        folder = tmp_path / f"{n_scans}_{cut_ones[0]}_{cut_ones[1]}"
        paths, values = write_many(folder, n_scans, odd=dict.fromkeys(cut_ones, cut))
        store = pack_maps(paths, folder / "store")
        assert np.array_equal(store.space.unmask(store.mask) > 0, expected_mask(values))
        told = [note for note in store.manifest["mask_notes"] if note.startswith("scans that lack many voxels")]
        assert len(told) == 1
        assert all(f"sub-{i:03d} (" in told[0] for i in cut_ones)


@pytest.mark.parametrize("n_cut", [2, 3])
def test_maps_that_lack_a_fifth_alike_are_named(tmp_path, n_cut):
    odd = dict.fromkeys(range(4, 4 + n_cut), lambda image: cut(image, slice(0, 4)))
    paths, values = write_many(tmp_path, 20, odd=odd)
    present = (values > 0.1).reshape(20, -1).sum(axis=1)
    assert 0.75 < present[4] / np.median(present) < 0.9
    (told,) = pack_maps(paths, tmp_path / "store").manifest["mask_notes"]
    assert all(f"sub-{i:03d} ({1 - present[i] / np.median(present):.0%})" in told for i in range(4, 4 + n_cut))


def test_scans_that_are_added_are_named_and_those_before_are_not_forgotten(tmp_path):
    paths, values = write_many(tmp_path, 20, odd={3: cut, 17: lambda image: cut(image, slice(8, 9))})
    ids = list(paths)
    pack_maps({scan: paths[scan] for scan in ids[:15]}, tmp_path / "store")
    store = pack_maps(paths, tmp_path / "store")
    assert len(store.segments) == 2
    lost = removed_alone(values)
    assert f"sub-003 ({lost[3]} voxels" in store.manifest["mask_notes"][0]
    assert f"sub-017 ({lost[17]} voxels" in store.manifest["mask_notes"][0]


@pytest.mark.parametrize("n_scans", [12, 40])
@pytest.mark.parametrize("nan", ["raise", "exclude"])
@pytest.mark.parametrize("at", [5, 11])
def test_an_empty_mask_names_the_culprit(tmp_path, n_scans, at, nan):
    paths, values = write_many(tmp_path, n_scans, odd={at: np.zeros_like})
    with pytest.raises(ScanError, match=rf"maps with the same value at every voxel read: sub-{at:03d} \(0\); make"):
        pack_maps(paths, tmp_path / "store", MaskRule(nan=nan))
    write(paths[f"sub-{at:03d}"], np.full(SHAPE, np.nan))
    inside, flat = rf"NaN or .* inside the mask: sub-{at:03d} \(\d+ voxels\)", rf"voxel read: sub-{at:03d} \(nan\)"
    with pytest.raises(ScanError, match=inside if nan == "raise" else flat):
        pack_maps(paths, tmp_path / "store", MaskRule(nan=nan))
    write(paths[f"sub-{at:03d}"], values[0] * 0.1)
    with pytest.raises(ScanError, match=rf"no voxel is above 0.1 .*; scans that alone remove voxels: sub-{at:03d}"):
        pack_maps(paths, tmp_path / "store", MaskRule(nan=nan))


def test_halves_that_have_nothing_in_common_are_both_named(tmp_path):
    paths, _ = write_many(tmp_path, 20, odd={3: cut, 4: lambda image: cut(image, slice(6, 11))})
    with pytest.raises(ScanError, match=r"no voxel .* remove voxels: sub-003 \(\d+ voxels\), sub-004 \(\d+ v"):
        pack_maps(paths, tmp_path / "store")


def test_constant_maps_are_refused(tmp_path):
    paths, _ = write_many(tmp_path, 12, odd={7: lambda image: np.full_like(image, 0.5)})
    for rule in (MaskRule(), MaskRule(None)):
        with pytest.raises(ScanError, match=r"maps with the same value at every voxel read: sub-007 \(0.5\)"):
            pack_maps(paths, tmp_path / "store", rule)
    write(paths["sub-007"], np.zeros(SHAPE))  # without a threshold: a healthy person's map of lesions
    assert pack_maps(paths, tmp_path / "store", MaskRule(None)).mask.any()


@pytest.mark.parametrize("threshold", [0.1, None])
def test_a_mask_that_selects_nothing(tmp_path, maps, threshold):
    write(tmp_path / "mask.nii", np.full(SHAPE, 0.4))
    with pytest.raises(ScanError, match=r"mask.nii: no voxel of this mask is above 0.5; expected an image that is 1"):
        pack_maps(maps, tmp_path / "store", MaskRule(threshold, image=tmp_path / "mask.nii"))


def test_a_single_scan(tmp_path, maps):
    scan = next(iter(maps))
    with pytest.raises(ScanError, match="expected two scans or more, got one"):
        pack_maps({scan: maps[scan]}, tmp_path / "store")


def test_copies_of_one_map(tmp_path, images):
    paths = {f"s{i}": tmp_path / f"mwp1s{i}.nii" for i in range(5)}
    for path in paths.values():
        write(path, images[0])
    with pytest.raises(ScanError, match=r"no voxel above 0.1 varies between the 5 scans: their maps are equal"):
        pack_maps(paths, tmp_path / "store")
    for path in paths.values():
        write(path, np.full(SHAPE, np.nan))
    with pytest.raises(ScanError, match="the maps of all 5 scans have only NaN"):
        pack_maps(paths, tmp_path / "store")


def test_rules_that_make_no_sense():
    with pytest.raises(ScanError, match="0 < share <= 1"):
        MaskRule(share=0)
    with pytest.raises(ScanError, match="'raise' or 'exclude'"):
        MaskRule(nan="zero")


def test_rows_by_id():
    assert row_positions(["a", "b", "c"], ["c", "a"]).tolist() == [2, 0]
    with pytest.raises(ScanError, match="no map for d"):
        row_positions(["a"], ["d"])
    with pytest.raises(ScanError, match="2 rows"):
        ArrayMaps(np.zeros((3, 2)), ("a", "b"))
    with pytest.raises(ScanError, match="1 values are missing or infinite, in b"):
        ArrayMaps(np.array([[1.0], [np.nan]]), ("a", "b"))
