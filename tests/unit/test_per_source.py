"""The three methods of AGA's case study: jobs and prompts with a painter whose work is known, images with a diffusion
model that is tiny and random, loaded as a real one is."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from renderers import runner_in

from genaug.captioning.engine import read_sets
from genaug.data.base import Sample
from genaug.data.reading import read_image
from genaug.generation.base import Generator
from genaug.generation.diffusion import Diffusion
from genaug.generation.gallery import Gallery
from genaug.methods.image2image import ImageToImage
from genaug.methods.inpainting import Inpainting
from genaug.methods.text2image import TextToImage
from genaug.segmentation.annotated import Annotated
from genaug.synthesis.speeds import known_speed

BIRDS = SimpleNamespace(
    name="blobs",
    superclass="blob",
    superclasses=("blob", "blob"),
    channels=3,
    classes=("Azure Jay", "Green Finch"),
    image_size=15,
)
SIDE = 24
#: Height and width of the sources, and of the same where no more than SIDE pixels of the short side are kept.
SOURCES = [(20, 32), (32, 20), (20, 32), (48, 64), (20, 32)]
KEPT = [(20, 32), (32, 20), (20, 32), (24, 32), (20, 32)]
KINDS = ["text2image", "image2image", "inpainting"]


class Painter(Generator):
    """Paints over images; every call and its arguments are known afterwards. ``bad`` prompts give nothing."""

    def __init__(self, colours: str = "bright", batch_size: int = 2, bad: str = "-") -> None:
        self.colours, self.batch_size, self.bad = colours, batch_size, bad
        self.asked: list[SimpleNamespace] = []
        self.devices: list[str] = []

    @property
    def settings(self):
        return {"colours": self.colours}

    def load(self, device):
        self.devices.append(device)

    def size_for(self, height, width):
        return -(-height // 8) * 8, -(-width // 8) * 8

    def denoiser_steps(self, call, strength=1.0):
        return round(10 * strength)

    def start_timestep(self, call, strength=1.0):
        return round(1000 * strength) - 1

    def text_to_image(self, prompts, seeds, size):
        return self._paint([np.zeros((*size, 3), np.uint8) for _ in prompts], prompts, seeds, 1.0)

    def image_to_image(self, images, prompts, seeds, strength):
        return self._paint(images, prompts, seeds, strength)

    def inpaint(self, images, masks, prompts, seeds, strength=1.0):
        painted = self._paint(images, prompts, seeds, strength)
        return [np.where(mask[..., None], new, image) for new, mask, image in zip(painted, masks, images, strict=True)]

    def _paint(self, images, prompts, seeds, strength):
        self.asked.append(SimpleNamespace(images=images, prompts=prompts, seeds=seeds, strength=strength))
        return [
            None if self.bad in prompt else np.random.default_rng(seed).integers(0, 256, image.shape).astype(np.uint8)
            for image, prompt, seed in zip(images, prompts, seeds, strict=True)
        ]


@pytest.fixture
def samples(tmp_path) -> list[Sample]:
    """Noise of two classes in turn, each with a rectangle for a subject."""
    rng, made = np.random.default_rng(1), []
    for number, (height, width) in enumerate(SOURCES):
        folder, name = tmp_path / "sources", f"{number}.png"
        folder.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(folder / name)
        mask = np.zeros((height, width), np.uint8)
        mask[5:-5, 7:-7] = 255
        Image.fromarray(mask).save(folder / f"mask-{name}")
        made.append(Sample(name, folder / name, number % 2, mask=folder / f"mask-{name}"))
    return made


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a random model in the shape of Stable Diffusion 1.5."""
    return tiny_models.save_sd15(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def diffusion(model):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Diffusion(str(model), steps=4, batch_size=2)
    torch.set_num_threads(before)


def method(kind, generator, **settings):
    if kind == "inpainting":
        return Inpainting(generator, Annotated(), **settings)
    return {"text2image": TextToImage, "image2image": ImageToImage}[kind](generator, **settings)


def make(one, samples, folder, dataset=BIRDS):
    return one.make(samples, dataset, folder / "stores", SIDE, runner_in(folder / "stores"))


def lines(made) -> list[dict]:
    return [json.loads(line) for line in (made.store.root / "metadata.jsonl").open()]


def keys(made) -> set[str]:
    return {job.key for job in made.jobs}


def shrunk(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """A source and its mask as they should be given to a generator: halved where the short side is 48."""
    image, mask = np.asarray(Image.open(sample.path)), np.asarray(Image.open(sample.mask)) > 0
    if image.shape[0] != 48:
        return image, mask
    blocks = image.reshape(24, 2, 32, 2, 3).astype(int)
    return (blocks.sum((1, 3)) + 2) // 4, mask.reshape(24, 2, 32, 2).any((1, 3))


# --- what is made --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_source_gets_its_copies_with_its_label_and_size(kind, samples, tmp_path):
    made = make(method(kind, Painter(), scale=2), samples, tmp_path)
    assert [one.label for one in made.samples] == [0, 1, 0, 1, 0] * 2
    written = {line["key"]: line for line in lines(made)}
    assert [written[one.id]["copy"] for one in made.samples] == [1] * 5 + [2] * 5
    assert [written[one.id]["sources"] for one in made.samples] == [[f"{n}.png"] for n in range(5)] * 2
    assert [written[one.id]["class"] for one in made.samples[:2]] == ["Azure Jay", "Green Finch"]
    sizes = [read_image(one.path).shape[:2] for one in made.samples]
    assert sizes == ([(16, 16)] * 5 if kind == "text2image" else KEPT) * 2
    assert len({one.path.read_bytes() for one in made.samples}) == 10
    report = made.report()
    assert (report["planned"], report["images"], report["missing_by_class"]) == (10, 10, {})


@pytest.mark.parametrize("kind", KINDS)
def test_several_classes_an_image(kind, samples, tmp_path):
    labels, unknown = ((0, 1), (), (1,), (0,), ()), ((), (0,), (0,), (), ())
    several = [replace(one, label=a, unknown=b) for one, a, b in zip(samples, labels, unknown, strict=True)]
    one = method(kind, Painter())
    assert one.plan(several, BIRDS, tmp_path)[-1].count == 3
    made = make(one, several, tmp_path)
    assert [(job.label, job.prompt) for job in made.jobs] == [
        ((0, 1), "a photo of an azure jay and a green finch"),
        ((1,), "a photo of a green finch"),
        ((0,), "a photo of an azure jay"),
    ]  # there is no word for an image of no class
    assert [(sample.label, sample.unknown) for sample in made.samples] == [((0, 1), ()), ((1,), (0,)), ((0,), ())]


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_is_asked_in_batches_of_one_size(kind, samples, tmp_path):
    painter = Painter(batch_size=2)
    make(method(kind, painter, scale=2), samples, tmp_path)
    batches = [Counter(image.shape[:2] for image in asked.images) for asked in painter.asked]
    assert {len(sizes) for sizes in batches} == {1}
    expected = Counter({(16, 16): 5}) if kind == "text2image" else Counter({(20, 32): 3, (32, 20): 1, (24, 32): 1})
    assert Counter(size for sizes in batches for size in sizes) == expected
    assert painter.devices == ["cpu"]


def test_edits_start_from_the_source_shrunk_to_what_training_needs(samples, tmp_path):
    painter = Painter()
    made = make(ImageToImage(painter, strength=0.3), samples, tmp_path)
    assert {asked.strength for asked in painter.asked} == {0.3}
    given = {seed: image for asked in painter.asked for seed, image in zip(asked.seeds, asked.images, strict=True)}
    for job, sample in zip(made.jobs, samples, strict=True):
        assert (given[job.seed] == shrunk(sample)[0]).all()


def test_inpainting_repaints_all_but_the_subject(samples, tmp_path):
    made = make(Inpainting(Painter(), Annotated()), samples, tmp_path)
    for job, one, sample in zip(made.jobs, made.samples, samples, strict=True):
        source, mask = shrunk(sample)
        result = read_image(one.path)
        assert (result[mask] == source[mask]).all()
        noise = np.random.default_rng(job.seed).integers(0, 256, source.shape)
        assert (result[~mask] == noise[~mask]).all()


def test_images_that_cannot_be_used_are_reported_by_class(samples, tmp_path):
    made = make(method("image2image", Painter(bad="azure")), samples, tmp_path)
    report = made.report()
    assert report["verdicts"] == {"not finite": 3, "ok": 2}
    assert report["missing_by_class"] == {"Azure Jay": 3}
    assert [one.label for one in made.samples] == [1, 1]


def test_an_image_of_another_size_than_asked_for_is_refused(samples, tmp_path):
    class Cutter(Painter):
        def image_to_image(self, images, *others):
            return [image[:, :-1] for image in super().image_to_image(images, *others)]

    report = make(ImageToImage(Cutter()), samples, tmp_path).report()
    assert report["verdicts"] == {"size 31x20": 3, "size 19x32": 1, "size 31x24": 1}


def test_a_subject_that_is_not_found_costs_nothing_else(samples, tmp_path):
    Image.fromarray(np.zeros(SOURCES[1], np.uint8)).save(samples[1].mask)
    Image.fromarray(np.full(SOURCES[2], 255, np.uint8)).save(samples[2].mask)
    made = make(Inpainting(Painter(), Annotated(), scale=2), samples, tmp_path)
    report = made.report()
    assert (report["planned"], report["images"], report["without_subject"]) == (6, 6, 2)
    assert {source for line in lines(made) for source in line["sources"]} == {"0.png", "3.png", "4.png"}
    assert (report["masks"]["n"], report["masks"]["empty"], report["masks"]["near_full"]) == (5, 1, 1)
    with pytest.raises(ValueError, match=r"no usable subject in 2 images.*masks"):
        make(Inpainting(Painter(), Annotated()), samples[1:3], tmp_path)


def test_a_sheet_shows_each_source_beside_its_result(samples, tmp_path):
    made = make(ImageToImage(Painter()), samples, tmp_path)
    shown = [made.show(job) for job in made.jobs]
    assert [list(one) for one in shown] == [["a photo of an azure jay"], ["a photo of a green finch"]] * 2 + [
        ["a photo of an azure jay"]
    ]
    for one, sample in zip(shown, samples, strict=True):
        (image,) = one.values()
        assert (image == shrunk(sample)[0]).all()


# --- prompts -------------------------------------------------------------------------------------------------------


def test_prompts_name_class_place_and_time(samples, tmp_path):
    made = make(TextToImage(Painter(), scale=20, prompt="{name}|{a_name}|{place}|{time}"), samples[:2], tmp_path)
    parts = [job.prompt.split("|") for job in made.jobs]
    assert {tuple(one[:2]) for one in parts[0::2]} == {("azure jay", "an azure jay")}
    assert {tuple(one[:2]) for one in parts[1::2]} == {("green finch", "a green finch")}
    sets = read_sets()
    places, times = {one[2] for one in parts}, {one[3] for one in parts}
    assert places <= set(sets.spatial)
    assert times <= set(sets.temporal)
    assert len(places) > 9  # 40 draws of 18 places leave out fewer than two on average
    assert len(times) > 7
    assert [line["prompt"] for line in lines(made)] == [job.prompt for job in made.jobs]


def test_an_image_of_two_classes_names_both(samples, tmp_path):
    both = [replace(samples[0], label=(0, 1))]
    made = make(TextToImage(Painter(), prompt="{a_name}: {name}"), both, tmp_path)
    assert made.jobs[0].prompt == "an azure jay and a green finch: azure jay and green finch"
    assert made.samples[0].label == (0, 1)
    assert made.store[made.samples[0].id]["class"] == ["Azure Jay", "Green Finch"]


def test_prompts_and_seeds_follow_from_seed_sample_and_copy_alone(samples, tmp_path):
    def drawn(chosen, **settings):
        made = make(TextToImage(Painter(), prompt="{name}, {place} {time}", **settings), chosen, tmp_path)
        return {(job.sources[0], job.copy): (job.seed, job.prompt) for job in made.jobs}

    once, alone, other = drawn(samples, scale=4), drawn(samples[3:4], scale=4), drawn(samples, scale=4, seed=1)
    assert alone == {name: what for name, what in once.items() if name[0] == "3.png"}
    assert len({seed for seed, _ in once.values()}) == 20
    assert len({prompt for _, prompt in once.values()}) > 15
    assert all(once[name][0] != other[name][0] for name in once)
    assert sum(once[name][1] == other[name][1] for name in once) < 4


# --- what is made again --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_scales_are_nested_and_other_samples_do_not_matter(kind, samples, tmp_path):
    once = make(method(kind, Painter()), samples, tmp_path)
    before = {one.id: one.path.read_bytes() for one in once.samples}
    painter = Painter()
    twice = make(method(kind, painter, scale=2), samples[::-1], tmp_path)
    assert sum(len(asked.seeds) for asked in painter.asked) == 5  # the new ones
    assert {seed for asked in painter.asked for seed in asked.seeds} == {job.seed for job in twice.jobs[5:]}
    assert keys(once) == {job.key for job in twice.jobs[:5]}
    idle = Painter()
    part = make(method(kind, idle), [samples[3], samples[1]], tmp_path)
    assert (idle.asked, idle.devices) == ([], [])
    assert keys(part) < keys(once)
    fresh = make(method(kind, Painter(batch_size=1)), samples[1:], tmp_path / "fresh")
    assert {one.id: one.path.read_bytes() for one in fresh.samples}.items() <= before.items()


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_makes_other_images(kind, samples, tmp_path):
    base = make(method(kind, Painter()), samples, tmp_path)
    changes = [{"seed": 1}, {"prompt": "a sketch of {a_name}"}]
    changes += [] if kind == "text2image" else [{"strength": 0.9}]
    for change in changes:
        other = make(method(kind, Painter(), **change), samples, tmp_path)
        assert not keys(base) & keys(other), change
    other = make(method(kind, Painter(colours="dark")), samples, tmp_path)
    assert not keys(base) & keys(other)
    assert other.store.root != base.store.root


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_image_file_makes_other_images_of_it_where_it_is_used(kind, samples, tmp_path):
    base = make(method(kind, Painter()), samples, tmp_path)
    pixels = np.array(Image.open(samples[1].path))
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(samples[1].path)
    painter = Painter()
    other = make(method(kind, painter), samples, tmp_path)
    assert len(keys(base) & keys(other)) == (5 if kind == "text2image" else 4)
    assert len(painter.asked) == (0 if kind == "text2image" else 1)
    if kind == "inpainting":  # and a changed mask
        mask = np.array(Image.open(samples[0].mask))
        mask[0, 0] = 255
        Image.fromarray(mask).save(samples[0].mask)
        assert len(keys(other) & keys(make(method(kind, Painter()), samples, tmp_path))) == 4


def test_what_training_keeps_of_a_source_matters_to_edits_only(samples, tmp_path):
    for kind, same in (("text2image", True), ("image2image", False)):
        roots = {
            method(kind, Painter()).make(samples, BIRDS, tmp_path, side, runner_in(tmp_path)).store.root
            for side in (SIDE, 16)
        }
        assert (len(roots) == 1) == same


# --- the plan ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_says_what_will_be_made_and_makes_nothing(kind, samples, tmp_path):
    painter = Painter()
    settings = {} if kind == "text2image" else {"strength": 0.4}
    one = method(kind, painter, scale=3, **settings)
    stages = {stage.name: stage for stage in one.plan(samples, BIRDS, tmp_path / "stores")}
    images = stages["images"]
    assert (images.count, len(images.jobs)) == (15, 15)
    assert images.steps == (150 if kind == "text2image" else 60)
    assert images.prompts() == {"a photo of an azure jay": 9, "a photo of a green finch": 6}
    assert list(stages) == (["masks", "images"] if kind == "inpainting" else ["images"])
    assert kind != "inpainting" or stages["masks"].count == 5
    assert (painter.asked, painter.devices) == ([], [])
    assert not (tmp_path / "stores").exists()
    made = make(one, samples, tmp_path)
    assert [job.seed for job in made.jobs] == [job.seed for job in images.jobs]
    assert made.report()["ledger"]["images"]["denoiser_steps"] == images.steps
    assert known_speed(tmp_path / "stores", images.speed_key) > 0  # the next plan can tell the time


def test_the_plan_of_images_from_words_names_them(samples, tmp_path):
    one = TextToImage(Painter(), prompt="{a_name}, {place} {time}")
    (stage,) = one.plan(samples, BIRDS, tmp_path / "stores")
    assert {job.prompt for job in stage.jobs} == {job.prompt for job in make(one, samples, tmp_path).jobs}


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scale": 0}, r"method\.scale=0"),
        ({"scale": 1.5}, r"method\.scale=1\.5"),
        ({"strength": 0}, r"strength=0 must be"),
        ({"strength": 1.5}, r"strength=1\.5 must be"),
        ({"strength": float("nan")}, "strength=nan must be"),
        ({"prompt": "a {bird}"}, r"'a \{bird\}'.*'bird'.*use \{name\}, \{a_name\}, \{place\} or \{time\}"),
        ({"prompt": "a {}"}, "cannot be filled in"),
        ({"prompt": "a {name"}, "cannot be filled in"),
        ({"prompt": "a {name.first}"}, "cannot be filled in"),
    ],
)
def test_wrong_arguments_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ImageToImage(Painter(), **settings)


