"""Fine-tuning in one run: only LoRA and words are learned, by the steps that formulas give; a kill does no harm."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from tiny_models import save_pix2pix, save_sd15, save_sd35, save_sdxl
from torch import nn

from genaug.generation.diffusion import Diffusion, text_encoders
from genaug.generation.lesson import Lesson, first_vectors
from genaug.generation.lora_training import TARGETS, FineTuning, NewWord, trainable_lora

SAVE = {"sd15": save_sd15, "sdxl": save_sdxl}
WORDS = [NewWord("<class_0>", "bird"), NewWord("<class_1>", "car"), NewWord("<class_4>", "bird")]
WORD_OF = torch.tensor([0, 1, 2, 1])


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


def latents(count=4, seed=0):
    return torch.randn(count, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def settings(**changes):
    short = {"rank": 3, "steps": 2, "batch_size": 4, "learning_rate": 0.01, "word_learning_rate": 0.02}
    return FineTuning(**(short | changes))


def learn(generator, latents, words=WORDS, word_of=WORD_OF, checkpoint=None, **changes):
    return settings(**changes).learn(generator, words, latents, word_of, checkpoint)


def weights(generator):
    """Of all networks."""
    parts = generator.pipeline("image_to_image").components
    return {name: copy.deepcopy(part.state_dict()) for name, part in parts.items() if isinstance(part, nn.Module)}


def same(first, second, **tolerance):
    """Whether two results are equal, or close."""
    factors = [(first.lora[name], second.lora[name]) for name in first.lora]
    vectors = [
        pair for token in first.vectors for pair in zip(first.vectors[token], second.vectors[token], strict=True)
    ]
    assert first.lora.keys() == second.lora.keys()
    return all(torch.allclose(a, b, **(tolerance or {"rtol": 0, "atol": 0})) for a, b in factors + vectors)


# --- what is learned -----------------------------------------------------------------------------------------------


def test_all_of_attention_gets_factors_and_each_class_a_word(generator):
    learned = learn(generator, latents())
    unet = generator.pipeline("image_to_image").unet
    layers = {name for name, module in unet.named_modules() if name.endswith(TARGETS) and "attn" in name}
    assert {name.rsplit(".lora_", 1)[0] for name in learned.lora} == layers
    assert len(learned.lora) == 2 * len(layers)
    assert {min(value.shape) for value in learned.lora.values()} == {3}
    assert all(value.abs().max() > 0 for value in learned.lora.values())
    start = {word: first_vectors(generator.pipeline("image_to_image"), word, 1) for word in ("bird", "car")}
    for word in WORDS:
        for made, first in zip(learned.vectors[word.token], start[word.superclass], strict=True):
            assert made.shape == first.shape
            assert (made != first).all()
    assert list(learned.vectors) == ["<class_0>", "<class_1>", "<class_4>"]


def test_nothing_of_the_generator_changes(generator):
    before, pipeline = weights(generator), generator.pipeline("image_to_image")
    flags = [parameter.requires_grad for parameter in pipeline.unet.parameters()]
    tokenizers = [tokenizer for tokenizer, _ in text_encoders(pipeline)]
    learn(generator, latents())
    after = weights(generator)
    assert before.keys() == after.keys()
    for name, state in before.items():
        assert state.keys() == after[name].keys()
        assert all(torch.equal(value, after[name][key]) for key, value in state.items()), name
    assert [parameter.requires_grad for parameter in pipeline.unet.parameters()] == flags
    assert [tokenizer for tokenizer, _ in text_encoders(pipeline)] == tokenizers
    assert not pipeline.text_encoder.get_input_embeddings()._forward_hooks


def test_a_new_lora_changes_nothing_yet(sd15):
    unet = sd15.pipeline("image_to_image").unet
    given = latents(1), torch.tensor([500]), torch.zeros(1, 3, 32)
    with torch.no_grad():
        before = unet(*given).sample
        with trainable_lora(unet, 3, seed=0) as factors:
            assert torch.equal(unet(*given).sample, before)
            factors[1].fill_(1.0)
            assert not torch.equal(unet(*given).sample, before)
        assert torch.equal(unet(*given).sample, before)


def test_a_step_is_the_one_that_is_computed_by_hand(sd15):
    """The gradient of a full weight gives that of the factors; AdamW's first step is the rate, after the decay."""
    learned = learn(sd15, latents(), steps=1, weight_decay=0.5)
    pipeline = sd15.pipeline("image_to_image")
    prompts = [f"a photo of a {word.token} {word.superclass}" for word in WORDS]
    start = {word.token: first_vectors(pipeline, word.superclass, 1) for word in WORDS}
    drawn, noise, timesteps, numbers = Lesson(pipeline, latents(), prompts, 999, 4, 0, WORD_OF).draw(0)

    sd15.add_words(start)
    table = pipeline.text_encoder.get_input_embeddings().weight.requires_grad_()
    name = next(name for name, _ in pipeline.unet.named_modules() if name.endswith("attn2.to_k"))
    weight = pipeline.unet.get_submodule(name).weight
    encoded = pipeline.encode_prompt([prompts[number] for number in numbers], "cpu", 1, False)[0]
    signal = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)[timesteps].view(-1, 1, 1, 1)
    said = pipeline.unet(
        signal**0.5 * drawn + (1 - signal) ** 0.5 * noise, timesteps, encoder_hidden_states=encoded
    ).sample
    loss = nn.functional.mse_loss(said, noise)
    by_weight, by_table = torch.autograd.grad(loss, [weight, table])
    assert learned.first_loss == pytest.approx(loss.item(), rel=1e-5)

    down, up = learned.lora[f"{name}.lora_A.weight"], learned.lora[f"{name}.lora_B.weight"]
    gradient = by_weight @ (down / (1 - 0.01 * 0.5)).T  # the first of the factors was 0: down has only decayed
    expected = -0.01 * gradient.sign()
    clear = gradient.abs() > gradient.abs().max() / 10
    assert clear.float().mean() > 0.3
    assert torch.allclose(up[clear], expected[clear], atol=1e-3)
    for number, word in enumerate(WORDS):
        row, first = by_table[len(table) - 3 + number], start[word.token][0][0]
        step = -0.02 * row / (row.abs() + 1e-8)
        assert torch.allclose(learned.vectors[word.token][0][0], first * (1 - 0.02 * 0.5) + step, atol=4e-4)


