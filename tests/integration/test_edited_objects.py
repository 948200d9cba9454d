"""De-DA with generation through the command line: planned, made with a tiny random model, and trained on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_models
import torch
from conftest import blob_picture, run_cli
from PIL import Image
from safetensors.torch import save_file

from genaug.generation.layerdiffuse.decoder import TransparentDecoder
from genaug.generation.layerdiffuse.encoder import TransparentEncoder
from genaug.synthesis.commands import main as genaug

pytestmark = [pytest.mark.cli, pytest.mark.slow]


def test_objects_are_edited_and_trained_on(tiny_folder, tmp_path):
    model, rgba = tiny_models.save_sd15(tmp_path / "sd15"), tiny_models.save_rgba_vae(tmp_path / "rgba")
    edit = {
        "prompt": "'a {}'",
        "copies": 2,
        "min_iou": 0,
        "area": "[0,99]",
        "min_change": 0,
    }  # what noise is edited to is noise
    command = [
        *tiny_folder.overrides(protocol="last", recipe__epochs=2, method="deda", inversion="tiny", generator="tiny"),
        f"generator.model={model}", f"generator.transparency.folder={rgba}", "generator.size=32", "generator.steps=4",
        "inversion.steps=2", "inversion.batch_size=2", "inversion.bfloat16=false", "inversion.prompts=['a {}']",
        *(f"method.synthesis.edit.{name}={value}" for name, value in edit.items()),
    ]  # fmt: skip
    planned = run_cli(*command, "plan_only=true", cwd=tmp_path)
    assert planned.rc == 0, planned.stderr
    rows = {line.split("│")[1].strip(): line.split("│")[2:] for line in planned.stdout.splitlines() if "│" in line}
    names = ("masks", "decoupled images", "words", "synthetic objects")
    assert [rows[name][0].strip() for name in names] == ["36", "36", "3", "72"]
    assert "24 x a <blue>" in planned.stdout
    assert not (tmp_path / "stores").exists()
    done = run_cli(*command, cwd=tmp_path, timeout=400)
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob("runs/*/deda/*/results.json")
    made = json.loads(file.read_text())["made"]
    assert (made["objects"], made["edit"]["planned"], made["edit"]["words"]["words"]) == (36, 72, 3)
    assert made["synthetic"] == made["edit"]["images"] > 0
    (store,) = (tmp_path / "stores" / "images").iterdir()
    assert genaug(["verify", str(store)]) == 0
    assert Image.open(file.parent / "synthesis.png").width == 6 * 166 + 6


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_objects_are_edited_through_layerdiffuse(kind, tmp_path):
    """Encoder and decoder of the published size with random weights, around a small random model of either kind."""
    files = layerdiffuse_files(kind, tmp_path)
    rng = np.random.default_rng(0)
    for colour, name in enumerate(("blue", "red")):
        picture, mask = blob_picture(64, 2 - 2 * colour, rng)
        for root, pixels in (("data", picture), ("masks", mask.astype(np.uint8) * 255)):
            for split in ("train", "test"):
                path = tmp_path / root / split / name / "1.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    edit = {"copies": 1, "prompt": "'a {}'", "min_iou": 0, "area": "[0,99]", "min_change": 0}
    done = run_cli(
        "method=deda", "dataset=folder", "dataset.root=data", "dataset.masks=masks", "segmenter=annotated",
        "dataset.image_size=32", "model=tiny", "recipe=demo", "recipe.batch_size=2", "recipe.epochs=1", "protocol=last",
        "trainer=cpu", "loader.num_workers=0", "inversion.steps=2", "inversion.batch_size=2",
        "inversion.prompts=['a {}']",
        f"generator={kind}", f"generator.model={tmp_path / kind}", "generator.size=64", "generator.steps=4",
        "generator.dtype=float32", "generator.variant=null", "generator.batch_size=2",
        *(f"generator.transparency.{name}={file}" for name, file in files.items()),
        *(f"method.synthesis.edit.{name}={value}" for name, value in edit.items()),
        cwd=tmp_path, timeout=400,
    )  # fmt: skip
    assert done.rc == 0, done.stderr
    (file,) = tmp_path.glob("runs/*/deda/*/results.json")
    edited = json.loads(file.read_text())["made"]["edit"]
    assert (edited["planned"], edited["words"]["words"]) == (2, 2)
    assert set(edited["verdicts"]) <= {"ok", "all opaque"}, "random weights leave the surroundings as they like"
    encoders = 2 if kind == "sdxl" else 1
    assert len(list((tmp_path / "stores" / "words").rglob("*.safetensors"))) == 2 * encoders


def layerdiffuse_files(kind, folder):
    """Save a model and the three files that go with it; the alpha that comes out is around a half."""
    from diffusers import AutoPipelineForText2Image

    save = {"sd15": tiny_models.save_sd15, "sdxl": tiny_models.save_sdxl}[kind]
    save(folder / kind)
    tiny_models.vae8().save_pretrained(folder / kind / "vae")
    unet = AutoPipelineForText2Image.from_pretrained(folder / kind).unet
    if kind == "sd15":
        attention = tiny_models.sd15_tensors(unet)
    else:
        parts = {True: "lora_B", False: "lora_A"}
        attention = {
            f"unet.{name}.{parts[matrix is pair[0]]}.weight": matrix
            for name, pair in tiny_models.lora_tensors(unet).items()
            for matrix in pair
        }
    decoder = TransparentDecoder()
    with torch.no_grad():
        decoder.conv_out.bias.copy_(torch.tensor([0.47, 0.5, 0.4, 0.6]))
    tensors = {"attention": attention, "encoder": TransparentEncoder().state_dict(), "decoder": decoder.state_dict()}
    files = {name: folder / f"{name}.safetensors" for name in tensors}
    for name, file in files.items():
        save_file({key: value.contiguous() for key, value in tensors[name].items()}, file)
    return files