def test_a_generator_without_the_call_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    gallery = Gallery(tmp_path)
    TextToImage(gallery)
    with pytest.raises(ValueError, match=r"generator=Gallery offers text_to_image, and this method needs image_to_"):
        ImageToImage(gallery)
    with pytest.raises(ValueError, match="this method needs inpaint"):
        Inpainting(gallery, Annotated())


@pytest.mark.parametrize("shares", [(0.5, 0.5), (-0.1, 0.5), (0.5, 1.1)])
def test_shares_that_are_no_range_are_refused(shares):
    with pytest.raises(ValueError, match="min_subject"):
        Inpainting(Painter(), Annotated(), min_subject=shares[0], max_subject=shares[1])


# --- with a diffusion model ----------------------------------------------------------------------------------------


class Spied:
    """Notes the timestep and the number of images of every call of the denoiser."""

    def __init__(self, diffusion):
        diffusion.load("cpu")
        self.calls = []
        self._hook = diffusion._loaded.unet.register_forward_pre_hook(self._note)

    def _note(self, module, args):
        self.calls.append((int(args[1]), len(args[0])))

    def __enter__(self):
        return self.calls

    def __exit__(self, *error):
        self._hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_steps_planned_are_steps_carried_out(kind, diffusion, samples, tmp_path):
    settings = {} if kind == "text2image" else {"strength": 0.5}
    one = method(kind, diffusion, **settings)
    stage = one.plan(samples, BIRDS, tmp_path / "stores")[-1]
    with Spied(diffusion) as calls:
        made = make(one, samples, tmp_path)
    ledger = made.report()["ledger"]["images"]
    # Stable Diffusion's own scheduler, PNDM, calls the denoiser at 751, 501, 501, 251 and 1 in four steps.
    steps, first = (5, 751) if kind == "text2image" else (3, 501)
    assert stage.steps == ledger["denoiser_steps"] == 5 * steps
    batches = 3 if kind == "text2image" else 4  # of two: (2, 2, 1) of one size, or (2, 1), (1), (1)
    assert [count for _, count in calls] == [4] * batches * steps  # two images with and without guidance
    assert max(timestep for timestep, _ in calls) == first == diffusion.start_timestep(one.call, one.strength)
    assert {line["start_timestep"] for line in lines(made)} == {first}
    assert {line["strength"] for line in lines(made)} == {settings.get("strength", 1.0)}
    assert {line["denoiser_steps"] for line in lines(made)} == {steps}


