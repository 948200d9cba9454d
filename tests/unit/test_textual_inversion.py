"""Words that a generator learns: only theirs are learned, at the timesteps asked for, and diffusers can read them."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from diffusers import AutoPipelineForText2Image
from tiny_models import save_pix2pix, save_sd15, save_sd35, save_sdxl
from torch import nn

from genaug.generation.diffusion import Diffusion, text_encoders
from genaug.generation.gallery import Gallery
from genaug.generation.lesson import Lesson, first_vectors, trainable_words
from genaug.generation.textual_inversion import TextualInversion, from_files, to_files

CALL = "image_to_image"
SAVE = {"sd15": save_sd15, "sdxl": save_sdxl}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {family: save(root / family) for family, save in SAVE.items()}


def build(folder, **changes):
    return Diffusion(str(folder), **({"steps": 10, "size": 32, "batch_size": 2} | changes))


@pytest.fixture(params=list(SAVE))
def generator(request, folders):
    made = build(folders[request.param])
    made.load("cpu")
    return made


@pytest.fixture
def sd15(folders):
    made = build(folders["sd15"])
    made.load("cpu")
    return made


def latents(count=3, seed=0):
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def weights(generator):
    """Of all networks."""
    parts = generator.pipeline(CALL).components
    return {name: copy.deepcopy(part.state_dict()) for name, part in parts.items() if isinstance(part, nn.Module)}


def encode(pipeline, prompts):
    """All that the denoiser is given of prompts."""
    found = pipeline.encode_prompt(
        prompts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False, negative_prompt=None
    )
    return [part for part in found if part is not None]


def learn(generator, latents, last=400, seed=3, word="bird", token="<jay>", **settings):
    settings = {"steps": 2, "batch_size": 4, "learning_rate": 0.01} | settings
    return TextualInversion(**settings).learn(generator, CALL, token, word, latents, last, seed)


# --- where a word begins -------------------------------------------------------------------------------------------


def test_a_word_begins_as_its_pieces(generator):
    pipeline = generator.pipeline(CALL)
    rows = {}  # of b, i, r, d</w>: 2 and the place in the alphabet, and 26 more where a word ends
    for number, (_, encoder) in enumerate(text_encoders(pipeline)):
        table = encoder.get_input_embeddings().weight.detach()
        rows[number] = table[[2 + 1, 2 + 8, 2 + 17, 28 + 3]]
    one, two, six = (first_vectors(pipeline, "bird", count) for count in (1, 2, 6))
    for number, pieces in rows.items():
        assert torch.allclose(one[number], pieces.mean(0, keepdim=True))
        assert torch.equal(two[number], pieces[:2])
        assert torch.equal(six[number], pieces[[0, 1, 2, 3, 0, 1]])


def test_a_word_of_nothing_is_refused(sd15):
    with pytest.raises(ValueError, match="such as 'bird', got ''"):
        learn(sd15, latents(), word="")


# --- what is learned -----------------------------------------------------------------------------------------------


def test_nothing_but_the_word_changes(generator):
    before, prompt = weights(generator), ["a photo of a bird"]
    pipeline = generator.pipeline(CALL)
    tokenizers = [tokenizer for tokenizer, _ in text_encoders(pipeline)]
    encoded = encode(pipeline, prompt)[0]
    flags = [parameter.requires_grad for parameter in pipeline.unet.parameters()]
    start = first_vectors(pipeline, "bird", 2)
    learned = learn(generator, latents(), vectors=2)
    assert all((made != first).all() for made, first in zip(learned.vectors, start, strict=True))
    after = weights(generator)
    assert before.keys() == after.keys()
    for name, state in before.items():
        assert all(torch.equal(value, after[name][key]) for key, value in state.items()), name
    assert [parameter.requires_grad for parameter in pipeline.unet.parameters()] == flags
    assert [tokenizer for tokenizer, _ in text_encoders(pipeline)] == tokenizers
    assert all("<jay>" not in tokenizer.get_vocab() for tokenizer in tokenizers)
    assert torch.equal(encode(pipeline, prompt)[0], encoded)
    assert not pipeline.text_encoder.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_half_precision_come_back_to_the_bit(folders, dtype):
    made = build(folders["sdxl"], dtype=dtype)
    made.load("cpu")
    before = weights(made)
    learned = learn(made, latents(), vectors=2)
    assert all(vector.dtype == torch.float32 and vector.isfinite().all() for vector in learned.vectors)
    exact = build(folders["sdxl"])
    exact.load("cpu")
    reference = learn(exact, latents(), vectors=2)
    assert learned.first_loss == pytest.approx(reference.first_loss, rel=0.02)
    after = weights(made)
    assert all(torch.equal(value, after[name][key]) for name, state in before.items() for key, value in state.items())


@pytest.mark.parametrize("count", [1, 2])
def test_a_prompt_means_the_same_while_it_is_learned_and_afterwards(generator, folders, count, tmp_path):
    pipeline = generator.pipeline(CALL)
    vectors = [torch.randn(count, 32, generator=torch.Generator().manual_seed(number)) for number in range(2)]
    vectors = vectors[: len(text_encoders(pipeline))]
    prompts = ["a photo of a <jay>, flying", "<jay>", "no bird"]
    with trainable_words(pipeline, ["<jay>"], vectors), torch.no_grad():
        inside = encode(pipeline, prompts)
    fresh = AutoPipelineForText2Image.from_pretrained(str(generator.folder), safety_checker=None)
    paths = []
    for (name, data), (tokenizer, encoder) in zip(
        to_files("<jay>", vectors).items(), text_encoders(fresh), strict=True
    ):
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
        fresh.load_textual_inversion(str(paths[-1]), tokenizer=tokenizer, text_encoder=encoder)
    with torch.no_grad():
        outside = encode(fresh, prompts)
        plain = encode(pipeline, ["no bird"])[0]
    assert len(inside) == len(outside) == len(vectors)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(inside, outside, strict=True))
    assert torch.allclose(inside[0][2:], plain, atol=1e-6)
    assert (inside[0][0] - inside[0][2]).abs().max() > 0.1
    assert all(torch.equal(a, b) for a, b in zip(from_files(paths), vectors, strict=True))


@pytest.mark.parametrize("velocity", [False, True])
def test_a_step_is_the_one_that_is_computed_by_hand(generator, velocity):
    """Forward process, target, conditions and Adam's first step, written out; the table's row itself is trained."""
    pipeline = generator.pipeline(CALL)
    if velocity:
        pipeline.scheduler.register_to_config(prediction_type="v_prediction")
    data, inversion = latents(), TextualInversion(steps=1, batch_size=4, learning_rate=0.01)
    learned = inversion.learn(generator, CALL, "<jay>", "bird", data, 400, 3)
    start = first_vectors(pipeline, "bird", 1)
    drawn, noise, timesteps, _ = Lesson(pipeline, data, ["a photo of a <jay>"], 400, 4, 3).draw(0)

    generator.add_words({"<jay>": start})
    tables = [encoder.get_input_embeddings().weight.requires_grad_() for _, encoder in text_encoders(pipeline)]
    encoded = encode(pipeline, ["a photo of a <jay>"] * 4)
    signal = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[timesteps].view(-1, 1, 1, 1)
    noised = signal**0.5 * drawn + (1 - signal) ** 0.5 * noise
    more = {}
    if len(tables) == 2:
        more = {"text_embeds": encoded[1], "time_ids": torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]] * 4)}
    said = pipeline.unet(noised, timesteps, encoder_hidden_states=encoded[0], added_cond_kwargs=more).sample
    target = signal**0.5 * noise - (1 - signal) ** 0.5 * drawn if velocity else noise
    loss = nn.functional.mse_loss(said, target)
    gradients = [gradient[-1] for gradient in torch.autograd.grad(loss, tables)]

    assert learned.first_loss == learned.last_loss == pytest.approx(loss.item(), rel=1e-5)
    for made, first, gradient in zip(learned.vectors, start, gradients, strict=True):
        step = -0.01 * gradient / (gradient.abs() + 1e-8)
        assert torch.allclose(made[0] - first[0], step, atol=2e-4)
        assert step.abs().min() > 1e-4


def test_the_loss_falls_where_there_is_something_to_learn(sd15, monkeypatch):
    """Always the same noise: any word that helps against it lowers the loss."""
    draw = Lesson.draw
    monkeypatch.setattr(Lesson, "draw", lambda self, step: draw(self, 0))
    learned = learn(sd15, latents(), steps=12, learning_rate=0.05)
    still = learn(sd15, latents(), steps=12, learning_rate=1e-9)
    assert still.last_loss == pytest.approx(still.first_loss, rel=1e-6)
    assert learned.last_loss < still.last_loss - 1e-3


def test_micro_batches_give_the_same(generator):
    whole = learn(generator, latents(5), steps=3, batch_size=5, prompts=("a {}", "one {}", "no {}"))
    parts = learn(generator, latents(5), steps=3, batch_size=5, prompts=("a {}", "one {}", "no {}"), micro_batch_size=2)
    assert parts.first_loss == pytest.approx(whole.first_loss, rel=1e-5)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(whole.vectors, parts.vectors, strict=True))


def test_a_word_depends_on_its_seed_and_not_on_the_global_one(sd15):
    torch.manual_seed(1)
    first = learn(sd15, latents()).vectors[0]
    state = torch.manual_seed(2).get_state()
    assert torch.equal(learn(sd15, latents()).vectors[0], first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(learn(sd15, latents(), seed=4).vectors[0], first)


def test_it_learns_where_gradients_are_off(sd15):
    expected = learn(sd15, latents()).vectors[0]
    with torch.inference_mode():
        assert torch.equal(learn(sd15, latents().clone()).vectors[0], expected)


def test_bfloat16_is_close(sd15):
    exact, rough = learn(sd15, latents()), learn(sd15, latents(), bfloat16=True)
    assert rough.first_loss == pytest.approx(exact.first_loss, rel=0.01)
    assert rough.first_loss != exact.first_loss


# --- timesteps and batches -----------------------------------------------------------------------------------------


def lesson(generator, last, batch_size=8, count=3, prompts=("a <jay>",)):
    return Lesson(generator.pipeline(CALL), latents(count), prompts, last, batch_size, seed=0)


def test_timesteps_go_up_to_the_last_one_and_not_beyond(sd15):
    seen = torch.cat([lesson(sd15, last=9).draw(step)[2] for step in range(200)])
    assert seen.unique().tolist() == list(range(10))
    share = torch.bincount(seen) / len(seen)
    assert (share - 0.1).abs().max() < 0.02
    assert lesson(sd15, last=0).draw(0)[2].tolist() == [0] * 8


def test_each_latent_is_used_before_one_is_used_again(sd15):
    made = lesson(sd15, last=9, batch_size=7, count=3)
    found = made.draw(0)[0]
    uses = [int((found == one).flatten(1).all(1).sum()) for one in made.latents]
    assert sorted(uses) == [2, 2, 3]


def test_prompts_are_all_used(sd15):
    made = lesson(sd15, last=9, prompts=("a <jay>", "one <jay>"))
    assert torch.cat([made.draw(step)[3] for step in range(20)]).unique().tolist() == [0, 1]


def test_truncation_ends_where_the_edit_begins(sd15):
    truncated, full = TextualInversion(), TextualInversion(truncated=False)
    assert truncated.last_timestep(sd15, CALL, 0.4) == sd15.start_timestep(CALL, 0.4) == 401
    assert full.last_timestep(sd15, CALL, 0.4) == 999
    assert truncated.last_timestep(sd15, CALL, 1.0) == sd15.start_timestep(CALL, 1.0)


def test_truncation_is_known_without_weights(folders):
    assert TextualInversion().last_timestep(build(folders["sd15"]), CALL, 0.4) == 401


# --- settings, files and errors ------------------------------------------------------------------------------------


def test_settings_hold_what_changes_a_word():
    assert json.loads(json.dumps(TextualInversion().settings)) == TextualInversion(micro_batch_size=3).settings
    changed = {
        "vectors": 2, "steps": 3, "batch_size": 4, "learning_rate": 1.0, "truncated": False, "prompts": ["{}"],
        "mirror": False, "bfloat16": True, "seed": 9,
    }  # fmt: skip
    assert TextualInversion(**changed).settings == changed
    assert all(TextualInversion().settings[name] != value for name, value in changed.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vectors": 0}, "inversion.vectors must be at least 1, got 0"),
        ({"steps": 0}, "inversion.steps must be at least 1"),
        ({"batch_size": -1}, "inversion.batch_size must be at least 1"),
        ({"micro_batch_size": 0}, "inversion.micro_batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "inversion.learning_rate must be above 0"),
        ({"prompts": ("a bird",)}, "must have one {} each"),
        ({"prompts": ()}, "must have one {} each"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        TextualInversion(**arguments)


def test_models_without_a_u_net_are_refused_before_they_are_loaded(tmp_path):
    with pytest.raises(ValueError, match="StableDiffusion3Pipeline.* has no U-Net"):
        TextualInversion().last_timestep(build(save_sd35(tmp_path / "sd35")), CALL, 0.4)


def test_models_that_take_more_than_noised_latents_are_refused(tmp_path):
    with pytest.raises(ValueError, match="more than noised latents"):
        TextualInversion().check(build(save_pix2pix(tmp_path / "pix2pix")))


def test_what_is_no_diffusion_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Gallery is none"):
        TextualInversion().check(Gallery.__new__(Gallery))


def test_a_scheduler_of_another_kind_is_refused(sd15):
    sd15.pipeline(CALL).scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="'sample'"):
        learn(sd15, latents())


@pytest.mark.parametrize("token", ["jay", "<Jay>", "<a jay>", "<>", "x<jay>"])
def test_names_that_could_be_taken_for_text_are_refused(sd15, token):
    with pytest.raises(ValueError, match="angle brackets"):
        learn(sd15, latents(), token=token)


def test_a_known_word_is_refused(sd15):
    sd15.add_words({"<jay>": [torch.zeros(1, 32)]})
    with pytest.raises(ValueError, match="<jay> is a word that the generator knows already"):
        learn(sd15, latents())
    learn(sd15, latents(), token="<owl>")


def test_a_word_that_does_not_fit_into_the_prompt_is_refused(sd15):
    learn(sd15, latents(), vectors=21, prompts=("a {}",), steps=1)  # 24 tokens, of which begin, end and "a" are three
    with pytest.raises(ValueError, match="with 22 vectors <jay> does not fit"):
        learn(sd15, latents(), vectors=22, prompts=("a {}",))


def test_a_loss_that_is_not_finite_ends_the_learning(sd15):
    with pytest.raises(FloatingPointError, match=r"nan at step 0: lower inversion.learning_rate"):
        learn(sd15, latents() * float("nan"))
    assert not sd15.pipeline(CALL).text_encoder.get_input_embeddings()._forward_hooks


def test_nothing_to_learn_from_is_refused(sd15):
    with pytest.raises(ValueError, match="0 latents"):
        learn(sd15, latents(0))


def test_a_file_of_something_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)}, tmp_path / "learned_embeds.safetensors")
    with pytest.raises(ValueError, match=r"the vectors of one word, it holds \['a', 'b'\]"):
        from_files([tmp_path / "learned_embeds.safetensors"])
