from __future__ import annotations

import pytest
import torch

from genaug.functional.maps import peaks
from genaug.mixing.base import Context
from genaug.mixing.saliencymix import SaliencyMix
from genaug.saliency.base import Saliency

SIDE = 16
PEAKS = [(2, 3), (8, 8), (15, 0), (5, 12)]


class Planted(Saliency):
    """The largest value where the brightest pixel of an image is; counts the images it is shown."""

    def __init__(self) -> None:
        self.shown: list[int] = []

    def __call__(self, images, targets, context):
        self.shown.append(len(images))
        return images[:, 1].clone()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def peaked(peaks=PEAKS) -> torch.Tensor:
    """Image i is i in its first channel; the second has its peak at ``peaks[i]``."""
    images = torch.zeros(len(peaks), 2, SIDE, SIDE)
    for number, (y, x) in enumerate(peaks):
        images[number, 0] = number
        images[number, 1, y, x] = 1
    return images


def pasted_box(mixed: torch.Tensor, own: int) -> tuple[list[int], int]:
    """Corners of what is not the image's own, and whose it is."""
    strange = mixed[own, 0] != own
    rows, columns = strange.any(dim=1).nonzero().flatten(), strange.any(dim=0).nonzero().flatten()
    y1, y2, x1, x2 = rows[0].item(), rows[-1].item() + 1, columns[0].item(), columns[-1].item() + 1
    [value] = mixed[own, 0][y1:y2, x1:x2].unique().tolist()
    return [y1, x1, y2, x2], int(value)


def expected_box(peak: tuple[int, int], lam: float) -> list[int]:
    """CutMix's box around a peak, by hand: round the side, half of it before the centre, cut at the border."""
    side = round((1 - lam) ** 0.5 * SIDE)
    y, x = (at - side // 2 for at in peak)
    return [max(y, 0), max(x, 0), min(y + side, SIDE), min(x + side, SIDE)]


def test_each_box_lies_around_the_peak_of_the_image_it_is_cut_from(monkeypatch):
    lams = torch.tensor([0.75, 0.4375, 0.75, 0.859375], dtype=torch.float64)  # sides 8, 12, 8, 6
    monkeypatch.setattr("genaug.mixing.saliencymix.draw_lam", lambda *_: lams)
    images = peaked()
    mixed, labels = SaliencyMix(Planted(), pairing="roll")(images, torch.eye(4), generator(), Context())
    boxes = {0: [1, 8, 9, 16], 1: [0, 0, 8, 9], 2: [4, 4, 12, 12], 3: [12, 0, 16, 3]}
    for own, box in boxes.items():
        partner = (own - 1) % 4
        assert expected_box(PEAKS[partner], lams[own].item()) == box
        assert pasted_box(mixed, own) == (box, partner)
        area = (box[2] - box[0]) * (box[3] - box[1]) / SIDE**2
        assert labels[own, own].item() == pytest.approx(1 - area)
        assert labels[own, partner].item() == pytest.approx(area)


def test_the_published_code_takes_one_box_from_the_first_samples_partner(monkeypatch):
    monkeypatch.setattr("genaug.mixing.saliencymix.draw_lam", lambda *_: torch.tensor([0.75], dtype=torch.float64))
    saliency = Planted()
    mixer = SaliencyMix(saliency, pairing="flip", per_sample=False, saliency_of="first")
    mixed, labels = mixer(peaked(), torch.eye(4), generator(), Context())
    assert saliency.shown == [1]
    box = expected_box(PEAKS[3], 0.75)  # the first sample's partner is the last
    assert box == [1, 8, 9, 16]
    for own in range(4):
        assert pasted_box(mixed, own) == (box, 3 - own)
        assert labels[own].tolist() == pytest.approx([{own: 0.75, 3 - own: 0.25}.get(k, 0) for k in range(4)])


def test_one_lam_and_a_centre_for_each(monkeypatch):
    monkeypatch.setattr("genaug.mixing.saliencymix.draw_lam", lambda *_: torch.tensor([0.75], dtype=torch.float64))
    mixed, _ = SaliencyMix(Planted(), pairing="roll", per_sample=False)(peaked(), torch.eye(4), generator(), Context())
    for own in range(4):
        assert pasted_box(mixed, own)[0] == expected_box(PEAKS[(own - 1) % 4], 0.75)


def test_the_first_masks_go_with_the_first_image():
    class Masked(Planted):
        def __call__(self, images, targets, context):
            assert context.masks.flatten().tolist() == [2]
            return super().__call__(images, targets, context)

    mixer = SaliencyMix(Masked(), pairing="flip", per_sample=False, saliency_of="first")
    mixer(peaked(PEAKS[:3]), torch.eye(3), generator(), Context(masks=torch.arange(3).view(3, 1, 1)))


def test_the_first_of_several_peaks_counts():
    maps = torch.zeros(3, 4, 6)
    maps[0, 2, 5] = maps[0, 3, 0] = 1
    maps[1, 0, 4] = 2
    assert peaks(maps).tolist() == [[2, 5], [0, 4], [0, 0]]  # a map of zeros: the first pixel


@pytest.mark.parametrize("per_sample", [False, True])
def test_p_is_the_share_that_is_mixed_and_nothing_is_computed_for_the_rest(per_sample):
    saliency, draws = Planted(), generator()
    mixer = SaliencyMix(saliency, p=0.3, pairing="roll", per_sample=per_sample)
    images, targets = peaked([(8, 8), (8, 8)]), torch.eye(2)
    mixed = [mixer(images, targets, draws, Context())[1].diagonal() < 1 for _ in range(1000)]
    share = torch.stack(mixed).float().mean(dim=1)
    assert abs(share.mean() - 0.3) < 0.08
    assert len(saliency.shown) >= int((share > 0).sum())
    assert len(saliency.shown) < (600 if per_sample else 400)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"saliency_of: expected partner or first, came 'all'"):
        SaliencyMix(Planted(), saliency_of="all")
    with pytest.raises(ValueError, match=r"alpha.*came 0"):
        SaliencyMix(Planted(), alpha=0)
