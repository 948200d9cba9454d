"""The dataset that a configuration names."""

from __future__ import annotations

from hydra.utils import instantiate
from omegaconf import DictConfig

from genaug.data.base import Dataset


def build_dataset(cfg: DictConfig) -> Dataset:
    """The dataset of ``cfg.dataset``, with the splits that ``cfg.ood`` makes out of it, where there is such a node."""
    dataset = instantiate(cfg.dataset)
    return dataset if cfg.get("ood") is None else instantiate(cfg.ood, dataset=dataset)