def test_each_picture_is_told_the_word_of_its_class(sd15):
    data = latents()
    lesson = Lesson(sd15.pipeline("image_to_image"), data, ["a", "b", "c"], 999, 4, 0, WORD_OF)
    seen = [lesson.draw(step) for step in range(5)]
    for drawn, _, _, numbers in seen:
        of = [int((data == one).flatten(1).all(1).nonzero()) for one in drawn]
        assert numbers.tolist() == WORD_OF[of].tolist()
    assert len(torch.cat([numbers for *_, numbers in seen]).unique()) == 3


def test_the_loss_falls(sd15, monkeypatch):
    """Always the same noise: what fits it lowers the loss."""
    draw = Lesson.draw
    monkeypatch.setattr(Lesson, "draw", lambda self, step: draw(self, 0))
    learned = learn(sd15, latents(), steps=20, learning_rate=0.02)
    still = learn(sd15, latents(), steps=20, learning_rate=1e-12, word_learning_rate=1e-12)
    assert still.last_loss == pytest.approx(still.first_loss, rel=1e-5)
    assert learned.last_loss < still.last_loss - 0.02
    alone = [
        learn(sd15, latents(), steps=20, **{f"{name}learning_rate": 1e-12}).last_loss for name in ("", "word_")
    ]  # words without a LoRA, a LoRA without words
    assert learned.last_loss < min(alone) < max(alone) < still.last_loss


def test_micro_batches_give_the_same(generator):
    whole, parts = learn(generator, latents()), learn(generator, latents(), micro_batch_size=3)
    assert same(whole, parts, atol=2e-3)


def test_it_follows_from_its_seed_and_not_from_the_global_one(sd15):
    torch.manual_seed(1)
    first = learn(sd15, latents())
    state = torch.manual_seed(2).get_state()
    assert same(learn(sd15, latents()), first)
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(learn(sd15, latents(), seed=4), first, atol=1e-3)


