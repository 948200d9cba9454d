"""Words of many classes: each learned once, whatever is killed, in whatever order and process."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from renderers import runner_in
from tiny_models import save_sd15, save_sd35, save_sdxl, vae

from genaug.generation.diffusion import Diffusion
from genaug.generation.textual_inversion import TextualInversion, from_files
from genaug.generation.transparency import FourChannelVAE
from genaug.seeding import derive
from genaug.synthesis.concepts import Concepts, Request, concept_keys, learn_concepts
from genaug.synthesis.runner import Runner

CALL = "image_to_image"
TOKENS = ("<jay>", "<owl>", "<tit>")


class Counting(TextualInversion):
    """Says which words were learned, and dies at one of them."""

    def __init__(self, dies_at=None, **settings):
        super().__init__(**({"steps": 1, "batch_size": 2, "learning_rate": 0.01} | settings))
        self.dies_at, self.learned, self.latents = dies_at, [], {}

    def learn(self, generator, call, token, word, latents, last_timestep, seed):
        if token == self.dies_at:
            raise RuntimeError("killed")
        self.learned.append(token)
        self.latents[token] = latents
        return super().learn(generator, call, token, word, latents, last_timestep, seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sd15(tmp_path_factory.mktemp("models") / "sd15")


@pytest.fixture
def generator(folder):
    return Diffusion(str(folder), steps=10, size=32, batch_size=2)


def pictures(seed, count=3, channels=3, side=32):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (side, side, channels)).astype(np.uint8) for _ in range(count)]


def requests(tokens=TOKENS, **given):
    seeds = {token: number for number, token in enumerate(TOKENS)}
    return [
        Request(
            token, "bird", tuple(f"{token}{number}" for number in range(3)), lambda t=token: pictures(seeds[t], **given)
        )
        for token in tokens
    ]


def learn(wanted, inversion, generator, folder, **changes):
    arguments = {"call": CALL, "strength": 0.4} | changes
    return learn_concepts(wanted, inversion, generator, folder=folder, runner=runner_in(folder), **arguments)


def same(first: Concepts, second: Concepts) -> bool:
    return first.vectors.keys() == second.vectors.keys() and all(
        torch.equal(a, b)
        for token in first.vectors
        for a, b in zip(first.vectors[token], second.vectors[token], strict=True)
    )


# --- what is learned -----------------------------------------------------------------------------------------------


def test_a_word_is_what_learning_it_alone_gives(generator, tmp_path):
    inversion = TextualInversion(steps=2, batch_size=2, learning_rate=0.01)
    concepts = learn(requests(), inversion, generator, tmp_path)
    assert list(concepts.vectors) == list(TOKENS)
    generator.load("cpu")
    shown = pictures(1)
    latents = torch.cat([generator.image_latents([one]) for one in shown])
    mirrored = torch.cat([generator.image_latents([one[:, ::-1].copy()]) for one in shown])
    seed = derive(0, concepts.keys["<owl>"])
    alone = inversion.learn(generator, CALL, "<owl>", "bird", torch.cat([latents, mirrored]), 401, seed)
    assert torch.allclose(concepts.vectors["<owl>"][0], alone.vectors[0], atol=1e-4)
    assert not torch.allclose(concepts.vectors["<owl>"][0], concepts.vectors["<jay>"][0], atol=1e-3)


def test_the_words_work_in_prompts(generator, tmp_path):
    concepts = learn(requests(), Counting(vectors=2), generator, tmp_path)
    generator.load("cpu")
    plain = generator.text_to_image(["a photo of a <jay>"], [0], (32, 32))[0]
    generator.add_words(concepts.vectors)
    assert (generator.text_to_image(["a photo of a <jay>"], [0], (32, 32))[0] != plain).any()


def test_latents_of_pictures_are_those_that_are_edited(generator):
    generator.load("cpu")
    seen = {}
    pipeline = generator.pipeline(CALL)
    prepare = pipeline.prepare_latents
    shown = pictures(0, count=2)

    def watched(image, timestep, *rest, **more):
        seen["latents"] = pipeline.vae.encode(image).latent_dist.mode() * pipeline.vae.config.scaling_factor
        return prepare(image, timestep, *rest, **more)

    pipeline.prepare_latents = watched
    generator.image_to_image(shown, ["a", "b"], [0, 1], 0.4)
    found = generator.image_latents(shown)
    assert found.shape == (2, 4, 16, 16)
    assert torch.allclose(found, seen["latents"], atol=1e-5)


def test_latents_are_shifted_and_scaled_as_the_model_says(tmp_path):
    generator = Diffusion(str(save_sd35(tmp_path / "sd35")), steps=4, size=32)
    generator.load("cpu")
    plain = generator.image_latents(pictures(0, count=1))
    generator.pipeline(CALL).vae.register_to_config(shift_factor=0.5, scaling_factor=2.0)
    assert torch.allclose(generator.image_latents(pictures(0, count=1)), (plain / 0.18215 - 0.5) * 2, atol=1e-5)


def test_mirrored_pictures_are_learned_from_where_that_is_wanted(generator, tmp_path):
    both, plain = Counting(), Counting(mirror=False)
    learn(requests(TOKENS[:1]), both, generator, tmp_path)
    learn(requests(TOKENS[:1]), plain, generator, tmp_path)
    assert [len(one.latents["<jay>"]) for one in (both, plain)] == [6, 3]
    assert torch.allclose(both.latents["<jay>"][:3], plain.latents["<jay>"], atol=1e-5)
    generator.load("cpu")
    mirrored = generator.image_latents([picture[:, ::-1].copy() for picture in pictures(0)])
    assert torch.allclose(both.latents["<jay>"][3:], mirrored, atol=1e-5)


def test_transparent_pictures_are_learned_with_the_transparent_denoiser(folder, tmp_path):
    torch.manual_seed(0)
    vae(in_channels=4, out_channels=4).save_pretrained(tmp_path / "vae")
    generator = Diffusion(
        str(folder), steps=10, size=32, batch_size=2, transparency=FourChannelVAE(str(tmp_path / "vae"))
    )
    inversion = Counting()
    learn(requests(TOKENS[:1], channels=4), inversion, generator, tmp_path, call="edit_transparent")
    generator.load("cpu")
    assert torch.allclose(
        inversion.latents["<jay>"][:3], generator.transparent_latents(pictures(0, channels=4)), atol=1e-5
    )


# --- once ----------------------------------------------------------------------------------------------------------


def test_nothing_is_learned_twice_and_nothing_loaded_for_it(generator, tmp_path, monkeypatch):
    first = learn(requests(), inversion := Counting(), generator, tmp_path)
    assert sorted(inversion.learned) == sorted(TOKENS)
    monkeypatch.setattr(Diffusion, "load", lambda self, device: pytest.fail("loaded"))
    unread = [replace(one, pictures=lambda: pytest.fail("pictures were read")) for one in requests()]
    second = learn(unread, again := Counting(), generator, tmp_path)
    assert again.learned == []
    assert same(first, second)
    assert first.keys == second.keys


def test_a_killed_run_loses_the_word_in_work(generator, tmp_path):
    killed = Counting(dies_at="<owl>")
    with pytest.raises(RuntimeError, match="killed"):
        learn(requests(), killed, generator, tmp_path)
    assert killed.learned == ["<jay>"]
    done = learn(requests(), rest := Counting(), generator, tmp_path)
    assert rest.learned == ["<owl>", "<tit>"]
    assert same(done, learn(requests(), Counting(), generator, tmp_path / "elsewhere"))


def test_a_word_whose_file_is_gone_is_learned_again(generator, tmp_path):
    first = learn(requests(), Counting(), generator, tmp_path)
    next(tmp_path.glob(f"*/{first.keys['<owl>']}.learned_embeds.safetensors")).unlink()
    again = learn(requests(), inversion := Counting(), generator, tmp_path)
    assert inversion.learned == ["<owl>"]
    assert same(first, again)


def test_the_order_of_the_words_does_not_matter(generator, tmp_path):
    forwards = learn(requests(), Counting(), generator, tmp_path / "a")
    backwards = learn(requests(TOKENS[::-1]), Counting(), generator, tmp_path / "b")
    one = learn(requests(TOKENS[1:2]), Counting(), generator, tmp_path / "c")
    assert all(torch.equal(forwards.vectors[token][0], backwards.vectors[token][0]) for token in TOKENS)
    assert torch.equal(forwards.vectors["<owl>"][0], one.vectors["<owl>"][0])


def test_equal_requests_of_other_names_are_learned_once(generator, tmp_path):
    twin = replace(requests()[0], token="<twin>")
    concepts = learn([*requests(TOKENS[:1]), twin], inversion := Counting(), generator, tmp_path)
    assert inversion.learned == ["<jay>"]
    assert torch.equal(concepts.vectors["<jay>"][0], concepts.vectors["<twin>"][0])
    assert concepts.report()["words"] == 2


class OneOfTwo(Runner):
    """The second of two processes, of which the first never comes to work."""

    def __init__(self, runner):
        super().__init__(runner.trainer, runner.stores)
        self.trainer = type("Trainer", (), {"global_rank": 1, "world_size": 2})()

    def everywhere(self, task):
        task("cpu")


def test_the_own_share_comes_first_and_then_what_others_left(generator, tmp_path):
    inversion = Counting()
    concepts = learn_concepts(requests(), inversion, generator, CALL, 0.4, tmp_path, OneOfTwo(runner_in(tmp_path)))
    assert inversion.learned == ["<owl>", "<jay>", "<tit>"]
    assert same(concepts, learn(requests(), Counting(), generator, tmp_path / "alone"))


WORKER = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}, {unit!r}]
from test_concepts import Counting, Diffusion, learn, requests
inversion = Counting(steps=10)
learn(requests(), inversion, Diffusion({model!r}, steps=10, size=32, batch_size=2), Path({folder!r}))
print("learned:" + ",".join(inversion.learned))
"""


