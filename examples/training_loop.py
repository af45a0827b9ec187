"""The whole recipe in plain torch: python examples/training_loop.py PHOTOS [--steps N].

Generator, critic, losses and blur are modules and functions like any others: take those that you need.
"""

import argparse
from pathlib import Path

import torch

from deblurgan import Critic, Generator, MotionBlur, PerceptualFeatures, images, losses

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("photos", type=Path)
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--crop", type=int, default=256)
options = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
photos = [images.read(path).in_8_bits().pixels for path in sorted(options.photos.iterdir())]  # [h, w, 3]
blur = MotionBlur().to(device)
generator, critic = Generator("tiny").to(device), Critic().to(device)
features = PerceptualFeatures("vgg16").to(device)
of_generator, of_critic = (torch.optim.Adam(net.parameters(), 1e-4, (0.5, 0.999)) for net in (generator, critic))

for step in range(options.steps):
    photo = torch.from_numpy(photos[step % len(photos)]).permute(2, 0, 1)
    top, left = (int(torch.randint(side - options.crop + 1, ())) for side in photo.shape[1:])
    crop = photo[None, :, top : top + options.crop, left : left + options.crop].to(device)
    sharp, blurred = (picture / 127.5 - 1 for picture in (crop, blur(crop)))  # networks take [-1, 1]

    restored = generator(blurred)
    for _ in range(5):
        of_critic.zero_grad()
        loss = losses.critic_loss(critic(sharp), critic(restored.detach()))
        (loss + losses.gradient_penalty(critic, sharp, restored, weight=10.0)).backward()
        of_critic.step()

    of_generator.zero_grad()
    content = losses.content(features(restored), features(sharp))
    (losses.generator_loss(critic(restored)) + 100 * content).backward()
    of_generator.step()
    if step % 50 == 0:
        print(f"step {step}: content {content.item():.4f}")
