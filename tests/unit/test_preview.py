from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genaug.classifier import Normalize
from genaug.mixing.base import Context, Identity
from genaug.mixing.cutmix import CutMix
from genaug.mixing.guided import GuidedMix
from genaug.mixing.mixup import MixUp
from genaug.mixing.preview import Mixed, heat, main, mix_once, own_share, tiles
from genaug.saliency.spectral_residual import SpectralResidual

MIXERS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "mixer").glob("*.yaml"))
CLASSES = ["gull", "tern", "wren"]


def mixed(mixer) -> Mixed:
    images = Normalize(3)(torch.randint(256, (3, 16, 16, 3), generator=torch.Generator().manual_seed(0)).byte())
    return mix_once(mixer, images, torch.eye(3), Context(), seed=0)


def shown(batch: Mixed) -> list[list[str]]:
    """Texts, row by row."""
    texts = [text for _, text in tiles(batch, Normalize(3), CLASSES)]
    size = len(texts) // 3
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def test_a_row_tells_what_went_in_and_came_out():
    rows = shown(mixed(GuidedMix(SpectralResidual())))
    assert [len(row) for row in rows] == [6, 6, 6]
    assert [row[0] for row in rows] == CLASSES
    assert rows[0][1] == rows[0][3] == "saliency"
    assert rows[0][2] in ("with + tern", "with + wren")
    assert rows[0][4].startswith("own share 0.")
    assert " gull" in rows[0][5]
    assert rows[0][2].removeprefix("with + ") in rows[0][5]


def test_without_saliency_there_is_no_such_column():
    assert all("saliency" not in text for row in shown(mixed(MixUp())) for text in row)


def test_a_mixer_that_says_nothing_is_shown_by_its_result():
    batch = mixed(Identity())
    assert shown(batch) == [[name, name] for name in CLASSES]
    assert own_share(batch) is None


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("kind", [CutMix, MixUp])
def test_own_share_is_the_weight_of_the_label(kind, per_sample):
    batch = mixed(kind(per_sample=per_sample, pairing="roll"))
    assert own_share(batch).shape == (3, 16, 16)
    torch.testing.assert_close(own_share(batch).mean(dim=(1, 2)), batch.labels.diagonal())


def test_it_draws_until_something_is_mixed():
    assert not torch.equal(mixed(MixUp(p=0.1)).mixed, mixed(Identity()).mixed)


def test_heat_is_dark_at_zero_and_bright_at_the_top():
    picture = heat(np.array([[0.0, 2.0]])).sum(axis=-1).tolist()
    assert picture[0][0] < 30
    assert picture[0][1] > 500
    assert heat(np.zeros((2, 2))).max() < 30


@pytest.mark.parametrize("mixer", MIXERS)
def test_every_mixer_has_a_picture(mixer, tiny_folder, tmp_path, capsys):
    out = tmp_path / "pictures" / "preview.png"
    assert main([*tiny_folder.overrides(), f"mixer={mixer}", f"out={out}"]) == 0
    assert capsys.readouterr().out == f"written to {out}\n"
    with Image.open(out) as picture:
        assert picture.height == 6 * (160 + 36) + 6
        assert picture.width >= 2 * 166


def test_masks_are_read_where_the_saliency_asks_for_them(tiny_folder, tmp_path, capsys):
    words = [*tiny_folder.overrides(), "mixer=guided", "saliency=mask", f"out={tmp_path / 'p.png'}"]
    assert main(words) == 0
    capsys.readouterr()
    assert main([*words, "dataset.masks=null"]) == 1
    assert "training images have none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mixer=guided_xx"], "Could not find 'mixer/guided_xx'"),
        (["mixer.alpha=0", "mixer=mixup"], "expected a positive number, came 0"),
        (["mixer=snapmix", "model=vit_b_16"], "no vision transformer"),
        (["protocol=x"], "choose one of heldout, last, paper"),
    ],
)
def test_what_is_wrong_is_said(words, message, tiny_folder, tmp_path, capsys):
    base = [word for word in tiny_folder.overrides() if not word.startswith("model")]
    assert main([*base, *words, f"out={tmp_path / 'p.png'}"]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "p.png").exists()


def test_help(capsys):
    assert main(["--help"]) == 0
    assert "python -m genaug.mixing.preview" in capsys.readouterr().out
