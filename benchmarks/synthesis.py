"""Images per second of the engine, beside the loop that published code generates with.

    python benchmarks/synthesis.py                       the tiny generator on the CPU, all cores
    python benchmarks/synthesis.py --network sdxl --device cuda --batch 8 --images 32
    python benchmarks/synthesis.py --work objects        cut-out objects edited, as De-DA does
    python benchmarks/synthesis.py --work edits          photographs edited, as DA-Fusion, Diff-Mix, ALIA and
                                                         Real-Guidance do
    python benchmarks/synthesis.py --work styles         photographs edited by instruction, as DiffuseMix does

Both make images from the same prompts with the same weights, steps and guidance, each in a process of its own, in turn,
several rounds; loading is not counted.

* ``loop``: one prompt a call, the picture saved before the next is begun. Of objects, each is cut out, encoded, edited
  by diffusers' image-to-image pipeline with the LoRA loaded as its documentation says, decoded and saved. Photographs
  are read, squeezed to a square, edited by diffusers' pipeline, brought back and saved, several times each.
* ``engine``: batches, one generator an image, written while the next batch is made, with records, gates and hashes.
* ``engine x 2``: two such processes on one store, sharing the cores.

``outside`` is the share of the engine's wall time in which neither text encoder, denoiser nor VAE is at work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from genaug.captioning.engine import combinations, read_sets
from genaug.captioning.template import compose
from genaug.data.base import Sample
from genaug.data.datamodule import cores
from genaug.data.reading import read_image, read_mask
from genaug.data.toybirds import ToyBirds
from genaug.functional.cutouts import Square
from genaug.functional.masks import mask_box
from genaug.generation.base import Call
from genaug.generation.diffusion import Diffusion
from genaug.generation.instruct_pix2pix import InstructPix2Pix
from genaug.generation.transparency import FourChannelVAE
from genaug.methods.diffusemix import StyledHalves
from genaug.methods.image2image import ImageToImage
from genaug.synthesis.image_store import ImageStore
from genaug.synthesis.jobs import Job
from genaug.synthesis.object_edits import EditRenderer, ObjectEdits, Subject
from genaug.synthesis.per_source import SourceImages
from genaug.synthesis.runner import Renderer, Runner
from genaug.synthesis.text_images import TextImages

#: Noise level and padding of edited objects.
STRENGTH, PADDING = 0.4, 0.1
#: Noise level of edited photographs, and edits of each.
EDIT_STRENGTH, COPIES = 0.5, 4
IMAGE_GUIDANCE = 1.5
SHIPPED = Path(__file__).parents[1] / "src" / "genaug" / "generation" / "tiny_weights"


def prompts(count: int) -> list[str]:
    return [compose(request) for request in combinations(read_sets(), count, seed=0)]


def birds(asked: argparse.Namespace) -> tuple[ToyBirds, list[tuple[Sample, np.ndarray, tuple[int, int, int, int]]]]:
    """Photographs with the masks and boxes of their objects."""
    dataset = ToyBirds(asked.cache, image_size=64)
    found = []
    for sample in dataset.splits()["train"][: asked.images]:
        mask = read_mask(sample.mask)
        found.append((sample, mask, mask_box(mask)))
    return dataset, found


def timed(make: Callable[..., None], tasks: Sequence[tuple[Any, ...]]) -> dict[str, float]:
    """Call ``make(number, *task)`` for each task."""
    make(-1, *tasks[0])  # kernels are chosen at the first call
    started, used = time.monotonic(), time.process_time()
    for number, task in enumerate(tasks):
        make(number, *task)
    return {"seconds": time.monotonic() - started, "processor": time.process_time() - used}


def loop_of_objects(asked: argparse.Namespace, folder: Path) -> dict[str, float]:
    from diffusers import AutoencoderKL, StableDiffusionImg2ImgPipeline
    from PIL import Image

    shipped = Path(asked.model).with_name("tiny_transparency")
    given = {"safety_checker": None, "requires_safety_checker": False, "dtype": getattr(torch, asked.dtype)}
    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(asked.model, **given).to(asked.device)
    pipe.load_lora_weights(shipped, weight_name=FourChannelVAE.LORA)
    pipe.set_progress_bar_config(disable=True)
    vae = AutoencoderKL.from_pretrained(shipped, torch_dtype=getattr(torch, asked.dtype)).to(asked.device)
    dataset, found = birds(asked)
    start = Diffusion(asked.model, steps=asked.steps).start("image_to_image", STRENGTH)  # as many steps as the engine
    folder.mkdir(parents=True)

    @torch.no_grad()
    def make(number: int, sample: Sample, mask: np.ndarray, box: tuple[int, int, int, int]) -> None:
        rgba = Square.around(box, PADDING).cut(read_image(sample.path), mask, asked.size)
        pixels = torch.from_numpy(rgba).permute(2, 0, 1)[None].to(vae.device, vae.dtype) / 127.5 - 1
        latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
        prompt = f"a photo of a {dataset.classes[sample.label].lower()}"
        edited = pipe(
            prompt, latents, strength=start.argument, num_inference_steps=asked.steps,
            guidance_scale=asked.guidance, output_type="latent",
        ).images  # fmt: skip
        made = vae.decode(edited / vae.config.scaling_factor).sample[0].float().clamp(-1, 1) * 127.5 + 127.5
        Image.fromarray(made.permute(1, 2, 0).byte().cpu().numpy()).save(folder / f"{number}.png")

    return timed(make, found)


def loop_of_edits(asked: argparse.Namespace, folder: Path) -> dict[str, float]:
    from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInstructPix2PixPipeline
    from PIL import Image

    generator = diffusion(asked)
    renderer, jobs = edits(asked, generator)
    if asked.work == "styles":
        kind, more = StableDiffusionInstructPix2PixPipeline, {"image_guidance_scale": IMAGE_GUIDANCE}
    else:  # as many steps as the engine
        kind, more = (
            StableDiffusionImg2ImgPipeline,
            {"strength": generator.start("image_to_image", EDIT_STRENGTH).argument},
        )
    given = {"safety_checker": None, "requires_safety_checker": False, "dtype": getattr(torch, asked.dtype)}
    pipe = kind.from_pretrained(asked.model, **given).to(asked.device)
    pipe.set_progress_bar_config(disable=True)
    folder.mkdir(parents=True)

    def make(number: int, path: Path, prompt: str) -> None:
        source = Image.open(path).convert("RGB")
        shown = source.resize((asked.size, asked.size), Image.Resampling.BILINEAR)
        image = pipe(
            prompt, shown, num_inference_steps=asked.steps, guidance_scale=asked.guidance, **more
        ).images[0]  # fmt: skip
        image.resize(source.size, Image.Resampling.BILINEAR).save(folder / f"{number}.png")

    return timed(make, [(renderer.samples[job.sources[0]].path, job.prompt) for job in jobs])


def loop(asked: argparse.Namespace, folder: Path) -> dict[str, float]:
    from diffusers import AutoPipelineForText2Image

    given = {"safety_checker": None, "requires_safety_checker": False} if asked.network != "sdxl" else {}
    pipe = AutoPipelineForText2Image.from_pretrained(asked.model, dtype=getattr(torch, asked.dtype), **given)
    pipe.to(asked.device)
    pipe.set_progress_bar_config(disable=True)
    folder.mkdir(parents=True)

    def make(number: int, prompt: str) -> None:
        image = pipe(prompt, num_inference_steps=asked.steps, guidance_scale=asked.guidance).images[0]
        image.save(folder / f"{number}.png")

    return timed(make, [(prompt,) for prompt in prompts(asked.images)])


def diffusion(asked: argparse.Namespace) -> Diffusion:
    """What the engine generates with."""
    given = {
        "steps": asked.steps, "guidance": asked.guidance, "dtype": asked.dtype, "size": asked.size,
        "batch_size": asked.batch, "channels_last": True,
    }  # fmt: skip
    if asked.work == "styles":
        return InstructPix2Pix(asked.model, image_guidance=IMAGE_GUIDANCE, **given)
    transparency = FourChannelVAE("genaug:tiny_transparency") if asked.work == "objects" else None
    return Diffusion(asked.model, transparency=transparency, **given)


def engine(asked: argparse.Namespace, folder: Path) -> dict[str, float]:
    import pytorch_lightning as pl

    generator = diffusion(asked)
    renderer, jobs = {"objects": objects, "scenes": scenes}.get(asked.work, edits)(asked, generator)
    generator.load(asked.device)
    renderer.render(jobs[: asked.batch], list(range(asked.batch)))  # kernels are chosen at the first call
    busy = _time_models(generator, jobs[0].shape[0]) if asked.outside else None
    trainer = pl.Trainer(
        accelerator="cpu" if asked.device == "cpu" else "gpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    store = ImageStore(folder / "store", renderer.description)
    used = time.process_time()
    ledger = Runner(trainer, folder, retries=0).run(jobs, renderer, store, "images")
    measured = {
        "seconds": ledger.wall_seconds,
        "processor": time.process_time() - used,
        "images": ledger.images + ledger.failed,
    }
    if busy is not None:
        measured["outside"] = 1 - sum(busy) / ledger.wall_seconds
    return measured


def scenes(asked: argparse.Namespace, generator: Diffusion) -> tuple[Renderer, list[Job]]:
    renderer = TextImages(generator, generator.size_for(asked.size, asked.size))
    return renderer, [renderer.job(prompt, seed) for seed, prompt in enumerate(prompts(asked.images))]


def objects(asked: argparse.Namespace, generator: Diffusion) -> tuple[Renderer, list[Job]]:
    dataset, found = birds(asked)
    edits = ObjectEdits(generator, inversion=None, copies=1, strength=STRENGTH, padding=PADDING)
    subjects = [Subject(sample, sample.id, box, mask.shape) for sample, mask, box in found]
    masks = {sample.id: mask for sample, mask, _ in found}
    renderer = EditRenderer(edits, dataset, subjects, masks, side=asked.size)
    return renderer, [renderer.job_of(subject, 1) for subject in subjects]


def edits(asked: argparse.Namespace, generator: Diffusion) -> tuple[SourceImages, list[Job]]:
    dataset = ToyBirds(asked.cache, image_size=64)
    samples = dataset.splits()["train"][: asked.images // COPIES]
    if asked.work == "styles":
        method = StyledHalves(generator, scale=COPIES)
    else:
        method = ImageToImage(generator, scale=COPIES, strength=EDIT_STRENGTH)
    renderer = SourceImages(method, dataset, samples, asked.size)
    copies = range(1, COPIES + 1)
    return renderer, [renderer.job(one, copy, (), renderer.size(one)) for copy in copies for one in samples]


def _time_models(generator: Diffusion, call: Call) -> list[float]:
    """Seconds of every call of a network from now on."""
    pipe, seconds = generator.pipeline(call), []

    @contextlib.contextmanager
    def timed() -> Iterator[None]:
        started = time.monotonic()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - started)

    parts = [(getattr(pipe, name, None), "forward") for name in ("text_encoder", "text_encoder_2", "unet")]
    if generator.transparency is not None:
        parts += [(generator.transparency, "encode"), (generator.transparency, "decode")]
    if call == "image_to_image":
        parts += [(pipe.vae, "encode")]
    for module, name in [*parts, (pipe.vae, "decode")]:
        if module is not None:
            setattr(module, name, timed()(getattr(module, name)))
    return seconds


def measure(asked: argparse.Namespace, part: str, processes: int = 1, outside: bool = False) -> dict[str, float]:
    """Run a part in fresh processes; of several, the slowest one's time and the sum of processor times count."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--part", part, "--folder", f"{folder}/work"]
        for name in (
            "work",
            "cache",
            "network",
            "model",
            "device",
            "dtype",
            "steps",
            "guidance",
            "size",
            "batch",
            "images",
        ):
            command += [f"--{name}", str(getattr(asked, name))]
        command += ["--threads", str(max(1, asked.threads // processes)), *(["--outside"] if outside else [])]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
        answers = [json.loads(process.communicate()[0].splitlines()[-1]) for process in started]
    return {name: (sum if name == "processor" else max)(one[name] for one in answers) for name in answers[0]}


def compare(asked: argparse.Namespace) -> None:
    Path(asked.model).exists() or build(asked)
    rounds: dict[str, list[dict[str, float]]] = {"loop": [], "engine": []}
    for _ in range(asked.rounds):
        rounds["loop"].append(measure(asked, "loop"))
        rounds["engine"].append(measure(asked, "engine"))
    if asked.processes > 1:
        rounds[f"engine x {asked.processes}"] = [measure(asked, "engine", asked.processes) for _ in range(asked.rounds)]
    title = f"{asked.work}: {asked.network}, {asked.steps} steps, {asked.size} px, batch {asked.batch}, {asked.device}"
    table = Table(title=title + (f", {asked.threads} threads" if asked.device == "cpu" else ""))
    for column in ("", "images/s", "x loop", "images/s of processor time", "x loop"):
        table.add_column(column, justify="right")
    base = rounds["loop"]
    for name, all_measured in rounds.items():
        cells = []
        for clock in ("seconds", "processor"):
            speeds = [asked.images / one[clock] for one in all_measured]
            ratios = [first[clock] / one[clock] for first, one in zip(base, all_measured, strict=True)]
            cells += [f"{statistics.median(speeds):.2f}", f"{statistics.median(ratios):.2f}"]
        table.add_row(name, *cells)
    console = Console()
    console.print(table)
    outside = [measure(asked, "engine", outside=True)["outside"] for _ in range(asked.rounds)]
    console.print(f"outside the networks: {100 * statistics.median(outside):.1f} % of the engine's wall time")


def build(asked: argparse.Namespace) -> None:
    from networks import save_pix2pix, save_sd15, save_sdxl

    if asked.work == "styles":
        save_pix2pix(Path(asked.model), SHIPPED)
        return
    {"sd15": save_sd15, "sdxl": save_sdxl}[asked.network](Path(asked.model), getattr(torch, asked.dtype))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=("scenes", "objects", "edits", "styles"), default="scenes")
    parser.add_argument("--cache", type=Path, default=Path("cache/toybirds"), help="of drawn birds")
    parser.add_argument("--network", choices=("tiny", "sd15", "sdxl"), default="tiny")
    parser.add_argument("--model", help="folder of the network; built there with random weights if it is not there")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=cores(), help="of one process on a CPU")
    parser.add_argument("--part", choices=("loop", "engine"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--outside", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.size = asked.size or {"tiny": 64, "sd15": 512, "sdxl": 1024}[asked.network]
    here = SHIPPED if asked.network == "tiny" else Path("models") / f"random-{asked.network}"
    asked.model = asked.model or str(Path("models") / "tiny-by-instruction" if asked.work == "styles" else here)
    if asked.work in ("objects", "styles") and asked.network != "tiny":
        parser.error(f"--work {asked.work} has weights for --network tiny alone")
    torch.set_num_threads(asked.threads)
    if asked.part is None:
        compare(asked)
        return
    loops = {"scenes": loop, "objects": loop_of_objects, "edits": loop_of_edits, "styles": loop_of_edits}
    parts = {"loop": loops[asked.work], "engine": engine}
    answer: dict[str, Any] = parts[asked.part](asked, asked.folder)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
