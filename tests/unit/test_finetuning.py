"""Fine-tuned denoisers: made once, whatever is killed; read by diffusers itself; used by a generator until unloaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from diffusers import AutoPipelineForText2Image
from PIL import Image
from renderers import runner_in
from safetensors.torch import load_file
from tiny_models import save_flux, save_rgba_vae, save_sd15, save_sdxl

from genaug.data.base import Sample
from genaug.generation.diffusion import Diffusion
from genaug.generation.gallery import Gallery
from genaug.generation.lesson import Lesson
from genaug.generation.lora_training import FineTuning
from genaug.generation.transparency import FourChannelVAE
from genaug.synthesis.finetuning import CHECKPOINT, LORA, RECORD, make_adapter
from genaug.synthesis.runner import Runner

BIRDS = SimpleNamespace(classes=("Jay", "Finch", "Sedan"), superclasses=("bird", "bird", "car"), image_size=32)
PROMPT = "a photo of a <class_0> bird"


class Counting(FineTuning):
    """Says how often it learned, and keeps what it was given."""

    def __init__(self, **settings):
        short = {"rank": 2, "steps": 2, "batch_size": 2, "learning_rate": 0.05, "word_learning_rate": 0.05}
        super().__init__(**(short | settings))
        self.given = []

    def learn(self, generator, words, latents, word_of, checkpoint=None):
        self.given.append((words, latents, word_of))
        return super().learn(generator, words, latents, word_of, checkpoint)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sd15(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture
def generator(folder):
    return Diffusion(str(folder), steps=4, size=32, batch_size=2)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Noise: three pictures of class 2, two of class 0, of several sizes."""
    folder, rng, made = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1), []
    for number, (label, height, width) in enumerate([(2, 32, 48), (0, 40, 32), (2, 32, 32), (0, 64, 64), (2, 50, 40)]):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(path)
        made.append(Sample(path.name, path, label))
    return made


def adapter(samples, finetuning, generator, folder, dataset=BIRDS):
    return make_adapter(samples, dataset, finetuning, generator, folder / "adapters", runner_in(folder))


@pytest.fixture(scope="module")
def trained(samples, folder, tmp_path_factory):
    """An adapter that can be seen in images."""
    generator = Diffusion(str(folder), steps=4, size=32, batch_size=2)
    return adapter(samples, Counting(steps=6, learning_rate=0.2), generator, tmp_path_factory.mktemp("trained"))


def edit(generator, prompts=(PROMPT,), seeds=(0,), side=32):
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    return generator.image_to_image([image] * len(prompts), list(prompts), list(seeds), 0.8)


# --- what is learned from ------------------------------------------------------------------------------------------


def test_it_learns_from_the_middle_squares_and_their_mirror_images(samples, generator, tmp_path):
    finetuning = Counting()
    adapter(samples, finetuning, generator, tmp_path)
    ((words, latents, word_of),) = finetuning.given
    assert [(word.token, word.superclass) for word in words] == [("<class_0>", "bird"), ("<class_2>", "car")]
    assert word_of.tolist() == [0, 0, 1, 1, 1] * 2
    assert latents.shape == (10, 4, 16, 16)
    generator.load("cpu")
    squares = []
    for name, top, left, side in [("0", 0, 8, 32), ("1", 4, 0, 32), ("2", 0, 0, 32)]:
        image = np.asarray(Image.open(samples[int(name)].path))
        squares.append(image[top : top + side, left : left + side])
    halved = cv2.resize(np.asarray(Image.open(samples[3].path)), (32, 32), interpolation=cv2.INTER_AREA)
    for image in [*squares, halved]:
        for turned in (image, image[:, ::-1].copy()):
            latent = generator.image_latents([turned])[0]
            near = [(latent - one).abs().max() < 1e-4 for one in latents]
            assert sum(near) == 1