@pytest.mark.parametrize("kind", KINDS)
def test_a_diffusion_model_makes_images_of_every_size(kind, diffusion, model, samples, tmp_path):
    made = make(method(kind, diffusion), samples, tmp_path)
    results = [read_image(one.path) for one in made.samples]
    assert [one.shape[:2] for one in results] == ([(16, 16)] * 5 if kind == "text2image" else KEPT)
    if kind == "inpainting":
        for result, (source, mask) in zip(results, map(shrunk, samples), strict=True):
            assert (result[mask] == source[mask]).all()
            assert (result[~mask] != source[~mask]).any(axis=-1).mean() > 0.95
    # Another order, a moved model, a new process' worth of state: the same bytes.
    shutil.copytree(model, tmp_path / "moved")
    again = make(
        method(kind, Diffusion(str(tmp_path / "moved"), steps=4, batch_size=2)), samples[::-1], tmp_path / "again"
    )
    assert {one.id: one.path.read_bytes() for one in again.samples} == {
        one.id: one.path.read_bytes() for one in made.samples
    }


def test_a_small_strength_stays_near_the_source(model, samples, tmp_path):
    """Nearer to what the autoencoder makes of the source, which is all that a random one can bring back."""
    diffusion = Diffusion(str(model), steps=4)
    diffusion.load("cpu")
    vae = diffusion._loaded.vae
    with torch.no_grad():
        vae.quant_conv.weight[:4] *= 100  # random weights give latents that a whiff of noise drowns, and
        vae.quant_conv.weight[4:], vae.quant_conv.bias[4:] = 0, -30  # add as much noise themselves
        pixels = torch.from_numpy(shrunk(samples[3])[0]).permute(2, 0, 1)[None] / 127.5 - 1
        decoded = vae.decode(vae.encode(pixels.float()).latent_dist.mean).sample[0]
    copy = ((decoded / 2 + 0.5).clamp(0, 1) * 255).permute(1, 2, 0).numpy()

    def distance(strength):
        (one,) = make(ImageToImage(diffusion, strength=strength), samples[3:4], tmp_path).samples
        return np.abs(read_image(one.path) - copy).mean()

    assert distance(0.25) < 0.5 * distance(1.0)


def test_the_key_of_an_image_covers_the_model(model, diffusion, samples, tmp_path):
    base = make(TextToImage(diffusion), samples[:1], tmp_path)
    for change in ({"steps": 3}, {"guidance": 2.0}, {"negative_prompt": "snow"}):
        stages = TextToImage(Diffusion(str(model), **({"steps": 4, "batch_size": 2} | change))).plan(
            samples[:1], BIRDS, tmp_path
        )
        assert not keys(base) & {job.key for job in stages[0].jobs}, change
    fast = TextToImage(Diffusion(str(model), steps=4, batch_size=8, attention_slicing=True))
    assert keys(base) == {job.key for job in fast.plan(samples[:1], BIRDS, tmp_path)[0].jobs}
