"""The critic's gradient penalty in a training loop of one's own: python examples/penalty_in_your_loop.py.

For an unchanged deblurgan.Critic the penalty comes with its gradients, without double backward. Any other critic may be
given too; autograd then differentiates twice.
"""

import torch

from deblurgan import Critic, Generator, losses

torch.manual_seed(0)
generator = Generator("tiny", width=4, blocks=1)
critic = Critic(width=8, layers=2)
of_critic = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.5, 0.999))
of_generator = torch.optim.Adam(generator.parameters(), lr=1e-4, betas=(0.5, 0.999))

for step in range(2):
    sharp = torch.rand(1, 3, 64, 64) * 2 - 1  # yours; networks and losses take pictures in [-1, 1]
    blurred = torch.nn.functional.avg_pool2d(sharp, 5, stride=1, padding=2)

    restored = generator(blurred)
    for _ in range(5):
        loss = losses.critic_loss(critic(sharp), critic(restored.detach()))
        penalty = losses.gradient_penalty(critic, sharp, restored, weight=10.0)
        of_critic.zero_grad()
        (loss + penalty).backward()
        of_critic.step()

    adversarial = losses.generator_loss(critic(restored))
    of_generator.zero_grad()
    (adversarial + 100 * losses.pixel(restored, sharp, kind="l1")).backward()
    of_generator.step()
    print(f"step {step}: critic {loss.item():.4f}, penalty {penalty.item():.4f}, generator {adversarial.item():.4f}")
