"""The example of unet.py on a UNet2DModel of diffusers, attention included: `pip install diffusers`."""

from __future__ import annotations

from diffusers import UNet2DModel
from torch import Tensor, nn
from unet import main


class Diffusers(nn.Module):
    """In: noisy pictures, times in 0 … 1, labels; out: v."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=16,
            norm_num_groups=8,
            num_class_embeds=10,
        )

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return self.unet(x, 1000 * time, class_labels=label).sample


if __name__ == "__main__":
    main(Diffusers)
