"""The networks in a loop of Hugging Face's accelerate: accelerate launch examples/with_accelerate.py [PRECISION].

`prepare` wraps networks for mixed precision and for many processes. The gradient penalty differentiates the critic
inside the loss, which DistributedDataParallel does not support and Fabric refuses: take it of the critic itself, within
`autocast`. In one backward pass with the wrapped critic's loss its gradients are averaged over the processes too.
"""

import sys

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset

from deblurgan import Critic, Generator, losses

accelerator = Accelerator(mixed_precision=sys.argv[1] if len(sys.argv) > 1 else "bf16")
sharp = torch.rand(8, 3, 64, 64) * 2 - 1  # yours; networks and losses take pictures in [-1, 1]
pairs = DataLoader(TensorDataset(torch.nn.functional.avg_pool2d(sharp, 5, stride=1, padding=2), sharp), batch_size=2)

nets = Generator("tiny", width=4, blocks=1), Critic(width=8, layers=2)
adams = [torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.5, 0.999)) for net in nets]
generator, critic, of_generator, of_critic, pairs = accelerator.prepare(*nets, *adams, pairs)
plain_critic = accelerator.unwrap_model(critic)

for step, (blurred, sharp) in enumerate(pairs):
    restored = generator(blurred)
    real, fake = critic(torch.cat([sharp, restored.detach()])).chunk(2)
    with accelerator.autocast():
        penalty = losses.gradient_penalty(plain_critic, sharp, restored, weight=10.0)
    of_critic.zero_grad()
    accelerator.backward(losses.critic_loss(real, fake) + penalty)
    of_critic.step()

    plain_critic.requires_grad_(False)  # no gradients of its own to average in the generator's update
    adversarial = losses.generator_loss(plain_critic(restored))
    of_generator.zero_grad()
    accelerator.backward(adversarial + 100 * losses.pixel(restored, sharp))
    of_generator.step()
    plain_critic.requires_grad_(True)
    accelerator.print(f"step {step}: penalty {penalty.item():.4f}, adversarial {adversarial.item():.4f}")
