"""The networks against transcriptions of the released code and the article, their counts, and their dropout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from conftest import KERNEL_DEVICE, KERNEL_DTYPES, NET_TOLERANCE, assert_matches, relative_error
from deblurgan import losses
from deblurgan.device import pick_device
from deblurgan.nn import Critic, Generator, PerceptualFeatures, trained_parameters
from transcriptions import article_generator, released_critic, released_generator


def copy_in_order(source: nn.Module, target: nn.Module) -> None:
    """Both hold the same convolutions in the same order under other names."""
    for a, b in zip(source.parameters(), target.parameters(), strict=True):
        b.data.copy_(a.data)


def picture(n: int = 1, h: int = 40, w: int = 32, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.rand(n, 3, h, w, dtype=torch.float64) * 2 - 1).to(dtype)


@pytest.mark.parametrize(("preset", "count"), [("paper", 11_378_179), ("article", 6_064_579), ("tiny", 1_107_459)])
def test_generator_parameter_counts(preset: str, count: int) -> None:
    assert sum(p.numel() for p in Generator(preset).parameters()) == count


def test_other_published_parameter_counts() -> None:
    assert sum(p.numel() for p in Generator("paper", blocks=6).parameters()) == 7_837_699
    assert sum(p.numel() for p in Generator("paper", convs=1, dropout=0.0).parameters()) == 6_067_459
    assert sum(p.numel() for p in Critic().parameters()) == 2_764_737


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_paper_is_the_released_generator(dtype: torch.dtype) -> None:
    theirs = released_generator(width=16, blocks=3, dropout=True).double().eval()
    ours = Generator("paper", width=16, blocks=3).eval()
    copy_in_order(theirs, ours)
    x = picture(2, dtype=dtype)
    assert_matches(ours.to(dtype)(x), theirs(x.double()), table=NET_TOLERANCE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_article_is_the_article_s_generator(dtype: torch.dtype) -> None:
    theirs = article_generator(width=16, blocks=3).double()
    ours = Generator("article", width=16, blocks=3)
    copy_in_order(theirs, ours)
    x = picture(2, dtype=dtype)
    assert_matches(ours.to(dtype)(x), theirs(x.double()), table=NET_TOLERANCE)


@pytest.mark.parametrize("padding", [1, 2])
def test_critic_is_the_released_critic(padding: int) -> None:
    theirs, ours = released_critic(width=8, padding=padding).double(), Critic(width=8, padding=padding).double()
    copy_in_order(theirs, ours)
    x = picture(2, 64, 48)
    assert_matches(ours(x), theirs(x), table=NET_TOLERANCE)


@pytest.fixture
def critic_in_kernels(kernels: None) -> Critic:
    """In fp64, which is the reference's; in other types our kernels run, here in Triton's interpreter."""
    torch.manual_seed(0)
    critic = Critic(width=4).double().to(KERNEL_DEVICE)
    for conv in critic.convs:
        conv.weight.data.mul_(4)
    return critic


def scores_and_gradients(critic: Critic, x: Tensor) -> list[Tensor]:
    """Scores, and gradients of a loss by the picture and by all that is trained."""
    x = x.clone().requires_grad_()
    scores = critic(x).float() if x.dtype == torch.float32 else critic(x)
    return [scores, *torch.autograd.grad(scores.square().mean(), [x, *trained_parameters(critic)])]


@pytest.mark.parametrize("dtype", KERNEL_DTYPES, ids=str)
def test_critic_in_kernels_is_the_critic(critic_in_kernels: Critic, dtype: torch.dtype) -> None:
    x = picture(2, 35, 42).to(KERNEL_DEVICE)
    wanted = scores_and_gradients(critic_in_kernels, x)
    critic = critic_in_kernels.float()
    seen: list[Tensor] = []
    critic.convs[2].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    with torch.autocast(KERNEL_DEVICE.type, dtype, enabled=dtype != torch.float32):
        got = scores_and_gradients(critic, x.float())
    assert seen[0].dtype == dtype and seen[0].is_contiguous(memory_format=torch.channels_last)
    assert seen[0].grad_fn is not None and "norm_act" in seen[0].grad_fn.name()
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        error = relative_error(a, b)
        assert error <= 2 * NET_TOLERANCE[dtype], f"{i} of {len(wanted)}: relative error {error:.3g}"


@pytest.mark.parametrize("norm", ["sample", "pixel"])
def test_critic_in_kernels_can_be_differentiated_twice(critic_in_kernels: Critic, norm: losses.Norm) -> None:
    def penalty(critic: Critic, x: Tensor) -> list[Tensor]:
        value = losses.gradient_penalty(critic, x, x, alpha=x.new_ones(1), norm=norm, form="double")
        return [value, *torch.autograd.grad(value, [conv.weight for conv in critic.convs])]

    x = picture(1, 33, 32).to(KERNEL_DEVICE)
    wanted = penalty(critic_in_kernels, x)
    for a, b in zip(penalty(critic_in_kernels.float(), x.float()), wanted, strict=True):
        assert_matches(a, b, table=NET_TOLERANCE)


def test_critic_scores_have_the_published_sizes() -> None:
    with torch.no_grad():
        assert Critic(width=4, padding=2)(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 35, 35)
        assert Critic(width=4, padding=1)(torch.zeros(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_critic_widens_up_to_eight_times() -> None:
    shapes = [tuple(conv.weight.shape[:2]) for conv in Critic(width=2, layers=5).convs]
    assert shapes == [(2, 3), (4, 2), (8, 4), (16, 8), (16, 16), (16, 16), (1, 16)]


@pytest.mark.parametrize("size", [(8, 8), (8, 12), (16, 8), (20, 44)], ids=str)
def test_output_keeps_size_and_range(small_generator: Generator, size: tuple[int, int]) -> None:
    y = small_generator(torch.rand(2, 3, *size) * 2 - 1)
    assert y.shape == (2, 3, *size)
    assert y.abs().max() <= 1


def test_batch_is_its_pictures_one_by_one(small_generator: Generator) -> None:
    x = picture(3, 16, 16)
    net = small_generator.double()
    assert_matches(net(x), torch.cat([net(part[None]) for part in x]), table=NET_TOLERANCE)


def test_black_picture_leaves_clean() -> None:
    """A flat picture normalises to exact zeros, so only the last bias is left of the network."""
    net = Generator("tiny", width=4, blocks=2)
    y = net(torch.full((1, 3, 32, 32), -1.0))
    wanted = (-1 + torch.tanh(net.head.bias)).clamp(-1, 1).view(1, 3, 1, 1).expand_as(y)
    assert torch.equal(y, wanted)


def test_dropout_is_training_s_or_the_seed_s() -> None:
    net = Generator("paper", width=4, blocks=2)
    x = picture(1, 16, 16, torch.float32)
    net.eval()
    plain = net(x)
    assert torch.equal(plain, net(x))
    assert torch.equal(net(x, seed=1), net(x, seed=1))
    assert not torch.equal(net(x, seed=1), net(x, seed=2))
    assert not torch.equal(net(x, seed=1), plain)
    net.train()
    assert not torch.equal(net(x), net(x))
    assert torch.equal(net(x, seed=1), net.eval()(x, seed=1))
    assert torch.equal(net(x, seed=1), net(x, counter=torch.tensor([1, 0])))
    both, second = torch.cat([x, x]), net(x, counter=torch.tensor([1, 1]))
    assert not torch.equal(net(x, seed=1), second)
    assert torch.allclose(net(both, seed=1), torch.cat([net(x, seed=1), second]), atol=1e-6)
    with pytest.raises(ValueError, match="give one of the two"):
        net(x, seed=1, counter=torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"counter must be int64 \[2\]"):
        net(x, counter=torch.tensor([1.0, 0.0]))
    assert Generator("article").spec.dropout == Generator("tiny").spec.dropout == 0
    assert Generator("paper").spec.dropout == 0.5


@torch.no_grad()
def test_dropout_keeps_the_mean() -> None:
    net = Generator("paper", width=16, blocks=1, dropout=0.5)
    seen: list[Tensor] = []
    net.blocks[0].conv2.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = picture(4, 128, 128, torch.float32)
    net.eval()(x)
    net(x, seed=0)
    plain, dropped = (part.detach() for part in seen)
    assert abs(float(dropped.mean() / plain.mean()) - 1) < 0.02
    assert abs(float((dropped == 0).double().mean()) - float((plain == 0).double().mean() / 2 + 0.5)) < 0.02


def test_device_is_picked_by_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, wanted in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert pick_device("auto").type == wanted
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        pick_device("cuda:1")


def test_dead_biases_have_no_effect_and_are_not_trained() -> None:
    for net in (Generator("tiny", width=4, blocks=1).double(), Critic(width=4).double()):
        x = picture(1, 32, 32)
        before = net(x)
        dead = net.dead_biases()
        assert dead
        for name, parameter in net.named_parameters():
            if name in dead:
                parameter.data.normal_()
        assert_matches(net(x), before, table=NET_TOLERANCE)
        trained = {id(p) for p in trained_parameters(net)}
        assert trained == {id(p) for name, p in net.named_parameters() if name not in dead}


def test_weights_start_as_released() -> None:
    torch.manual_seed(0)
    net = Generator("paper", blocks=1)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert abs(float(module.weight.detach().std()) - 0.02) < 0.002
            assert module.bias is not None and not module.bias.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Generator("huge"), "preset must be one of paper, article, tiny, got 'huge'"),
        (lambda: Generator(width=0), "width must be >= 1"),
        (lambda: Generator(convs=3), "convs must be 1 or 2, got 3"),
        (lambda: Generator(border="wrap"), "border must be 'reflect' or 'zero', got 'wrap'"),  # type: ignore[arg-type]
        (lambda: Generator(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: Critic(padding=3), "padding 1 or 2"),
        (lambda: Generator("tiny")(torch.rand(1, 3, 10, 16)), "multiples of 4 and at least 8, got \\(10, 16\\)"),
        (lambda: Generator("tiny")(torch.rand(1, 3, 4, 4)), "multiples of 4 and at least 8"),
        (lambda: Generator("tiny")(torch.rand(2, 17)), r"picture must be \[n, 3, h, w\], got \(2, 17\)"),
        (lambda: Generator("tiny")(torch.rand(1, 1, 8, 8)), r"picture must be \[n, 3, h, w\]"),
        (
            lambda: Critic()(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)),
            "floating point in \\[-1, 1\\], got torch.uint8",
        ),
        (lambda: pick_device("tpu9"), "device must be auto, cpu, cuda or another of torch's, got 'tpu9'"),
        (lambda: PerceptualFeatures("vgg11"), "preset must be 'vgg16' or 'vgg19', got 'vgg11'"),
        (lambda: PerceptualFeatures("vgg19"), "weights must name a VGG19 file"),
        (lambda: PerceptualFeatures("vgg16", weights="x.pth"), 'weights go with preset "vgg19"'),
        (lambda: Generator("article", dropout=0.5), "dropout must be 0 without a second convolution"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def vgg_layers(relu: bool) -> nn.Sequential:
    """torchvision's vgg19().features[:15] (or [:16]), as its source lists it."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, "pool", 128, 128, "pool", 256, 256, 256):
        if isinstance(width, str):
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers if relu else layers[:-1])


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_vgg19_features_are_torchvision_s(relu: bool, suffix: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    from safetensors.torch import save_file

    theirs = vgg_layers(relu)
    names = {f"features.{name}": value for name, value in theirs.state_dict().items()}
    names["features.16.weight"] = torch.zeros(1)  # a deeper layer, as a real file has
    path = tmp_path / f"vgg19{suffix}"
    save_file(names, path) if suffix == ".safetensors" else torch.save(names, path)
    ours = PerceptualFeatures("vgg19", weights=path, relu=relu)
    x = picture(2, 16, 24, torch.float32)
    assert_matches(ours(x), theirs.double()(x.double()), table=NET_TOLERANCE)
    assert not any(p.requires_grad for p in ours.parameters())


def test_bundled_vgg16_sees_what_it_was_trained_on() -> None:
    """BGR in 0 ... 255 less the mean, features over 127.5."""
    ours = PerceptualFeatures()
    theirs = vgg_layers(relu=False)
    theirs.load_state_dict({name.removeprefix("features."): v for name, v in ours.state_dict().items()})
    x = picture(1, 32, 32, torch.float32)
    bgr = (x.double().flip(1) + 1) / 2 * 255 - torch.tensor([103.939, 116.779, 123.68]).double().view(1, 3, 1, 1)
    assert_matches(ours(x), theirs.double()(bgr) / 127.5, table=NET_TOLERANCE)


def test_bundled_vgg16_is_trained() -> None:
    """Its relu3_3 averages about 206 on photos; random weights would give next to nothing."""
    from pathlib import Path

    from deblurgan import images

    photo = images.read(Path(__file__).parent.parent / "deblurgan" / "assets" / "demo.png").pixels[:256, :256].copy()
    x = torch.from_numpy(photo).permute(2, 0, 1)[None] / 127.5 - 1
    assert 100 < float(PerceptualFeatures(relu=True)(x).mean() * 127.5) < 300


def test_vgg_file_without_its_layers_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "vgg.pth")
    with pytest.raises(ValueError, match=r"lacks features\.0\.bias"):
        PerceptualFeatures("vgg19", weights=tmp_path / "vgg.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("no weights")
        with pytest.raises(ValueError, match=f"{name} is not"):
            PerceptualFeatures("vgg19", weights=tmp_path / name)
    with pytest.raises(FileNotFoundError):
        PerceptualFeatures("vgg19", weights=tmp_path / "nowhere.pth")
