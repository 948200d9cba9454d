"""Seconds of learning a word, beside diffusers' example script for textual inversion.

    python benchmarks/textual_inversion.py                    the tiny generator on one core
    python benchmarks/textual_inversion.py --size sd15 --device cuda --classes 4 --steps 100

``script`` does what ``examples/textual_inversion`` does, written out here: a run a word, which loads the model; each
picture is read, resized, mirrored or not and encoded in every step; the text encoder sees the prompt once a picture;
the whole table of embeddings is trained, and all rows but the new one are put back after each step. ``genaug`` learns
all words in one run of :func:`genaug.synthesis.concepts.learn_concepts`. Both run in processes of their own, from the
start of Python to its end. Same model, pictures, steps and batch; ``--bfloat16`` is genaug's alone.

The second table begins with a step of ``script`` and adds what ``genaug`` does otherwise, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

#: Pictures of a class, as the few-shot settings and toybirds have them.
PICTURES = 30
TOKEN, WORD, PROMPT, RATE = "<new>", "bird", "a photo of a {}", 1e-3
TIMESTEPS = 401


@dataclass(frozen=True)
class Tricks:
    """What differs from the script."""

    latents: bool = False
    text: bool = False
    rows: bool = False
    bfloat16: bool = False
    attention: bool = False


LADDER = {
    "script": Tricks(),
    "+ latents made once": Tricks(latents=True),
    "+ text encoder once a prompt": Tricks(latents=True, text=True),
    "+ only the word's rows": Tricks(latents=True, text=True, rows=True),
    "+ bfloat16": Tricks(latents=True, text=True, rows=True, bfloat16=True),
    "+ plain attention (CPU)": Tricks(latents=True, text=True, rows=True, bfloat16=True, attention=True),
}


def draw_pictures(asked: argparse.Namespace, folder: Path) -> None:
    """PNGs of soft noise, ``PICTURES`` a class."""
    for label in range(asked.classes):
        (folder / str(label)).mkdir(parents=True)
        for number in range(PICTURES):
            noise = np.random.default_rng([label, number]).integers(0, 256, (8, 8, 3)).astype(np.uint8)
            side = asked.pixels
            Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{label}/{number}.png")


class Script:
    """One word by the way of the example script, or with some of the tricks.

    Args:
        asked: The command line.
        folder: Pictures of the class.
        tricks: What is done otherwise.
    """

    def __init__(self, asked: argparse.Namespace, folder: Path, tricks: Tricks) -> None:
        from diffusers import DDPMScheduler, StableDiffusionPipeline

        self.asked, self.tricks = asked, tricks
        self.files = sorted(folder.glob("*.png"))
        pipeline = StableDiffusionPipeline.from_pretrained(
            asked.model, dtype=getattr(torch, asked.dtype), safety_checker=None, requires_safety_checker=False
        ).to(asked.device)
        self.noising = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.unet, self.vae = pipeline.unet.requires_grad_(False), pipeline.vae.requires_grad_(False)
        self.tokenizer, self.encoder = pipeline.tokenizer, pipeline.text_encoder.requires_grad_(False).float()
        self.tokenizer.add_tokens([TOKEN])
        start = self.tokenizer(WORD, add_special_tokens=False).input_ids
        rows = max(len(self.tokenizer), self.encoder.get_input_embeddings().num_embeddings)
        self.encoder.resize_token_embeddings(rows, mean_resizing=False)
        self.new = len(self.tokenizer) - 1
        embedding = self.encoder.get_input_embeddings()
        with torch.no_grad():
            embedding.weight[self.new] = embedding.weight[start].mean(0)
        self.before = embedding.weight.detach().clone()
        if tricks.rows:
            self.trained = torch.nn.Parameter(embedding.weight[self.new].detach().clone())
            embedding.register_forward_hook(self._put)
        else:
            self.trained = embedding.weight.requires_grad_(True)
        self.table = embedding.weight
        self.optimizer = torch.optim.AdamW([self.trained], lr=RATE, weight_decay=0.0 if tricks.rows else 1e-2)
        self.encoder.train()
        self.kept = torch.cat([self._encode([file]) for file in self.files]) if tricks.latents else None

    def _put(self, module: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.where((inputs[0] == self.new)[..., None], self.trained.to(output.dtype), output)

    def _encode(self, files: list[Path]) -> Tensor:
        pixels = []
        for file in files:
            image = Image.open(file).convert("RGB").resize((self.asked.pixels,) * 2, Image.Resampling.BICUBIC)
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if torch.rand(()) < 0.5 else image
            pixels.append(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1)
        with torch.no_grad():
            found = self.vae.encode(torch.stack(pixels).to(self.vae.device, self.vae.dtype)).latent_dist.sample()
        return found * self.vae.config.scaling_factor

    def _text(self, count: int) -> Tensor:
        rows = 1 if self.tricks.text else count
        ids = [self._tokens() for _ in range(rows)]
        text = self.encoder(torch.cat(ids).to(self.encoder.device))[0]
        return text.expand(count, -1, -1) if self.tricks.text else text

    def _tokens(self) -> Tensor:
        length = self.tokenizer.model_max_length
        given = {"padding": "max_length", "truncation": True, "max_length": length, "return_tensors": "pt"}
        return self.tokenizer(PROMPT.format(TOKEN), **given).input_ids

    def step(self) -> float:
        """One; its loss."""
        chosen = torch.randint(len(self.files), (self.asked.batch,)).tolist()
        latents = self._encode([self.files[one] for one in chosen]) if self.kept is None else self.kept[chosen]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(TIMESTEPS, (len(latents),), device=latents.device)
        noised = self.noising.add_noise(latents, noise, timesteps)
        text = self._text(len(latents)).to(self.unet.dtype)
        with self._computing():
            said = self.unet(noised, timesteps, text).sample
        loss = functional.mse_loss(said.float(), noise.float())
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if not self.tricks.rows:
            others = torch.ones(len(self.table), dtype=torch.bool)
            others[self.new] = False
            with torch.no_grad():
                self.table[others] = self.before[others]
        return loss.item()

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with contextlib.ExitStack() as stack:
            if self.tricks.attention and self.asked.device == "cpu":
                stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if self.tricks.bfloat16:
                stack.enter_context(torch.autocast(self.asked.device, torch.bfloat16))
            yield


def script(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One word, start to end."""
    work = Script(asked, folder / "0", Tricks())
    for _ in range(asked.steps):
        loss = work.step()
    return {"loss": loss}


