"""What is minimised: Flow-GRPO's clipped ratio, and DiffusionNFT's weighted flow matching.

All losses are (B,), one value for each row; the caller takes the mean.

Sources: Flow-GRPO, arXiv 2505.05470; DiffusionNFT, arXiv 2509.16117, and the code of its authors (NVlabs/DiffusionNFT)
for the adaptive weight and the scale of the loss.
"""

import torch

SMALLEST_STD = 1e-4  # below it rewards count as equal


def advantages(rewards: torch.Tensor, clip: float, std: torch.Tensor | None = None) -> torch.Tensor:
    """Rewards (P, G) of the G images of P prompts -> how much better than its group's mean each is, in deviations.

    `std`: the deviation of all rewards; None: each group's own. The result lies in [-clip, clip].
    """
    spread = rewards.std(1, correction=0, keepdim=True) if std is None else std
    return ((rewards - rewards.mean(1, keepdim=True)) / (spread + SMALLEST_STD)).clamp(-clip, clip)


def clipped_ratio_loss(
    log_prob: torch.Tensor, old_log_prob: torch.Tensor, advantage: torch.Tensor, clip: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) -> the loss, and where clipping stopped the gradient (bool).

    The ratio of the policy to the one that made the images counts up to 1 + clip for what was good, and down to
    1 - clip for what was bad.
    """
    ratio = (log_prob - old_log_prob).exp()
    plain, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, clipped), clipped > plain


def optimality(advantage: torch.Tensor, clip: float) -> torch.Tensor:
    """DiffusionNFT's r, from 0 for the worst image to 1 for the best; 0.5 for the mean of the group."""
    return (advantage / clip / 2 + 0.5).clamp(0, 1)


def nft_loss(
    v: torch.Tensor, v_old: torch.Tensor, noisy: tuple[torch.Tensor, torch.Tensor, float], r: torch.Tensor, beta: float
) -> torch.Tensor:
    """(B,) loss of the velocity `v` at a noisy image. `noisy`: the image x0, it with noise, and sigma.

    What is trained is `v`; two velocities that contain it are fitted to the image, the first as much as the image is
    good, the second as much as it is bad:

        v+ = (1 - beta) * v_old + beta * v,    v- = (1 + beta) * v_old - beta * v
    """
    x0, x, sigma = noisy
    v_old = v_old.detach()
    positive = _image_error(x - sigma * torch.lerp(v_old, v, beta), x0)
    negative = _image_error(x - sigma * torch.lerp(v_old, v, -beta), x0)
    return (r * positive + (1 - r) * negative) / beta


def _image_error(predicted: torch.Tensor, x0: torch.Tensor) -> torch.Tensor:
    """(B,) squared error over the size of the error: a weight that makes all sigmas count alike."""
    off = (predicted - x0).flatten(1)
    weight = off.detach().abs().mean(1).clamp(min=1e-5)
    return off.square().mean(1) / weight
