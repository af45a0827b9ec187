"""The networks in a LightningModule: python examples/with_lightning.py [PRECISION].

Lightning wraps the whole module, so `self.critic` stays a plain critic, and its penalty is the fused one, in mixed
precision too. Two optimisers need manual optimisation.
"""

import sys

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from deblurgan import Critic, Generator, losses


class DeblurGan(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = Generator("tiny", width=4, blocks=1), Critic(width=8, layers=2)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(net.parameters(), 1e-4, (0.5, 0.999)) for net in (self.generator, self.critic)]

    def training_step(self, batch: list[Tensor], index: int) -> None:
        (blurred, sharp), (of_generator, of_critic) = batch, self.optimizers()
        restored = self.generator(blurred)
        loss = losses.critic_loss(self.critic(sharp), self.critic(restored.detach()))
        penalty = losses.gradient_penalty(self.critic, sharp, restored, weight=10.0)
        of_critic.zero_grad()
        self.manual_backward(loss + penalty)
        of_critic.step()
        of_generator.zero_grad()
        self.manual_backward(losses.generator_loss(self.critic(restored)) + 100 * losses.pixel(restored, sharp))
        of_generator.step()
        print(f"step {index}: critic {loss.item():.4f}, penalty {penalty.item():.4f}")


sharp = torch.rand(4, 3, 64, 64) * 2 - 1  # yours; networks and losses take pictures in [-1, 1]
pairs = DataLoader(TensorDataset(torch.nn.functional.avg_pool2d(sharp, 5, stride=1, padding=2), sharp), batch_size=2)
trainer = lightning.Trainer(
    precision=sys.argv[1] if len(sys.argv) > 1 else "bf16-mixed", max_epochs=1, logger=False, enable_checkpointing=False
)
trainer.fit(DeblurGan(), pairs)