def test_pictures_of_another_size_and_no_mirror(samples, generator, tmp_path):
    finetuning = Counting(size=48, mirror=False)
    adapter(samples, finetuning, generator, tmp_path)
    assert finetuning.given[0][1].shape == (5, 4, 24, 24)
    assert finetuning.given[0][2].tolist() == [0, 0, 1, 1, 1]


def test_images_of_several_classes_are_refused(samples, generator, tmp_path):
    several = [*samples[:2], replace(samples[2], label=(0, 2))]
    with pytest.raises(ValueError, match=r"2.png shows the classes \(0, 2\)"):
        adapter(several, Counting(), generator, tmp_path)


# --- once ----------------------------------------------------------------------------------------------------------


def test_nothing_is_learned_twice_and_nothing_loaded_for_it(samples, generator, tmp_path, monkeypatch):
    first = adapter(samples, Counting(), generator, tmp_path)
    monkeypatch.setattr(Diffusion, "load", lambda self, device: pytest.fail("loaded"))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    others = [replace(one, id=f"new{one.id}", path=Path(shutil.copy(one.path, moved))) for one in samples]
    again = adapter(others[::-1], idle := Counting(micro_batch_size=1), generator, tmp_path)
    assert idle.given == []
    assert (again.key, again.lora) == (first.key, first.lora)
    assert all(torch.equal(again.vectors[token][0], rows[0]) for token, rows in first.vectors.items())
    assert list(first.vectors) == ["<class_0>", "<class_2>"]
    report = first.report()
    assert {name: report[name] for name in ("words", "pictures", "steps", "device")} == {
        "words": 2, "pictures": 5, "steps": 2, "device": "cpu",
    }  # fmt: skip
    assert report["seconds"] > 0
    assert {path.name for path in first.lora.parent.iterdir()} == {LORA, RECORD, "learned_embeds.safetensors"}


def test_whatever_changes_the_result_changes_its_key(samples, folder, generator, tmp_path, monkeypatch):
    def key(samples=samples, finetuning=None, generator=generator, dataset=BIRDS):
        return adapter(samples, finetuning or Counting(), generator, tmp_path, dataset).key

    monkeypatch.setattr(FineTuning, "learn", lambda *given: pytest.fail("learned"))
    monkeypatch.setattr("genaug.synthesis.finetuning._Work.is_done", lambda self: True)
    monkeypatch.setattr("genaug.synthesis.finetuning._Work.result", lambda self: self)
    other = replace(samples[0], path=samples[1].path)
    others = [
        key(samples[1:]),
        key([other, *samples[1:]]),
        key([replace(samples[0], label=1), *samples[1:]]),
        key(finetuning=Counting(rank=3)),
        key(finetuning=Counting(size=48)),
        key(generator=Diffusion(str(folder), steps=4, size=48, batch_size=2)),
        key(dataset=SimpleNamespace(**vars(BIRDS) | {"superclasses": ("bird", "bird", "vehicle")})),
    ]
    assert len({key(), *others}) == len(others) + 1
    guided = Diffusion(str(folder), steps=9, size=32, batch_size=3, guidance=3.0)
    assert key(generator=guided) == key(), "learned without guidance"


def test_a_killed_run_is_gone_on_from_and_the_result_is_the_same(samples, generator, tmp_path, monkeypatch):
    whole = adapter(samples, Counting(steps=4), generator, tmp_path / "whole")
    backward, steps = Lesson.backward, []

    def killed(self, step, *rest):
        steps.append(step)
        if len(steps) == 4:
            raise InterruptedError
        return backward(self, step, *rest)

    monkeypatch.setattr(Lesson, "backward", killed)
    with pytest.raises(InterruptedError):
        adapter(samples, Counting(steps=4), generator, tmp_path)
    (left,) = (tmp_path / "adapters").glob("*/")
    assert [path.name for path in left.iterdir()] == [CHECKPOINT]
    done = adapter(samples, Counting(steps=4), generator, tmp_path)
    assert steps == [0, 1, 2, 3, 3]
    assert done.key == whole.key
    for name in (LORA, "learned_embeds.safetensors"):
        assert (done.lora.parent / name).read_bytes() == (whole.lora.parent / name).read_bytes()
    assert not (left / CHECKPOINT).exists()


