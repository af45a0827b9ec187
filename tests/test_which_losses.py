"""Which losses go together: each combination trains, and what would train nothing is refused."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch

from deblurgan import Critic, Generator, PerceptualFeatures
from deblurgan.config import train_config
from deblurgan.training import MEASURES, Networks, Step

GANS = ("wgan-gp", "lsgan", "lsgan-l1", "vanilla", "none")
COMBINATIONS = [
    choice for choice in product(GANS, ("vgg16", "none"), ("l1", "l2", "none")) if choice != ("none", "none", "none")
]


@pytest.fixture(scope="module")
def features() -> PerceptualFeatures:
    return PerceptualFeatures()


@pytest.mark.parametrize("gan, content, pixel", COMBINATIONS)
def test_each_combination_trains(gan: str, content: str, pixel: str, features: PerceptualFeatures) -> None:
    """Each loss that is asked for is there, and no other; it reaches the generator, and the critic learns."""
    options: dict[str, Any] = {"gan": gan, "content": content, "pixel": pixel}
    options |= {"critic_steps": 1} if gan != "none" else {}
    config = train_config("unused", crop=16, precision="fp32", **options)
    torch.manual_seed(0)
    generator = Generator(width=2, blocks=1, dropout=0.0).train()
    critic = None if gan == "none" else Critic(width=2, layers=2)
    networks = Networks(generator, critic, None, None if content == "none" else features)
    step = Step(config, networks)
    before = {name: value.clone() for name, value in step.state_dict().items()}
    blurred, sharp = torch.randint(256, (2, 1, 3, 16, 16), dtype=torch.uint8)
    values = dict(zip(MEASURES, step(blurred, sharp, number=0, rate=1e-3).tolist(), strict=True))
    wanted = {"critic": gan != "none", "penalty": gan == "wgan-gp", "adversarial": gan != "none", "tv": False}
    wanted |= {"content": content != "none", "pixel": pixel != "none"}
    wanted |= {"critic_grad": gan != "none", "generator_grad": True}
    assert {name: value != 0 for name, value in values.items()} == wanted
    after = step.state_dict()
    for network in ("generator", *(("critic",) if critic else ())):
        weights = [name for name in before if name.startswith(f"{network}.") and name.endswith(".weight")]
        assert weights and all(not torch.equal(after[name], before[name]) for name in weights)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"gan": "none", "content": "none"}, "gan, content and pixel are all 'none' or of weight 0"),
        ({"gan": "none", "content_weight": 0.0}, "gan, content and pixel are all 'none' or of weight 0"),
        ({"preset": "tiny", "pixel_weight": 0.0}, "nothing would be trained"),
        ({"preset": "tiny", "pixel": "none", "tv_weight": 1.0}, "nothing would be trained"),
        ({"gan": "none", "gp_weight": 5.0}, "gp_weight goes with gan wgan-gp, got gan none"),
        ({"gan": "lsgan", "gp_weight": 5.0}, "gp_weight goes with gan wgan-gp, got gan lsgan"),
        (
            {"content": "none", "content_weight": 50.0},
            "content_weight goes with content vgg16 or vgg19, got content none",
        ),
    ],
)
def test_losses_that_would_do_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_config("x", **options)


def test_a_loss_of_weight_0_may_stand_beside_another() -> None:
    assert train_config("x", content_weight=0.0).gan == "wgan-gp"