@pytest.mark.slow
def test_two_processes_share_the_words(folder, generator, tmp_path):
    here = Path(__file__).parent
    script = WORKER.format(tests=str(here.parent), unit=str(here), model=str(folder), folder=str(tmp_path / "shared"))
    started = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    learned = [line.split(":")[1].split(",") for one in answers for line in one.splitlines() if "learned:" in line]
    assert sorted(token for one in learned for token in one if token) == sorted(TOKENS)
    shared = learn(requests(), again := Counting(steps=10), generator, tmp_path / "shared")
    assert again.learned == []
    assert same(shared, learn(requests(), Counting(steps=10), generator, tmp_path / "alone"))
    assert not list((tmp_path / "shared" / "locks").iterdir())


# --- keys, files and reports ---------------------------------------------------------------------------------------


def test_everything_that_changes_a_word_changes_its_key(folder, generator):
    request = requests()[0]

    def key(request=request, inversion=None, generator=generator, call=CALL, strength=0.4):
        return concept_keys([request], inversion or Counting(), generator, call, strength)[request.token]

    others = [
        key(replace(request, word="owl")),
        key(replace(request, keys=request.keys[:2])),
        key(replace(request, keys=request.keys[::-1])),
        key(inversion=Counting(steps=2)),
        key(inversion=Counting(truncated=False)),
        key(generator=Diffusion(str(folder), steps=10, size=48, batch_size=2)),
        key(call="inpaint"),
        key(strength=0.8),
    ]
    assert len({key(), *others}) == len(others) + 1
    guided = Diffusion(str(folder), steps=10, size=32, batch_size=3, guidance=3.0, negative_prompt="a dog")
    assert key(generator=guided) == key(), "words are learned without guidance"
    assert key(replace(request, token="<other>")) == key()
    assert key(inversion=Counting(micro_batch_size=1)) == key()


