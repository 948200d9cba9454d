"""Two processes that each measure a part of the images, and give the numbers of one."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn

from genaug.classifier import Normalize
from genaug.data.base import Sample
from genaug.explaining.judge import Judge, Network, Share
from genaug.explaining.random import RandomMap
from genaug.metrics.information_curves import InformationCurves
from genaug.metrics.insertion_deletion import InsertionDeletion
from genaug.metrics.saliency_maps import MapEnergy

IMAGES = 7
SHARES = {"uneven": ([4, 0, 6, 1], [5, 2, 3]), "even": ([0, 1, 2], [3, 5, 4]), "one has none": (list(range(7)), [])}


def contrast(images: Tensor) -> Tensor:
    """Class 0 to the degree that neighbours differ, of ``(N, H, W, C)`` uint8."""
    change = (images[:, :, 1:] - images[:, :, :-1].float()).abs().mean(dim=(1, 2, 3)) / 85
    return torch.stack([change, 1 - change], dim=1)


def bright(images: Tensor) -> Tensor:
    return torch.stack([images.mean(dim=(1, 2, 3)), 1 - images.mean(dim=(1, 2, 3))], dim=1)


def data() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (IMAGES, 12, 12, 3), generator=generator, dtype=torch.uint8)
    images[2] //= 4  # too little contrast: skipped
    maps = torch.rand(IMAGES, 12, 12, generator=generator)
    maps[1], maps[3], maps[4, 0, 0], maps[5] = 0.0, 2.0, torch.nan, -maps[5]
    return {"images": images, "maps": maps, "masks": torch.rand(IMAGES, 12, 12, generator=generator) < 0.3}


def measured(index: list[int]) -> dict[str, Any]:
    """What the four metrics compute in a process that was given these images, one batch of two after the other."""
    given, found = data(), {}
    metrics = {
        "curves": InformationCurves(thresholds=(0.1, 0.3, 0.6)),
        "insertion": InsertionDeletion("insertion"),
        "deletion": InsertionDeletion("deletion", tolerance=0.01),
        "energy": MapEnergy(),
    }
    for start in range(0, len(index), 2):
        rows = index[start : start + 2]
        images, maps, classes = given["images"][rows], given["maps"][rows], [0] * len(rows)
        metrics["curves"].update(contrast, images, maps, classes, rows, rows)
        for mode in ("insertion", "deletion"):
            metrics[mode].update(bright, images.permute(0, 3, 1, 2) / 255, maps, classes, rows)
        metrics["energy"].update(maps, given["masks"][rows], rows)
    for name, metric in metrics.items():
        found[name] = metric.compute()
        assert jsonable(metric.compute()) == jsonable(found[name])  # and again
    return jsonable(found)


class Colours(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(8.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.weight * images.mean(dim=(2, 3))


def looked(folder: Path, count: int, share: Share) -> dict[str, Any]:
    """What a judge finds on so many pictures of a folder."""
    from test_judge import CROP, Pictures

    samples = [Sample(f"{i:02}", folder / f"{i:02}.png", i % 3, mask=folder / f"{i:02}_mask.png") for i in range(count)]
    judge = Judge(RandomMap(), thresholds=(0.1, 0.5))
    network = Network(Colours(), Normalize(3))
    look = judge.look(network, samples, Pictures(), CROP, share=share, pictures=count)
    pictures = [[one.tolist() for one in pair] for pair in look.pictures]
    return jsonable({"summary": look.summary, "curves": look.curves, "records": look.records, "pictures": pictures})


def jsonable(values: Any) -> Any:
    """Plain values, NaN as a word: what two processes can be compared by."""
    return json.loads(json.dumps(values, default=lambda one: one.tolist()).replace("NaN", '"NaN"'))


def work(rank: int, meeting: str, folder: str) -> None:
    """One of two processes: everything that is compared, written down."""
    timeout = timedelta(seconds=60)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=timeout)
    found: dict[str, Any] = {}
    for name, shares in SHARES.items():
        found[name] = measured(shares[rank])
    for count in (5, 11):  # groups of eight: the second process has none, and three
        found[f"look at {count}"] = looked(Path(folder), count, Share(rank, 2))
    (Path(folder) / f"rank_{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from test_judge import draw

    folder = tmp_path_factory.mktemp("shared_pictures")
    for i in range(11):
        draw(folder, f"{i:02}", i % 3, i % 3)
    return folder


@pytest.fixture(scope="module")
def both(pictures: Path) -> list[dict[str, Any]]:
    """What each of two processes found."""
    here = Path(__file__).parent
    paths = [str(here), str(here.parent)]
    script = (
        f"import sys; sys.path[:0] = {paths!r}\nfrom test_explain_metrics_ddp import work\n"
        f"work(int(sys.argv[1]), {str(pictures / 'meeting')!r}, {str(pictures)!r})"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", script, str(rank)], stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        errors = [worker.communicate(timeout=120)[1] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)[-4000:]
    return [json.loads((pictures / f"rank_{rank}.json").read_text()) for rank in range(2)]


pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["uneven", "one has none"])
def test_two_processes_give_the_numbers_of_one(both, name):
    alone = measured(list(range(IMAGES)))
    # The images are such that it matters: three maps say nothing, one image is skipped, order is not that of seeing.
    assert alone["deletion"]["index"] == alone["curves"]["index"] == [0, 2, 5, 6]
    assert alone["deletion"]["degenerate"] == {"not finite": 1, "all zero": 1, "constant": 1}
    assert alone["curves"]["sic"]["n"] == 3
    assert [one[name] for one in both] == [alone, alone]


def test_shares_of_one_size(both):
    alone = measured(list(range(6)))
    assert alone["energy"]["index"] == list(range(6))
    assert [one["even"] for one in both] == [alone, alone]


@pytest.mark.parametrize("count", [5, 11])
def test_two_processes_look_as_one(both, pictures, count):
    alone = looked(pictures, count, Share())
    assert alone["summary"]["images"] == len(alone["pictures"]) == count
    assert [one[f"look at {count}"] for one in both] == [alone, alone]
