"""A process that fills a store with noise: ``noise_worker.py STORE LOG FIRST LAST SECONDS``; a line a batch in LOG."""

from __future__ import annotations

import sys
from pathlib import Path

from genaug.synthesis.image_store import ImageStore

sys.path.insert(0, str(Path(__file__).parent))
from renderers import Noise, noise_jobs, runner_in  # noqa: E402


class Telling(Noise):
    def __init__(self, log: Path, slow: float) -> None:
        super().__init__(batch_size=4, slow=slow)
        self.log = log

    def render(self, jobs, seeds):
        images = super().render(jobs, seeds)
        with self.log.open("a") as file:
            file.write(" ".join(map(str, seeds)) + "\n")
        return images


if __name__ == "__main__":
    folder, log, first, last = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    store = ImageStore(folder, {"made_by": "noise"})
    runner_in(folder.parent).run(noise_jobs(last)[first:], Telling(log, float(sys.argv[5])), store, "noise")
