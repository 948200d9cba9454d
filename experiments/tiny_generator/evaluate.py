"""What the tiny generator can do, in numbers and grids: ``python experiments/tiny_generator/evaluate.py``.

Two small networks are trained on drawn pictures, one to name the species and one to name the habitat; they then judge
generated pictures. Their accuracy on drawn pictures of the test split, which neither they nor the generator have
learnt from, stands beside each number; the same pictures are the ones that image-to-image edits.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoPipelineForImage2Image, AutoPipelineForText2Image
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from genaug.data.reading import read_image
from genaug.data.toybirds import HABITATS, SPECIES
from genaug.data.toyscenes import PLACES, ToyScenes
from genaug.models.tiny import Tiny
from genaug.schedules import one_cycle
from genaug.seeding import derive

HERE = Path(__file__).parent
WEIGHTS = HERE.parents[1] / "src" / "genaug" / "generation" / "tiny_weights"
NAMES = [species.name.lower() for species in SPECIES]
TIMES = ("at dawn", "at noon", "at sunset", "in summer", "in autumn", "at night")
SEED, BATCH, STRENGTHS = 1, 20, (0.2, 0.4, 0.6, 0.8)
GUIDANCES = (2.0, 3.0, 4.0, 7.0)


@dataclass(frozen=True, slots=True)
class Labelled:
    """Drawn pictures: ``(N, 3, 64, 64)`` uint8, and two labels of each (species 20 = no bird)."""

    pictures: Tensor
    species: Tensor
    habitat: Tensor

    def where(self, chosen: Tensor) -> Labelled:
        """The chosen ones."""
        return Labelled(self.pictures[chosen], self.species[chosen], self.habitat[chosen])


def read(dataset: ToyScenes, split: str) -> Labelled:
    """A split without its sketches."""
    samples = [(sample, int(Path(sample.id).stem)) for sample in dataset.splits()[split]]
    shown = [(sample, dataset.picture(split, number).composition.habitat) for sample, number in samples]
    kept = [(sample, habitat) for sample, habitat in shown if habitat is not None]
    pictures = torch.stack([torch.from_numpy(read_image(sample.path)).permute(2, 0, 1) for sample, _ in kept])
    labels = [torch.tensor([sample.label for sample, _ in kept]), torch.tensor([habitat for _, habitat in kept])]
    return Labelled(pictures, *labels)


def train_judge(pictures: Tensor, labels: Tensor, classes: int, steps: int, kept: Path) -> nn.Module:
    """The project's ``tiny`` network, trained with shifts and mirror images; ``kept`` holds it for the next time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = Tiny(classes)
    if kept.exists():
        model.load_state_dict(torch.load(kept, weights_only=True))
        return model.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    rng, schedule = torch.Generator().manual_seed(SEED), one_cycle()
    for step in range(steps):
        chosen = torch.randint(len(pictures), (48,), generator=rng)
        batch = F.pad(pictures[chosen].float() / 127.5 - 1, (6, 6, 6, 6), mode="reflect")
        top, left, mirror = (int(torch.randint(bound, (), generator=rng)) for bound in (13, 13, 2))
        batch = batch[:, :, top : top + 64, left : left + 64]
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * schedule(step, steps)
        loss = F.cross_entropy(model(batch.flip(3) if mirror else batch), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    kept.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), kept)
    return model.eval()


