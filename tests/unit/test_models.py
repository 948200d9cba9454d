from __future__ import annotations

import logging
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from conftest import untrained_model
from hydra.utils import instantiate
from safetensors.torch import save_file
from torch import Tensor, nn

from genaug.models.timm_models import timm_model
from genaug.models.tiny import tiny
from genaug.models.torchvision_models import torchvision_model
from genaug.models.weights import adapt_input_channels, find_head

CONF = Path(__file__).parents[2] / "conf" / "model"

#: Parameters below a head for K classes, as (published total for 1,000 classes) - (head), plus the head for 7.
PARAMETERS = {
    "resnet18": 11_689_512 - 513 * 1000 + 513 * 7,
    "resnet34": 21_797_672 - 513 * 1000 + 513 * 7,
    "resnet50": 25_557_032 - 2049 * 1000 + 2049 * 7,
    "resnet101": 44_549_160 - 2049 * 1000 + 2049 * 7,
    "resnet152": 60_192_808 - 2049 * 1000 + 2049 * 7,
    "densenet121": 7_978_856 - 1025 * 1000 + 1025 * 7,
    # 64 pixels have 4 x 4 patches, 224 have 14 x 14; each has a position of 768 numbers.
    "vit_b_16": 86_567_656 - 769 * 1000 + 769 * 7 - (14 * 14 - 4 * 4) * 768,
    # Stem, five blocks, head, counted by hand for widths 24, 48, 96.
    "tiny": 696 + 10_464 + 32_544 + 41_664 + 129_600 + 166_272 + 679,
}


def images(size: int = 64, channels: int = 3, count: int = 2) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


