"""The memory layout that programs are compiled for."""

import torch

from gtn_lightning.inner_loop.compiler.layout import channels_last


def test_images_of_one_channel_and_of_several_have_one_layout() -> None:
    for channels in (1, 3):
        images = torch.randn(2, channels, 4, 5)
        for given in (images, images.contiguous(memory_format=torch.channels_last), images.flip(3).flip(3)):
            laid = channels_last({"images": given})["images"]
            assert torch.equal(laid, images)
            assert laid.stride() == (20 * channels, 1, 5 * channels, channels)
