"""Entry point: ``python run.py method=deda dataset=cub``. What is heavy is imported once the configuration is right."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from genaug.launch import application, one_job


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float | None:
    """Run one experiment; the score that a sweep may optimise is returned."""
    with one_job(cfg):
        from genaug.experiment import run

        return run(cfg)


if __name__ == "__main__":
    application(main)