def outputs(model: nn.Module, batch: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(batch)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> tuple[nn.Module, Path]:
    """A ResNet-18 for 10 classes, and the file of its weights."""
    model = torchvision_model("resnet18", num_classes=10)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(model.state_dict(), path)
    return model, path


@pytest.mark.parametrize("stem", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_yaml_builds_a_network_of_the_right_size(stem):
    model = instantiate(untrained_model(stem), num_classes=7, image_size=64, channels=3)
    assert outputs(model, images()).shape == (2, 7)
    if stem in PARAMETERS:
        assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[stem]


def test_the_timm_yaml_is_the_published_network():
    model = timm_model("convnext_atto", num_classes=1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(3.70e6, rel=2e-3)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1_1", "googlenet"])
def test_grey_images(name):
    model = torchvision_model(name, num_classes=7, image_size=64, channels=1)
    assert outputs(model, images(channels=1)).shape == (2, 7)
    with pytest.raises(RuntimeError, match="channels"):
        model(images(channels=3))


def test_tiny_learns_two_colours():
    torch.manual_seed(0)
    model = tiny(num_classes=2, image_size=16, width=8)
    batch, labels = torch.zeros(8, 3, 16, 16), torch.arange(8) % 2
    batch[labels == 0, 0], batch[labels == 1, 2] = 1, 1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(batch), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_tiny_takes_any_size_and_refuses_none_too_small():
    assert outputs(tiny(num_classes=3, image_size=50, channels=1), images(50, channels=1)).shape == (2, 3)
    with pytest.raises(ValueError, match="16 pixels or more, came 8"):
        tiny(num_classes=3, image_size=8)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_saved_weights_give_the_same_outputs(resnet, tmp_path, suffix):
    model, path = resnet
    if suffix == ".safetensors":
        path = tmp_path / "resnet18.safetensors"
        save_file(model.state_dict(), path)
    loaded = torchvision_model("resnet18", num_classes=10, weights=path)
    assert torch.equal(outputs(loaded, images()), outputs(model, images()))


def test_a_head_of_another_size_is_new_and_all_else_is_loaded(resnet, caplog):
    model, path = resnet
    with caplog.at_level(logging.INFO):
        loaded = torchvision_model("resnet18", num_classes=7, weights=path)
    assert "head fc is new: the weights have 10 classes, the network 7" in caplog.text
    assert loaded.fc.weight.shape == (7, 512)
    rest = {name: value for name, value in model.state_dict().items() if not name.startswith("fc.")}
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in rest.items())


def test_weights_for_colour_see_grey_images_as_repeated_grey(resnet):
    model, path = resnet
    grey = images(channels=1)
    loaded = torchvision_model("resnet18", num_classes=10, channels=1, weights=path)
    torch.testing.assert_close(outputs(loaded, grey), outputs(model, grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_channels_by_hand():
    weight = torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1, 1)
    assert adapt_input_channels(weight, 1).flatten().tolist() == [9.0]
    assert adapt_input_channels(weight, 4).flatten().tolist() == [2.25] * 4


def test_heads_of_networks_of_all_kinds():
    heads = {"vgg11_bn": "classifier.6", "squeezenet1_0": "classifier.1", "mobilenet_v3_small": "classifier.3"}
    for name, head in heads.items():
        with torch.device("meta"):
            assert find_head(torchvision_model(name, num_classes=3)) == head


def test_densenet_files_of_torchvision_have_older_names(tmp_path):
    model = torchvision_model("densenet121", num_classes=4)
    older = {
        name.replace(".norm1.", ".norm.1.").replace(".norm2.", ".norm.2.").replace(".conv1.", ".conv.1."): value
        for name, value in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert not older.keys() <= model.state_dict().keys()
    torch.save(older, tmp_path / "densenet.pth")
    loaded = torchvision_model("densenet121", num_classes=4, weights=tmp_path / "densenet.pth")
    assert torch.equal(outputs(loaded, images()), outputs(model, images()))


def test_timm_position_embeddings_of_another_size(tmp_path):
    small = timm_model("vit_tiny_patch16_224", num_classes=10, image_size=32)
    small.pos_embed.data[:, 0], small.pos_embed.data[:, 1:] = 5.0, 3.0
    torch.save(small.state_dict(), tmp_path / "vit.pth")
    large = timm_model("vit_tiny_patch16_224", num_classes=7, image_size=64, weights=tmp_path / "vit.pth")
    assert large.pos_embed.shape == (1, 1 + 16, 192)
    assert (large.pos_embed[:, 0] == 5).all()  # the class token's is not interpolated
    torch.testing.assert_close(large.pos_embed[:, 1:], torch.full((1, 16, 192), 3.0))
    assert torch.equal(large.blocks[3].mlp.fc1.weight, small.blocks[3].mlp.fc1.weight)


@pytest.mark.slow
def test_torchvision_position_embeddings_of_another_size(tmp_path):
    small = torchvision_model("vit_b_32", num_classes=10, image_size=64)
    positions = small.encoder.pos_embedding.data
    positions[:, 0], positions[:, 1:] = 5.0, 3.0
    torch.save(small.state_dict(), tmp_path / "vit.pth")
    large = torchvision_model("vit_b_32", num_classes=7, image_size=96, weights=tmp_path / "vit.pth")
    assert large.encoder.pos_embedding.shape == (1, 1 + 9, 768)
    assert (large.encoder.pos_embedding[:, 0] == 5).all()
    torch.testing.assert_close(large.encoder.pos_embedding[:, 1:], torch.full((1, 9, 768), 3.0))
    assert torch.equal(large.conv_proj.weight, small.conv_proj.weight)


def test_a_file_for_another_network_is_refused(resnet):
    with pytest.raises(ValueError, match=r"the file differs: missing: layer1\.2\.conv1\.weight.* and \d+ more"):
        torchvision_model("resnet34", num_classes=10, weights=resnet[1])
    with pytest.raises(ValueError, match=r"not in the network: .*of another shape|not in the network"):
        timm_model("convnext_atto", num_classes=10, weights=resnet[1])


def test_a_whole_checkpoint_is_refused(resnet, tmp_path):
    torch.save({"model": resnet[0].state_dict(), "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(ValueError, match="state dict .* came a dict with keys model, epoch; save the network alone"):
        torchvision_model("resnet18", num_classes=10, weights=tmp_path / "checkpoint.pth")


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"weight": logging.getLogger}, tmp_path / "evil.pth")
    with pytest.raises(pickle.UnpicklingError):
        torchvision_model("resnet18", num_classes=10, weights=tmp_path / "evil.pth")


@pytest.mark.parametrize("build", [torchvision_model, timm_model])
def test_wrong_arguments_are_refused(build, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing\.pth"):
        build("resnet18", num_classes=7, weights=tmp_path / "nothing.pth")
    with pytest.raises(ValueError, match="came 'resnet19'; did you mean .*resnet18"):
        build("resnet19", num_classes=7)
    with pytest.raises(ValueError, match="expected pretrained or weights, came both"):
        build("resnet18", num_classes=7, pretrained=True, weights="x.pth")


def test_sizes_and_weight_sets_that_torchvision_does_not_have():
    with pytest.raises(ValueError, match="vit_b_16 expects a multiple of 16, came 100; resize to 96 or 112"):
        torchvision_model("vit_b_16", num_classes=7, image_size=100)
    with pytest.raises(ValueError, match="IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT, came 'IMAGENET21K'"):
        torchvision_model("resnet50", num_classes=7, pretrained="IMAGENET21K")


def test_without_a_network_the_error_says_how_to_go_on(monkeypatch, tmp_path):
    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", no_network)
    with pytest.raises(ConnectionError, match=r"https://.*resnet18.*\.pth .*no network.*weights="):
        torchvision_model("resnet18", num_classes=7, pretrained=True)
    with pytest.raises(ConnectionError, match=r"convnext_atto.*no network.*weights="):
        timm_model("convnext_atto", num_classes=7, pretrained=True)
