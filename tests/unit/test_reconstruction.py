from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.interpolate import griddata

from genaug.metrics import reconstruction
from genaug.metrics.reconstruction import THRESHOLDS, entropy, processes, random_mask, reconstruct, reveal


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def plane(height: int, width: int, channels: int = 3) -> np.ndarray:
    y, x, c = np.mgrid[:height, :width, :channels]
    return (2 * y + 3 * x + 10 * c + 5).astype(np.uint8)


def mask(height: int, width: int, share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width)) < share


# --- reconstruct ---------------------------------------------------------------------------------------------------


def test_four_corners_and_the_middle_by_hand():
    image = np.zeros((5, 5, 1), np.uint8)
    image[[0, 0, 4, 4, 2], [0, 4, 0, 4, 2], 0] = [0, 100, 40, 200, 52]
    known = np.zeros((5, 5), bool)
    known[2, 2] = True
    # Four triangles that meet in the middle. In (1, 2): half of the middle, a quarter of each upper corner.
    expected = [
        [0, 25, 50, 75, 100],
        [10, 26, 51, 76, 125],
        [20, 36, 52, 101, 150],
        [30, 46, 86, 126, 175],
        [40, 80, 120, 160, 200],
    ]
    assert reconstruct(image, known)[..., 0].tolist() == expected


