from __future__ import annotations

import pytest
import torch

from genaug.functional.blocks import mix_blocks, pool_blocks


def test_pooling_of_oblong_maps():
    maps = torch.rand(3, 6, 12, generator=torch.Generator().manual_seed(0))
    pooled = pool_blocks(maps, 3)
    assert pooled.shape == (3, 3, 3)
    torch.testing.assert_close(pooled[1, 2, 0], maps[1, 4:, :4].mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_same_as_one_block_at_a_time(dtype, layout):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 12, 8, generator=generator).to(dtype).to(memory_format=layout)
    first, second = (torch.randint(5 * 16, (7, 4, 4), generator=generator) for _ in range(2))
    share = torch.randint(5, (7, 4, 4), generator=generator) / 4
    mixed = mix_blocks(images, first, second, share)
    assert mixed.dtype == dtype
    blocks = images.float().unflatten(2, (4, 3)).unflatten(4, (4, 2)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    for i, row, column in torch.cartesian_prod(torch.arange(7), torch.arange(4), torch.arange(4)).tolist():
        weight = share[i, row, column]
        expected = weight * blocks[first[i, row, column]] + (1 - weight) * blocks[second[i, row, column]]
        got = mixed[i, :, 3 * row : 3 * row + 3, 2 * column : 2 * column + 2].float()
        exact = weight in (0, 1)
        torch.testing.assert_close(got, expected, atol=0 if exact else 0.005, rtol=0)


def test_images_are_not_touched():
    images = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    kept = images.clone()
    names = torch.arange(8).view(2, 2, 2)
    assert torch.equal(mix_blocks(images, names, names.flip(0), torch.full((2, 2, 2), 0.5))[0], images.mean(dim=0))
    assert torch.equal(mix_blocks(images, names, names, torch.full((2, 2, 2), 0.5)), images)
    assert torch.equal(images, kept)