def genaug(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All words."""
    import pytorch_lightning as pl

    from genaug.data.reading import read_image
    from genaug.generation.diffusion import Diffusion
    from genaug.generation.textual_inversion import TextualInversion
    from genaug.synthesis.concepts import Request, learn_concepts
    from genaug.synthesis.runner import Runner

    generator = Diffusion(asked.model, steps=25, dtype=asked.dtype, size=asked.pixels, batch_size=16)
    inversion = TextualInversion(
        steps=asked.steps, batch_size=asked.batch, learning_rate=RATE, prompts=(PROMPT,), bfloat16=asked.bfloat16
    )
    requests = []
    for label in range(asked.classes):
        files = sorted((folder / str(label)).glob("*.png"))
        keys = tuple(str(file) for file in files)
        requests.append(Request(f"<w{label}>", WORD, keys, lambda files=files: [read_image(file) for file in files]))
    kind = "cpu" if asked.device == "cpu" else "gpu"
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator=kind, devices=1, enable_model_summary=False, **quiet)
    concepts = learn_concepts(
        requests, inversion, generator, "image_to_image", 0.4, folder / "words", Runner(trainer, folder)
    )
    return {"loss": concepts.report()["last_loss"]}


def ladder(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds of a step on each rung, median; rungs in turn."""
    clock = time.process_time if asked.device == "cpu" else time.perf_counter
    works = {name: Script(asked, folder / "0", tricks) for name, tricks in LADDER.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(asked.rounds * 3 + 1):
        for name, work in works.items():
            started = clock()
            work.step()
            if number:  # the first chooses kernels
                seconds[name].append(clock() - started)
    return {name: statistics.median(found) for name, found in seconds.items()}


def measure(asked: argparse.Namespace, part: str, folder: Path) -> dict[str, Any]:
    """Run a part in a process of its own: its answer, and its seconds from start to end."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder)]
    for name in ("model", "device", "dtype", "pixels", "batch", "steps", "classes", "rounds", "threads"):
        command += [f"--{name}", str(getattr(asked, name))]
    command += ["--bfloat16"] * asked.bfloat16
    before, started = os.times(), time.monotonic()
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    after, answer = os.times(), json.loads(found.splitlines()[-1])
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return {"answer": answer, "wall": time.monotonic() - started, "processor": used}


def compare(asked: argparse.Namespace) -> None:
    """Both tables."""
    if not Path(asked.model).exists():
        from networks import save_sd15

        save_sd15(Path(asked.model), getattr(torch, asked.dtype))
    console = Console()
    what = f"{asked.size}, {asked.steps} steps, batch {asked.batch}, {asked.dtype}, {asked.device}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_pictures(asked, folder)
        clock = "processor" if asked.device == "cpu" else "wall"
        theirs = [measure(asked, "script", folder)[clock] for _ in range(asked.runs)]
        ours = measure(asked, "genaug", folder)[clock]
        table = Table(title=f"{what}: seconds of {clock} time")
        for column in ("", "words", "seconds", "seconds a word", "x script"):
            table.add_column(column, justify="right")
        base, each = statistics.fmean(theirs), ours / asked.classes
        table.add_row("script", str(asked.runs), f"{sum(theirs):.1f}", f"{base:.2f}", "1.00")
        table.add_row("genaug", str(asked.classes), f"{ours:.1f}", f"{each:.2f}", f"{base / each:.2f}")
        console.print(table)
        steps = measure(asked, "ladder", folder)["answer"]
    table = Table(title=f"{what}: seconds of a step")
    for column in ("", "seconds", "x script"):
        table.add_column(column, justify="right")
    for rung, seconds in steps.items():
        table.add_row(rung, f"{seconds:.3f}", f"{steps['script'] / seconds:.2f}")
    console.print(table)
    console.print(f"start of a run of the script and its end: {base - asked.steps * steps['script']:.1f} s a word")


def main() -> None:
    """Ask, and compare or do a part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "sd15"), default="tiny")
    parser.add_argument("--model", help="folder of the network; built there with random weights if it is not there")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--bfloat16", action="store_true", help="genaug computes a float32 denoiser in bfloat16")
    parser.add_argument("--pixels", type=int)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3, help="of the script: a word costs it the same every time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--part", choices=("script", "genaug", "ladder"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.pixels = asked.pixels or {"tiny": 64, "sd15": 512}[asked.size]
    shipped = Path(__file__).parents[1] / "src" / "genaug" / "generation" / "tiny_weights"
    asked.model = asked.model or str(shipped if asked.size == "tiny" else Path("models") / "random-sd15")
    torch.set_num_threads(asked.threads)
    if asked.part is None:
        compare(asked)
        return
    print(json.dumps({"script": script, "genaug": genaug, "ladder": ladder}[asked.part](asked, asked.folder)))


if __name__ == "__main__":
    main()