def test_it_learns_where_gradients_are_off(sd15):
    expected = learn(sd15, latents())
    with torch.inference_mode():
        assert same(learn(sd15, latents().clone()), expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_factors_of_half_precision_weights_are_float32(folders, dtype):
    made = build(folders["sd15"], dtype=dtype)
    made.load("cpu")
    before = weights(made)
    learned = learn(made, latents())
    assert {value.dtype for value in learned.lora.values()} == {torch.float32}
    exact = build(folders["sd15"])
    exact.load("cpu")
    assert learned.first_loss == pytest.approx(learn(exact, latents()).first_loss, rel=0.02)
    after = weights(made)
    assert all(torch.equal(value, after[name][key]) for name, state in before.items() for key, value in state.items())


# --- kills ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [3, 4, 7])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(sd15, tmp_path, monkeypatch, at):
    whole = learn(sd15, latents(), steps=8)
    backward, steps = Lesson.backward, []

    def killed(self, step, *rest):
        steps.append(step)
        if len(steps) == at + 1:
            raise InterruptedError
        return backward(self, step, *rest)

    monkeypatch.setattr("genaug.generation.lora_training.CHECKPOINTS", 2)  # after steps 4 and 8
    monkeypatch.setattr(Lesson, "backward", killed)
    with pytest.raises(InterruptedError):
        learn(sd15, latents(), steps=8, checkpoint=tmp_path / "checkpoint.pt")
    again = learn(sd15, latents(), steps=8, checkpoint=tmp_path / "checkpoint.pt")
    assert steps[at + 1] == (0 if at < 4 else 4)
    assert same(again, whole)
    assert (again.first_loss, again.last_loss) == (whole.first_loss, whole.last_loss)


# --- settings and errors -------------------------------------------------------------------------------------------


def test_settings_hold_what_changes_the_result():
    assert json.loads(json.dumps(FineTuning().settings)) == FineTuning(micro_batch_size=3).settings
    changed = {
        "rank": 2, "steps": 3, "batch_size": 4, "learning_rate": 1.0, "word_learning_rate": 2.0, "weight_decay": 0.0,
        "prompt": "{token}", "mirror": False, "size": 64, "bfloat16": True, "seed": 9,
    }  # fmt: skip
    assert FineTuning(**changed).settings == changed
    assert all(FineTuning().settings[name] != value for name, value in changed.items())


def test_defaults_are_the_papers():
    paper = {"rank": 10, "steps": 35000, "batch_size": 8, "weight_decay": 0.01, "mirror": True}
    rates = {"learning_rate": 5e-5, "word_learning_rate": 5e-5}
    prompt = {"prompt": "a photo of a {token} {superclass}"}
    assert FineTuning().settings.items() >= (paper | rates | prompt).items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "finetuning.rank must be at least 1, got 0"),
        ({"steps": 0}, "finetuning.steps must be at least 1"),
        ({"batch_size": -1}, "finetuning.batch_size must be at least 1"),
        ({"micro_batch_size": 0}, "finetuning.micro_batch_size must be at least 1"),
        ({"size": 0}, "finetuning.size must be at least 1"),
        ({"learning_rate": 0.0}, "finetuning.learning_rate must be above 0"),
        ({"word_learning_rate": -1.0}, "finetuning.word_learning_rate must be above 0"),
        ({"weight_decay": -0.1}, "finetuning.weight_decay must not be negative"),
        ({"prompt": "a bird"}, "must have one {token}"),
        ({"prompt": "{token} {token}"}, "must have one {token}"),
        ({"prompt": "{token} {name}"}, "nothing else to fill in"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FineTuning(**arguments)


def test_models_it_is_not_made_for_are_refused_before_they_are_loaded(tmp_path):
    with pytest.raises(ValueError, match="has no U-Net"):
        FineTuning().check(build(save_sd35(tmp_path / "sd35")))
    with pytest.raises(ValueError, match="more than noised latents"):
        FineTuning().check(build(save_pix2pix(tmp_path / "pix2pix")))


def test_latents_and_words_must_go_together(sd15):
    with pytest.raises(ValueError, match="3 latents of 4 words"):
        learn(sd15, latents(3))
    with pytest.raises(ValueError, match="0 latents of 0 words"):
        learn(sd15, latents(0), word_of=WORD_OF[:0])


def test_a_word_that_does_not_fit_into_the_prompt_is_refused(sd15):
    with pytest.raises(ValueError, match="<class_0> does not fit"):
        learn(sd15, latents(), prompt="a photo of a bird of very many words {token}")


def test_a_known_word_is_refused(sd15):
    sd15.add_words({"<class_1>": [torch.zeros(1, 32)]})
    with pytest.raises(ValueError, match="<class_1> is a word that the generator knows already"):
        learn(sd15, latents())


def test_a_loss_that_is_not_finite_ends_the_learning(sd15):
    before = weights(sd15)
    with pytest.raises(FloatingPointError, match=r"nan at step 0: lower finetuning.learning_rate"):
        learn(sd15, latents() * float("nan"))
    assert weights(sd15)["unet"].keys() == before["unet"].keys()