def test_a_file_that_was_cut_short_is_made_again(samples, generator, tmp_path):
    first = adapter(samples, Counting(), generator, tmp_path)
    data = first.lora.read_bytes()
    first.lora.write_bytes(data[:-1])
    assert adapter(samples, again := Counting(), generator, tmp_path).lora.read_bytes() == data
    assert len(again.given) == 1


class OneOfTwo(Runner):
    """One of two processes, which finds that the other has done it."""

    def __init__(self, runner):
        super().__init__(runner.trainer, runner.stores)
        self.trainer, self.calls = SimpleNamespace(world_size=2), 0

    def everywhere(self, task):
        self.calls += 1
        task("cpu")


def test_processes_that_belong_together_take_part_together(samples, generator, tmp_path):
    adapter(samples, Counting(), generator, tmp_path)
    runner = OneOfTwo(runner_in(tmp_path))
    make_adapter(samples, BIRDS, idle := Counting(), generator, tmp_path / "adapters", runner)
    assert (runner.calls, idle.given) == (1, [])


WORKER = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {unit!r}]
from test_finetuning import BIRDS, Counting, Diffusion, Sample, adapter
samples = [Sample(Path(path).name, Path(path), label) for path, label in {samples!r}]
finetuning = Counting(steps=10)
made = adapter(samples, finetuning, Diffusion({model!r}, steps=4, size=32, batch_size=2), Path({folder!r}))
print("learned:", len(finetuning.given), made.key)
"""


@pytest.mark.slow
def test_of_two_processes_one_learns_and_the_other_waits(samples, folder, tmp_path):
    here = Path(__file__).parent
    given = [(str(sample.path), sample.label) for sample in samples]
    script = WORKER.format(
        tests=str(here.parent), unit=str(here), model=str(folder), folder=str(tmp_path), samples=given
    )
    started = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=300)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    lines = [line.split() for answer in answers for line in answer.splitlines() if line.startswith("learned:")]
    assert sorted(line[1] for line in lines) == ["0", "1"]
    assert lines[0][2] == lines[1][2]


# --- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_diffusers_reads_the_files_and_gets_the_same_images(samples, folder, tmp_path, family):
    model = folder if family == "sd15" else save_sdxl(tmp_path / "sdxl")
    generator = Diffusion(str(model), steps=4, size=32, batch_size=1, guidance=5.0)
    made = adapter(samples, Counting(steps=4, learning_rate=0.2), generator, tmp_path)
    files = sorted(path.name for path in made.lora.parent.glob("learned*"))
    assert files == ["learned_embeds.safetensors", "learned_embeds_2.safetensors"][: 1 + (family == "sdxl")]

    generator.load("cpu")
    plain = generator.text_to_image(["a photo of a bird"], [3], (32, 32))[0]
    made.add_to(generator)
    ours = generator.text_to_image([PROMPT], [3], (32, 32))[0]

    fresh = AutoPipelineForText2Image.from_pretrained(str(model), **generator._quiet)
    fresh.load_lora_weights(str(made.lora.parent))
    for number, name in enumerate(files):
        suffix = "_2" * number
        table = load_file(made.lora.parent / name)
        parts = {part: getattr(fresh, part + suffix) for part in ("tokenizer", "text_encoder")}
        fresh.load_textual_inversion(
            list(table.values()), token=list(table), tokenizer=parts["tokenizer"], text_encoder=parts["text_encoder"]
        )
    random = torch.Generator().manual_seed(3)
    theirs = fresh(PROMPT, num_inference_steps=4, guidance_scale=5.0, height=32, width=32, generator=random)
    assert np.abs(np.asarray(theirs.images[0]).astype(int) - ours).max() <= 1
    assert np.abs(plain.astype(int) - ours).max() > 10


# --- a generator that takes a LoRA ---------------------------------------------------------------------------------


def test_a_lora_changes_the_images_of_every_call_until_it_is_unloaded(generator, trained):
    generator.load("cpu")
    mask = np.zeros((32, 32), bool)
    mask[8:24] = True

    def images():
        image = np.full((32, 32, 3), 90, np.uint8)
        return [
            generator.text_to_image(["a bird"], [1], (32, 32))[0],
            generator.image_to_image([image], ["a bird"], [1], 0.8)[0],
            generator.inpaint([image], [mask], ["a bird"], [1])[0],
        ]

    plain = images()
    generator.add_lora(trained.lora)
    tuned = images()
    assert all(np.abs(a.astype(int) - b).max() > 5 for a, b in zip(plain, tuned, strict=True))
    generator.add_lora(trained.lora)  # not twice as much of it
    assert all((a == b).all() for a, b in zip(tuned, images(), strict=True))
    generator.unload()
    generator.load("cpu")
    assert all((a == b).all() for a, b in zip(plain, images(), strict=True))
    trained.add_to(generator)  # and again
    assert all((a == b).all() for a, b in zip(tuned, images(), strict=True))


def test_an_image_does_not_depend_on_its_batch(generator, trained):
    generator.load("cpu")
    trained.add_to(generator)
    prompts, seeds = [PROMPT, "a photo of a <class_2> car", PROMPT], [4, 5, 6]
    together = edit(generator, prompts, seeds)
    alone = [edit(generator, [prompt], [seed])[0] for prompt, seed in zip(prompts, seeds, strict=True)]
    assert all((a == b).all() for a, b in zip(together, alone, strict=True))
    assert (together[0] != together[2]).any()


def test_transparent_images_get_it_too(folder, trained, tmp_path):
    transparency = FourChannelVAE(str(_with_lora(save_rgba_vae(tmp_path / "vae"), trained.lora)))
    generator = Diffusion(str(folder), steps=4, size=32, batch_size=2, transparency=transparency)
    image = np.full((32, 32, 4), 120, np.uint8)

    def edited():
        return generator.edit_transparent([image], ["a bird"], [1], 0.8)[0]

    generator.load("cpu")
    first = edited()
    generator.add_lora(trained.lora)
    changed = edited()
    assert (first != changed).any()
    opaque = edit(generator, ["a bird"])[0]
    generator.unload()
    generator.load("cpu")
    generator.add_lora(trained.lora)  # before anything transparent
    assert (edit(generator, ["a bird"])[0] == opaque).all()
    assert (edited() == changed).all()


def _with_lora(folder: Path, file: Path) -> Path:
    """An autoencoder that brings a LoRA for transparent images: here the same as the other."""
    shutil.copy(file, folder / FourChannelVAE.LORA)
    return folder


def test_what_cannot_take_a_lora_says_so(generator, trained, tmp_path):
    with pytest.raises(RuntimeError, match="no weights yet"):
        generator.add_lora(trained.lora)
    generator.load("cpu")
    with pytest.raises(FileNotFoundError, match="no LoRA at .*missing"):
        generator.add_lora(tmp_path / "missing.safetensors")
    generator.add_lora(trained.lora)
    with pytest.raises(ValueError, match="unload the generator first"):
        generator.add_lora(Path(shutil.copy(trained.lora, tmp_path / "other.safetensors")))
    with pytest.raises(NotImplementedError, match="Gallery takes no LoRA"):
        Gallery.__new__(Gallery).add_lora(trained.lora)
    flux = Diffusion(str(save_flux(tmp_path / "flux")), steps=2, size=32)
    flux.load("cpu")
    with pytest.raises(NotImplementedError, match="has no U-Net"):
        flux.add_lora(trained.lora)


def test_the_record_names_the_files(trained):
    record = json.loads((trained.lora.parent / RECORD).read_text())
    assert record["files"] == {path.name: path.stat().st_size for path in trained.lora.parent.glob("*.safetensors")}
    assert record["key"] == trained.key == trained.lora.parent.name
