"""How many pictures a network gets at once, where the caller does not say."""

import torch


def full_batch(device: torch.device) -> int:
    """64 pictures; on the CPU six.

    More than a few gain nothing there, and tensors above 32 MB lose: glibc gives their memory back and asks for it
    again each time. (The largest of EfficientNet-Lite0 have 4.8 MB a picture of 224 x 224.)
    """
    return 6 if device.type == "cpu" else 64