@pytest.mark.parametrize(("ends", "middle"), [((0, 1), 0), ((1, 2), 2), ((2, 3), 2), ((254, 255), 254)])
def test_a_half_goes_to_the_even_number(ends, middle):
    line = np.zeros((3, 3, 1), np.uint8)
    line[:, 0], line[:, 2] = ends
    assert reconstruct(line, np.zeros((3, 3), bool))[..., 0].tolist() == [[ends[0], middle, ends[1]]] * 3


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("shape", [(7, 9, 3), (12, 12, 1), (31, 17, 3), (2, 40, 1)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_a_plane_comes_back_whatever_is_known(shape, share, exact):
    image = plane(*shape)
    assert np.array_equal(reconstruct(image, mask(*shape[:2], share), exact), image)


@pytest.mark.parametrize("exact", [True, False])
def test_what_is_known_stays_and_nothing_is_written_to(exact):
    image, known = noise(15, 11), mask(15, 11, 0.4)
    image_before, known_before = image.copy(), known.copy()
    found = reconstruct(image, known, exact)
    assert np.array_equal(found[known], image[known])
    assert np.array_equal(found[[0, 0, -1, -1], [0, -1, 0, -1]], image[[0, 0, -1, -1], [0, -1, 0, -1]])
    assert not np.array_equal(found, image)
    assert np.array_equal(image, image_before)
    assert np.array_equal(known, known_before)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_that_is_all_known_comes_back_as_a_copy(channels):
    image = noise(6, 8, channels)
    known = np.ones((6, 8), bool)
    known[[0, 0, -1, -1], [0, -1, 0, -1]] = False  # corners count as known
    found = reconstruct(image, known)
    assert np.array_equal(found, image)
    assert found.dtype == np.uint8
    assert not np.shares_memory(found, image)


def by_griddata(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """PAIR's ``create_blurred_image``: each channel by itself, collected in single precision, rounded, uint8."""
    known = known.copy()
    known[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    filled = image * known[..., None].astype(np.float32)
    for channel in range(image.shape[2]):
        colours = image[..., channel]
        filled[..., channel][~known] = griddata(
            np.argwhere(known), colours[known], np.argwhere(~known), method="linear", fill_value=np.mean(colours)
        )
    return np.round(filled).astype(np.uint8)


@pytest.mark.parametrize("shape", [(32, 32, 3), (33, 20, 3), (24, 31, 1)])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.8])
def test_exact_gives_the_bytes_of_griddata(shape, share):
    for seed in range(3):
        image, known = noise(*shape, seed=seed), mask(*shape[:2], share, seed=seed + 100)
        assert np.array_equal(reconstruct(image, known), by_griddata(image, known))


@pytest.mark.parametrize(("height", "width", "told"), [(9, 20, 6), (21, 15, 9), (33, 40, 30)])
def test_fast_is_exact_where_no_four_pixels_lie_on_one_circle(height, width, told, monkeypatch):
    # Left all is known; right of it only the corners, and with an odd height none of the triangles has a rival.
    image, known = noise(height, width), np.zeros((height, width), bool)
    known[:, :told] = True
    counts = []
    triangulate = reconstruction.Delaunay
    monkeypatch.setattr(reconstruction, "Delaunay", lambda points: counts.append(len(points)) or triangulate(points))
    assert np.array_equal(reconstruct(image, known, exact=False), reconstruct(image, known))
    # The last column that is known, and the corners, of which one column is no part.
    assert counts == [height + 4, height * told + 2]


def test_fast_differs_little_from_exact():
    y, x = np.mgrid[:48, :48] / 48
    image = (127 + 120 * np.sin(9 * x) * np.cos(7 * y))[..., None].astype(np.uint8)
    known = ((y - 0.5) ** 2 + (x - 0.4) ** 2 < 0.1) | mask(48, 48, 0.02)
    exact, fast = (reconstruct(image, known, exact=one).astype(int) for one in (True, False))
    assert (exact[~known] != fast[~known]).mean() < 0.05
    assert np.abs(exact - fast).max() < 30


# --- random_mask ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "fraction", "count"),
    [((64, 64), 0.01, 40), ((224, 224), 0.01, 501), ((9, 11), 0.01, 0), ((3, 50), 0.5, 75), ((5, 5), 1, 25)],
)
def test_the_random_mask_has_so_many_pixels(shape, fraction, count):
    found = random_mask(*shape, seed=3, fraction=fraction)
    assert (found.shape, found.dtype, found.sum()) == (shape, bool, count)


def test_the_seed_names_the_random_mask():
    first, again, other = (random_mask(20, 30, seed=seed, fraction=0.5) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert 100 < (first != other).sum() < 500  # 300 of 600 in the mean


def test_the_random_mask_can_be_anywhere():
    often = sum(random_mask(4, 5, seed=seed, fraction=0.25).astype(int) for seed in range(400))
    assert often.sum() == 400 * 5
    assert often.min() > 60  # 100 in the mean, standard deviation 9
    assert often.max() < 140


def test_the_random_mask_leaves_numpys_generator_alone():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    random_mask(8, 8, seed=1)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("fraction", [-0.01, 1.01, float("nan")])
def test_a_fraction_that_is_no_share_is_refused(fraction):
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\], came"):
        random_mask(8, 8, seed=0, fraction=fraction)


# --- entropy -------------------------------------------------------------------------------------------------------


def texture(height: int, width: int) -> np.ndarray:
    """A smooth picture with a little noise, whose bytes depend on how hard WebP tries."""
    y, x = np.mgrid[:height, :width]
    smooth = 127 + 60 * np.sin(x / 5) * np.cos(y / 7)
    return (smooth + np.random.default_rng(0).normal(0, 6, (3, height, width))).astype(np.uint8).transpose(1, 2, 0)


@pytest.mark.parametrize("image", [noise(16, 16), noise(13, 21), noise(16, 24, 1), texture(48, 48)])
def test_entropy_is_the_size_of_a_file(image, tmp_path):
    Image.fromarray(image.squeeze()).save(tmp_path / "x.webp", lossless=True, quality=100)
    assert entropy(image) == (tmp_path / "x.webp").stat().st_size


def test_grey_has_the_entropy_of_its_colours():
    image = noise(20, 20, 1)
    assert entropy(image) == entropy(image[..., 0]) == entropy(image.repeat(3, axis=2))


def test_noise_holds_more_than_a_plane():
    assert entropy(np.full((32, 32, 3), 7, np.uint8)) < entropy(plane(32, 32)) < entropy(noise(32, 32)) / 4
    assert entropy(noise(32, 32)) > 32 * 32 * 3  # cannot be compressed


# --- reveal --------------------------------------------------------------------------------------------------------


@pytest.fixture
def shown(monkeypatch):
    """Instead of reconstructions, pictures of what was known: 255 where it was told, 0 elsewhere."""
    calls = []

    def picture(image, known, exact):
        calls.append(exact)
        return np.where(known[..., None], 255, 0).astype(np.uint8).repeat(image.shape[2], axis=2)

    monkeypatch.setattr(reconstruction, "reconstruct", picture)
    return calls


def told(revealed) -> list[list[int]]:
    """Numbers of the pixels that each picture but the last told."""
    return [np.flatnonzero(one[..., 0] == 255).tolist() for one in revealed.images[:-1]]


BLACK, NOTHING = np.zeros((4, 5, 1), np.uint8), np.zeros((4, 5), bool)


def test_the_quantile_of_each_threshold_by_hand(shown):
    # The quantile of 0 ... 19 at 1 - t is 19 (1 - t): 18.05, 14.25, 9.5, 4.75.
    saliency = np.arange(20.0).reshape(4, 5)
    revealed = reveal(BLACK, saliency, NOTHING, thresholds=(0.05, 0.25, 0.5, 0.75))
    assert told(revealed) == [[], [19], [15, 16, 17, 18, 19], list(range(10, 20)), list(range(5, 20))]
    assert shown == [True] * 5


def test_the_random_mask_is_told_too(shown):
    known = NOTHING.copy()
    known[0, 2] = known[3, 4] = True
    revealed = reveal(BLACK, -np.arange(20.0).reshape(4, 5), known, thresholds=(0.05, 0.2))
    assert told(revealed) == [[2, 19], [0, 2, 19], [0, 1, 2, 3, 19]]


def test_tied_pixels_are_told_together(shown):
    saliency = np.zeros((4, 5))
    saliency[1] = 3.0
    saliency[2, 0] = 5.0
    # Sorted: 14 zeros, five threes, a five. The quantiles, at places 17.86, 17.1, 14.25 and 4.75, are 3, 3, 3 and 0.
    revealed = reveal(BLACK, saliency, NOTHING, thresholds=(0.06, 0.1, 0.25, 0.75))
    assert told(revealed)[:4] == [[], *[[5, 6, 7, 8, 9, 10]] * 3]
    assert np.array_equal(revealed.images[4], BLACK)  # at zero all are told: the image itself


def test_what_is_told_twice_is_made_once(shown):
    saliency = np.zeros((4, 5))
    saliency[1] = 1.0
    revealed = reveal(BLACK, saliency, NOTHING, thresholds=(0.05, 0.1, 0.2, 0.5))
    assert len(shown) == 2  # the blurred image, and one for three thresholds
    assert len(revealed.images) == len(revealed.entropies) == 6


def test_the_quantile_has_the_precision_of_the_map(shown):
    # As PAIR's program asks: one threshold at a time. All at once are computed in double precision.
    saliency = np.random.default_rng(288).random((16, 16), dtype=np.float32)
    image, nothing = np.zeros((16, 16, 1), np.uint8), np.zeros((16, 16), bool)
    at_once = saliency >= np.quantile(saliency, [1 - one for one in THRESHOLDS])[THRESHOLDS.index(0.07)]
    assert at_once.sum() == 18  # the map is one where that matters
    revealed = reveal(image, saliency, nothing)
    expected = [(saliency >= np.quantile(saliency, 1 - one)).sum() for one in THRESHOLDS]
    assert [len(one) for one in told(revealed)] == [0, *expected]
    assert len(told(revealed)[1 + THRESHOLDS.index(0.07)]) == 19


def test_thresholds_of_numpys_type_are_the_same_thresholds(shown):
    saliency = np.random.default_rng(288).random((16, 16), dtype=np.float32)
    image, nothing = np.zeros((16, 16, 1), np.uint8), np.zeros((16, 16), bool)
    assert told(reveal(image, saliency, nothing, np.array(THRESHOLDS))) == told(reveal(image, saliency, nothing))


def test_the_order_of_images_and_what_they_hold():
    image, known = noise(16, 20), random_mask(16, 20, seed=0, fraction=0.1)
    saliency = np.random.default_rng(1).random((16, 20))
    revealed = reveal(image, saliency, known, thresholds=(0.1, 0.6))
    tops = [saliency >= np.sort(saliency.ravel())[-count] for count in (32, 192)]  # 10 % and 60 % of 320
    expected = [by_griddata(image, known), *(by_griddata(image, known | top) for top in tops), image]
    assert np.array_equal(revealed.images, np.stack(expected))
    assert revealed.entropies.tolist() == [entropy(one) for one in expected]


def test_exact_is_handed_on(shown):
    reveal(BLACK, np.arange(20.0).reshape(4, 5), NOTHING, thresholds=(0.5,), exact=False)
    assert shown == [False, False]


@pytest.mark.parametrize("channels", [1, 3])
def test_what_another_map_left_is_used(channels, monkeypatch):
    image, known = noise(16, 16, channels), random_mask(16, 16, seed=0)
    maps = [np.random.default_rng(seed).random((16, 16)) for seed in (0, 1)]
    left = reveal(image, maps[0], known).blurred
    expected = reveal(image, maps[1], known)
    calls = []
    for name in ("reconstruct", "entropy"):
        real = getattr(reconstruction, name)
        monkeypatch.setattr(
            reconstruction, name, lambda *given, name=name, real=real: calls.append(name) or real(*given)
        )
    found = reveal(image, maps[1], known, blurred=left)
    assert np.array_equal(found.images, expected.images)
    assert np.array_equal(found.entropies, expected.entropies)
    assert (calls.count("reconstruct"), calls.count("entropy")) == (13, 13)
    assert (left.entropy, left.original_entropy) == (expected.entropies[0], expected.entropies[-1])


# --- processes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [-1, 0, 1])
def test_one_worker_is_none(workers):
    with processes(workers) as pool:
        assert pool is None


@pytest.mark.slow
def test_processes_reveal_the_same():
    images = [noise(24, 20, channels, seed=channels) for channels in (1, 3, 3)]
    maps = [np.random.default_rng(seed).random((24, 20), dtype=np.float32) for seed in range(3)]
    known = [random_mask(24, 20, seed) for seed in range(3)]
    with processes(2) as pool:
        there = list(pool.map(reveal, images, maps, known))
    for found, *given in zip(there, images, maps, known, strict=True):
        here = reveal(*given)
        assert np.array_equal(found.images, here.images)
        assert np.array_equal(found.entropies, here.entropies)
