"""What the tiny CLIP can do, in numbers: ``python experiments/tiny_clip/evaluate.py``.

Pictures of ``toybirds`` and edits of them by the tiny generator are named by their nearest prompt, and judged by the
filters as made images are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from PIL import Image

from genaug.clip.model import Clip
from genaug.clip.training_data import draw_abstract
from genaug.data.base import Dataset, Sample
from genaug.data.reading import read_image
from genaug.data.toybirds import ToyBirds
from genaug.data.toyscenes import ToyScenes
from genaug.filtering.base import Candidate, Circumstances, Filter
from genaug.filtering.clip_class import ClipClass
from genaug.filtering.clip_negatives import ClipNegatives
from genaug.filtering.clip_pair import ClipPair
from genaug.generation.diffusion import Diffusion
from genaug.seeding import derive

HERE = Path(__file__).parent
STRENGTHS, EDITED, SEED = (0.2, 0.4, 0.6, 0.8), 160, 1
GENERATOR = HERE.parents[1] / "conf" / "generator" / "tiny.yaml"


def percent(right: Sequence[bool]) -> float:
    """Share of what is true, in per cent."""
    return round(100 * float(np.mean(right)), 1)


class Examination:
    """Pictures with labels, named and filtered.

    Args:
        clip: What is examined.
        dataset: The species.
        folder: For files and scores.
    """

    def __init__(self, clip: Clip, dataset: Dataset, folder: Path) -> None:
        self.clip, self.dataset, self.folder = clip, dataset, folder
        self.texts = clip.texts([f"a photo of a {name.lower()}" for name in dataset.classes])

    def named(self, pictures: Sequence[np.ndarray]) -> list[int]:
        """The species whose prompt is nearest."""
        return (self.clip.images(pictures) @ self.texts.T).argmax(dim=1).tolist()

    def kept(self, one: Filter, pictures: Sequence[np.ndarray], labels: Sequence[int]) -> tuple[float, float]:
        """Per cent that a filter keeps, and its mean score."""
        made = []
        for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
            path = self.folder / f"{number}.png"
            Image.fromarray(picture).save(path)
            made.append(Candidate(f"{number:05d}", path, int(label)))
        said = one.judge(made, Circumstances([], self.dataset, self.folder / "stores"))
        return percent([judged.keep for judged in said]), round(float(np.mean([j.score for j in said])), 3)

    def row(self, pictures: Sequence[np.ndarray], labels: Sequence[int]) -> dict[str, float]:
        """Everything of pictures that show birds, or are said to."""
        by_class, by_negatives = ClipClass(self.clip), ClipNegatives(self.clip)
        others = [(label + 1 + 4 * (number % 4)) % 20 for number, label in enumerate(labels)]
        return {
            "images": len(pictures),
            "species": percent(np.array(self.named(pictures)) == np.array(labels)),
            "clip_class": self.kept(by_class, pictures, labels)[0],
            "clip_class, wrong label": self.kept(by_class, pictures, others)[0],
            "clip_pair, mean score": self.kept(ClipPair(self.clip), pictures, labels)[1],
            "clip_negatives": self.kept(by_negatives, pictures, labels)[0],
        }


def read(samples: Sequence[Sample]) -> list[np.ndarray]:
    """All pictures."""
    return [read_image(sample.path) for sample in samples]


def edits(samples: Sequence[Sample], dataset: Dataset, strength: float) -> list[np.ndarray]:
    """Each picture edited by the tiny generator with the prompt of its species."""
    given = OmegaConf.to_container(OmegaConf.load(GENERATOR))
    names = [name for name in given if name not in ("_target_", "defaults", "transparency")]
    generator = Diffusion(**{name: given[name] for name in names})
    generator.load("cpu")
    prompts = [f"a photo of a {dataset.classes[sample.label].lower()}" for sample in samples]
    pictures, size = read(samples), generator.batch_size
    made: list[np.ndarray] = []
    for start in range(0, len(samples), size):
        part = slice(start, start + size)
        seeds = [derive(SEED, sample.id) for sample in samples[part]]
        made += generator.image_to_image(pictures[part], prompts[part], seeds, strength)
    return made


def most_confused(named: Sequence[int], labels: Sequence[int], classes: Sequence[str]) -> list[str]:
    """The commonest mistakes."""
    wrong = Counter((label, found) for label, found in zip(labels, named, strict=True) if label != found)
    return [f"{classes[label]} as {classes[found]}: {count}" for (label, found), count in wrong.most_common(5)]


def main() -> None:
    """Print the numbers, and keep them beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clip", default="genaug:tiny_weights")
    parser.add_argument("--cache", type=Path, default=Path("cache"))
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    clip, birds = Clip(asked.clip), ToyBirds(asked.cache / "toybirds")
    splits, rows = birds.splits(), {}
    with tempfile.TemporaryDirectory() as folder:
        exam = Examination(clip, birds, Path(folder))
        for split in ("test", "ood_habitat", "ood_sketch"):
            labels = [sample.label for sample in splits[split]]
            rows[split] = exam.row(read(splits[split]), labels)
        chosen = splits["test"][:: len(splits["test"]) // EDITED][:EDITED]
        for strength in STRENGTHS:
            rows[f"edited, strength {strength}"] = exam.row(
                edits(chosen, birds, strength), [sample.label for sample in chosen]
            )
        scenes = ToyScenes(asked.cache / "toyscenes").splits()["test"]
        empty = [sample for sample in scenes if sample.label == 20]
        rows["scenery"] = exam.row(read(empty), [number % 20 for number in range(len(empty))])
        abstract = [*draw_abstract(200, 64, ["x"], seed=99).pictures.permute(0, 2, 3, 1).numpy()]
        rows["shapes and noise"] = exam.row(abstract, [number % 20 for number in range(len(abstract))])
        test = read(splits["test"])
        began = time.perf_counter()
        named = exam.named(test)
        speed = round(len(test) / (time.perf_counter() - began))
    found = {
        "rows": rows,
        "most confused": most_confused(named, [sample.label for sample in splits["test"]], birds.classes),
        "images per second, one core": speed,
    }
    asked.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