@torch.no_grad()
def accuracy(judge: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """Per cent of ``pictures`` that get their label."""
    found = torch.cat([judge(part.float() / 127.5 - 1).argmax(1) for part in pictures.split(100)])
    return round(100 * float((found == labels).float().mean()), 1)


class Studio:
    """The generator, and what it makes as ``(N, 3, 64, 64)`` uint8 tensors.

    Args:
        folder: Of the pipeline.
        steps: Denoiser steps.
        guidance: Guidance scale.
    """

    def __init__(self, folder: Path, steps: int, guidance: float) -> None:
        self.text = AutoPipelineForText2Image.from_pretrained(folder, dtype=torch.float32)
        self.text.set_progress_bar_config(disable=True)
        self.image = AutoPipelineForImage2Image.from_pipe(self.text)
        self.image.set_progress_bar_config(disable=True)
        self.steps, self.guidance = steps, guidance

    def draw(self, prompts: Sequence[str]) -> Tensor:
        """A picture for each prompt."""
        return self._collect(prompts, lambda part: {"prompt": [prompts[i] for i in part], "pipe": self.text})

    def redraw(self, pictures: Tensor, prompts: Sequence[str], strength: float) -> Tensor:
        """Each picture edited with its prompt."""
        return self._collect(
            prompts,
            lambda part: {
                "prompt": [prompts[i] for i in part],
                "image": pictures[list(part)].float() / 255,
                "strength": strength,
                "pipe": self.image,
            },
        )

    def _collect(self, prompts: Sequence[str], arguments: Callable[[range], dict]) -> Tensor:
        made = []
        for first in range(0, len(prompts), BATCH):
            part = range(first, min(first + BATCH, len(prompts)))
            given = arguments(part)
            pipe = given.pop("pipe")
            generators = [torch.Generator().manual_seed(derive(SEED, "picture", index)) for index in part]
            images = pipe(
                **given,
                generator=generators,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                output_type="np",
            ).images
            made.append(torch.from_numpy((images * 255).round().astype(np.uint8)).permute(0, 3, 1, 2))
        return torch.cat(made)


def bird_prompts(each: int) -> tuple[list[str], Tensor]:
    """Every species by its name alone, ``each`` times; the species."""
    labels = torch.arange(len(NAMES)).repeat_interleave(each)
    return [f"a photo of a {NAMES[label]}" for label in labels], labels


def placed_prompts(each: int) -> tuple[list[str], Tensor, Tensor]:
    """Species in habitats, every pair about as often; species and habitats."""
    species = torch.arange(len(NAMES)).repeat_interleave(each)
    habitats = torch.arange(len(species)) % len(HABITATS)
    pairs = zip(species.tolist(), habitats.tolist(), strict=True)
    return [f"a photo of a {NAMES[bird]} {HABITATS[place].place}" for bird, place in pairs], species, habitats


def scenery_prompts() -> tuple[list[str], Tensor]:
    """Each named place at six times, and its habitat."""
    rows = [
        (f"a photo of {place} {time}", number)
        for number, habitat in enumerate(HABITATS)
        for place in PLACES[habitat.name]
        for time in TIMES
    ]
    return [text for text, _ in rows], torch.tensor([number for _, number in rows])


def sheet(rows: Sequence[Tensor], path: Path) -> None:
    """Rows of pictures as one PNG file."""
    lines = [torch.cat(list(F.pad(row, (1, 1, 1, 1), value=255)), dim=2) for row in rows]
    picture = Image.fromarray(torch.cat(lines, dim=1).permute(1, 2, 0).numpy())
    picture.quantize(256).save(path, optimize=True)  # a third of the bytes of 24-bit colour


def measure(
    studio: Studio, judges: tuple[nn.Module, nn.Module], birds: Labelled, each: int
) -> Iterator[tuple[str, float]]:
    """Every number, as it is known."""
    species_judge, habitat_judge = judges
    usual = studio.guidance
    for studio.guidance in GUIDANCES:
        prompts, labels = bird_prompts(each)
        name = f"text to image, guidance {studio.guidance}"
        yield f"{name}, 'a photo of a <species>': species", accuracy(species_judge, studio.draw(prompts), labels)
        prompts, labels = scenery_prompts()
        yield f"{name}, scenery: habitat", accuracy(habitat_judge, studio.draw(prompts), labels)
    studio.guidance = usual
    prompts, labels, habitats = placed_prompts(each)
    made = studio.draw(prompts)
    yield "text to image, '... in a <habitat>': species", accuracy(species_judge, made, labels)
    yield "text to image, '... in a <habitat>': habitat of the bird's picture", accuracy(habitat_judge, made, habitats)
    prompts = [f"a photo of a {NAMES[label]}" for label in birds.species]
    for strength in STRENGTHS:
        made = studio.redraw(birds.pictures, prompts, strength)
        yield f"image to image, strength {strength}: species", accuracy(species_judge, made, birds.species)
        yield f"image to image, strength {strength}: habitat", accuracy(habitat_judge, made, birds.habitat)


def grids(studio: Studio, birds: Labelled, folder: Path) -> None:
    """The pictures of the README."""
    prompts, _ = bird_prompts(2)
    made = studio.draw([prompts[2 * number + copy] for copy in range(2) for number in range(20)])
    sheet([made[:10], made[20:30], made[10:20], made[30:]], folder / "birds.png")
    places = [f"{place} {time}" for time in ("at dawn", "at noon in summer", "in autumn", "at night")
              for habitat in HABITATS for place in PLACES[habitat.name][:1]]  # fmt: skip
    sheet(studio.draw(places).split(len(HABITATS)), folder / "scenery.png")
    chosen = birds.where(torch.arange(0, len(birds.species), max(1, len(birds.species) // 10))[:10])
    prompts = [f"a photo of a {NAMES[label]}" for label in chosen.species]
    edits = [studio.redraw(chosen.pictures, prompts, strength) for strength in STRENGTHS]
    sheet([chosen.pictures, *edits], folder / "image_to_image.png")


def judges_for(cache: Path, steps: int) -> tuple[nn.Module, nn.Module, Labelled, dict[str, float]]:
    """Networks for species and habitat, drawn birds to edit, and the networks' accuracy on drawn pictures."""
    dataset = ToyScenes(cache / "toyscenes")
    train, test = read(dataset, "train"), read(dataset, "test")
    birds, test_birds = train.where(train.species < len(NAMES)), test.where(test.species < len(NAMES))
    kept = cache / "tiny_generator"
    species = train_judge(birds.pictures, birds.species, len(NAMES), steps, kept / f"species_{steps}.pt")
    habitat = train_judge(train.pictures, train.habitat, len(HABITATS), steps // 3, kept / f"habitat_{steps // 3}.pt")
    scenery = test.where(test.species == len(NAMES))
    real = {
        "drawn birds: species": accuracy(species, test_birds.pictures, test_birds.species),
        "drawn birds: habitat": accuracy(habitat, test_birds.pictures, test_birds.habitat),
        "drawn scenery: habitat": accuracy(habitat, scenery.pictures, scenery.habitat),
    }
    return species, habitat, test_birds, real


def balanced(birds: Labelled, each: int) -> Labelled:
    """The first ``each`` birds of every species."""
    rows = [torch.nonzero(birds.species == species).flatten()[:each] for species in range(len(NAMES))]
    return birds.where(torch.cat(rows))


def reconstruct(studio: Studio, pictures: Tensor) -> Tensor:
    """Pictures after a way through the autoencoder: nothing the generator makes can be better."""
    vae = studio.text.vae
    with torch.no_grad():
        latents = [vae.encode(part.float() / 127.5 - 1).latent_dist.mode() for part in pictures.split(50)]
        made = torch.cat([vae.decode(part).sample for part in latents])
    return ((made + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def psnr(made: Tensor, real: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, the mean over the pictures."""
    errors = (made.float() - real.float()).square().mean((1, 2, 3)) / 255**2
    return round(float(-10 * torch.log10(errors).mean()), 2)


def main() -> None:
    """Print every number, and write ``results.json`` and the grids."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--generator", type=Path, default=WEIGHTS)
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--each", type=int, default=8, help="pictures of each species")
    parser.add_argument("--judge-steps", type=int, default=900)
    args = parser.parse_args()
    began = time.monotonic()
    *judges, birds, results = judges_for(args.cache, args.judge_steps)
    studio = Studio(args.generator, args.steps, args.guidance)
    results |= {"steps": args.steps, "guidance": args.guidance}
    birds = balanced(birds, args.each)
    through = reconstruct(studio, birds.pictures)
    results["birds through the autoencoder: PSNR in dB"] = psnr(through, birds.pictures)
    results["birds through the autoencoder: species"] = accuracy(judges[0], through, birds.species)
    print(json.dumps(results, indent=1), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    grids(studio, birds, args.out)
    for name, value in measure(studio, (judges[0], judges[1]), birds, args.each):
        results[name] = value
        print(f"{name}: {value}", flush=True)
    (args.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