def test_transparent_weights_count_for_transparent_pictures_only(folder, tmp_path):
    generators = []
    for seed in range(2):
        torch.manual_seed(seed)
        vae(in_channels=4, out_channels=4).save_pretrained(tmp_path / f"vae{seed}")
        transparency = FourChannelVAE(str(tmp_path / f"vae{seed}"))
        generators.append(Diffusion(str(folder), steps=10, size=32, transparency=transparency))

    def keys(call):
        return [concept_keys(requests(), Counting(), one, call, 0.4)["<jay>"] for one in generators]

    assert len(set(keys("edit_transparent"))) == 2
    assert len(set(keys(CALL))) == 1


def test_both_vectors_of_sdxl_are_kept_as_diffusers_names_them(tmp_path):
    generator = Diffusion(str(save_sdxl(tmp_path / "sdxl")), steps=10, size=32, batch_size=2)
    concepts = learn(requests(TOKENS[:1]), Counting(), generator, tmp_path / "words")
    files = sorted((tmp_path / "words").glob(f"*/{concepts.keys['<jay>']}*"))
    assert [file.name.split(".", 1)[1] for file in files] == [
        "learned_embeds.safetensors", "learned_embeds_2.safetensors",
    ]  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(from_files(files), concepts.vectors["<jay>"], strict=True))
    assert not torch.equal(*concepts.vectors["<jay>"])


def test_the_report_counts_each_word_once(generator, tmp_path):
    inversion = Counting(steps=1)
    report = learn(requests(TOKENS[:2]), inversion, generator, tmp_path).report()
    assert (report["words"], report["steps"], report["last_timestep"]) == (2, 1, 401)
    assert report["first_loss"] == report["last_loss"] > 0.5
    assert report["seconds"] > 0
    assert learn(requests(TOKENS[:2]), inversion, generator, tmp_path).report() == report
    assert learn([], inversion, generator, tmp_path).report() == {"words": 0}


# --- errors --------------------------------------------------------------------------------------------------------


def test_wrong_requests_are_refused_before_anything_is_loaded(generator, tmp_path):
    with pytest.raises(ValueError, match="<jay> is to be learned from no picture"):
        learn([replace(requests()[0], keys=())], Counting(), generator, tmp_path)
    with pytest.raises(ValueError, match="learned once, got"):
        learn(requests() * 2, Counting(), generator, tmp_path)
    with pytest.raises(NotImplementedError, match="not edit_transparent"):
        learn(requests(), Counting(), generator, tmp_path, call="edit_transparent")
    assert not list(tmp_path.iterdir())


def test_pictures_that_do_not_fit_are_refused(generator, tmp_path):
    request = requests()[0]
    with pytest.raises(ValueError, match="<jay> has 2 keys for 3 pictures"):
        learn([replace(request, keys=request.keys[:2])], Counting(), generator, tmp_path)
    mixed = pictures(0, count=2) + pictures(0, count=1, side=40)
    with pytest.raises(ValueError, match="one size"):
        learn([replace(request, pictures=lambda: mixed)], Counting(), generator, tmp_path)


def test_a_folder_that_cannot_be_written_to_is_refused(generator, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="paths.stores"):
        learn(requests(), Counting(), generator, tmp_path / "file" / "words")
