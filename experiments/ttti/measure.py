"""Textual inversion at the timesteps of the edit alone, beside all timesteps: ``python experiments/ttti/measure.py``.

On cut-outs of toybirds (or whole pictures, ``--call image_to_image``), with the tiny generator. A word is learned for
each species from its training pictures, twice: at timesteps up to where an edit of the strength begins (truncated), and
at all of them (full). All words of a seed see the same pictures in the same order. Measured is the error of the
predicted noise at the timesteps of the edit, on the pictures learned from and on some of the test split, always with
the same noise. Writes ``results.json`` and prints the tables of the README.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genaug.console import track
from genaug.data.base import Sample
from genaug.data.reading import read_image
from genaug.data.toybirds import ToyBirds
from genaug.generation.base import Call
from genaug.generation.diffusion import Diffusion
from genaug.generation.textual_inversion import TextualInversion
from genaug.generation.training_transparency import square_cutout
from genaug.generation.transparency import FourChannelVAE
from genaug.seeding import derive

HERE = Path(__file__).parent
PROMPT, WORD = "a photo of a {}", "bird"
MARGIN = 0.1
SPLITS = {"learned from": "train", "held out": "test"}


def picture(sample: Sample, call: Call) -> np.ndarray:
    """What is learned from: the cut-out, or the whole picture."""
    image = read_image(sample.path)
    if call == "image_to_image":
        return image
    return square_cutout(image, read_image(sample.mask, channels=1)[..., 0] > 127, MARGIN, len(image))


def encode(generator: Diffusion, call: Call, pictures: Sequence[np.ndarray]) -> Tensor:
    """Latents ``(N, C, h, w)``."""
    task = generator.transparent_latents if call == "edit_transparent" else generator.image_latents
    return torch.cat([task(pictures[first : first + 15]) for first in range(0, len(pictures), 15)])


@torch.no_grad()
def error(generator: Diffusion, call: Call, latents: Tensor, prompt: str, last: int, draws: int) -> float:
    """Mean squared error of the noise that the denoiser sees in noised latents, at even timesteps up to ``last``."""
    pipeline, count = generator.pipeline(call), len(latents) * draws
    text = pipeline.encode_prompt([prompt], "cpu", 1, False)[0].expand(count, -1, -1)
    random = torch.Generator().manual_seed(derive(0, "noise"))
    timesteps = ((torch.randperm(count, generator=random) + 0.5) / count * (last + 1)).long()
    noise = torch.randn((count, *latents.shape[1:]), generator=random)
    signal = pipeline.scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    noised = signal.sqrt() * latents.repeat(draws, 1, 1, 1) + (1 - signal).sqrt() * noise
    said = torch.cat(
        [
            pipeline.unet(*part).sample
            for part in zip(*(one.split(30) for one in (noised, timesteps, text)), strict=True)
        ]
    )
    return float((said - noise).square().mean())


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """All of it."""
    dataset = ToyBirds(asked.data, image_size=64)
    samples, names = dataset.splits(), [name.lower() for name in dataset.classes]
    transparency = FourChannelVAE("genaug:tiny_transparency") if asked.call == "edit_transparent" else None
    generator = Diffusion(
        "genaug:tiny_weights", steps=asked.edit_steps, guidance=7.0, size=64, batch_size=16, transparency=transparency
    )
    generator.load("cpu")
    species = range(asked.classes)
    latents = {
        said: [
            encode(generator, asked.call, [picture(one, asked.call) for one in samples[split] if one.label == label])
            for label in species
        ]
        for said, split in SPLITS.items()
    }
    last = TextualInversion().last_timestep(generator, asked.call, asked.strength)

    def look(prompt: Callable[[int], str]) -> dict[str, list[float]]:
        return {
            said: [
                error(generator, asked.call, latents[said][label], prompt(label), last, asked.draws)
                for label in species
            ]
            for said in SPLITS
        }

    rows = {"start word": look(lambda _: PROMPT.format(WORD)), "class name": look(lambda k: PROMPT.format(names[k]))}
    runs: dict[str, list[dict[str, list[float]]]] = {}
    seconds = 0.0
    arms = [(steps, truncated) for steps in asked.steps for truncated in (True, False)]
    for number, (seed, steps, truncated) in enumerate(
        track([(seed, *arm) for seed in range(asked.seeds) for arm in arms], asked.seeds * len(arms), "learning")
    ):
        inversion = TextualInversion(
            vectors=asked.vectors, steps=steps, batch_size=asked.batch, learning_rate=asked.rate, bfloat16=True,
            truncated=truncated,
        )  # fmt: skip
        upto = inversion.last_timestep(generator, asked.call, asked.strength)
        words, started = {}, time.process_time()
        for label in species:
            token = f"<word-{number}-{label}>"
            words[token] = inversion.learn(
                generator, asked.call, token, WORD, latents["learned from"][label], upto, derive(seed, "word", label)
            ).vectors
        seconds += time.process_time() - started
        generator.add_words(words)
        arm = f"{'truncated' if truncated else 'full'}, {steps} steps"
        runs.setdefault(arm, []).append(look(lambda k, tokens=list(words): PROMPT.format(tokens[k])))
    settings = {key: value for key, value in vars(asked).items() if key not in ("data", "out")}
    learned = asked.seeds * len(arms) * asked.classes
    return {
        "settings": {**settings, "last_timestep": last, "word": WORD, "prompt": PROMPT, "guidance": 7.0},
        "processor_seconds_a_word": round(seconds / learned, 2),
        "references": rows,
        "learned": runs,
    }


def table(result: dict[str, Any]) -> str:
    """Means over species and seeds, and what truncated saves: mean and standard error over species of the mean seed."""
    lines = ["| prompt | learned from | held out |", "|---|---|---|"]
    for name, looks in result["references"].items():
        lines.append(f"| {name} | " + " | ".join(f"{statistics.fmean(looks[said]):.5f}" for said in SPLITS) + " |")
    means = {
        arm: {said: np.mean([look[said] for look in looks], axis=0) for said in SPLITS}
        for arm, looks in result["learned"].items()
    }
    for arm, errors in means.items():
        lines.append(f"| {arm} | " + " | ".join(f"{errors[said].mean():.5f}" for said in SPLITS) + " |")
    lines += ["", "| full minus truncated | learned from | held out |", "|---|---|---|"]
    for steps in result["settings"]["steps"]:
        cells = []
        for said in SPLITS:
            gain = means[f"full, {steps} steps"][said] - means[f"truncated, {steps} steps"][said]
            spread = gain.std(ddof=1) / len(gain) ** 0.5
            cells.append(f"{gain.mean() * 1e5:.1f} ± {spread * 1e5:.1f} ({(gain > 0).sum()} of {len(gain)} species)")
        lines.append(f"| {steps} steps, in 1e-5 | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Ask, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("cache/toybirds"), help="where toybirds is drawn")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--call", choices=("edit_transparent", "image_to_image"), default="edit_transparent")
    parser.add_argument("--strength", type=float, default=0.4)
    parser.add_argument("--edit-steps", type=int, default=25)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--vectors", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--draws", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    result = measure(asked)
    asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
