import torch

from flowdet.flow import inference_noise, training_noise

CPU = torch.device("cpu")


def test_training_noise_comes_from_the_global_generator():
    torch.manual_seed(0)
    first, second = (training_noise((2, 3, 4), 0.5, CPU) for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(first, 0.5 * torch.randn(2, 3, 4))


def test_inference_noise_depends_on_the_seed_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = inference_noise((3, 4), 2.0, seed=7, batch=1, device=CPU)
    many = inference_noise((3, 4), 2.0, seed=7, batch=5, device=CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert many.shape == (5, 3, 4)
    assert all(torch.equal(image, one[0]) for image in many)
    assert not torch.equal(one, inference_noise((3, 4), 2.0, seed=8, batch=1, device=CPU))
    wide = inference_noise((200, 64), 2.0, seed=7, batch=1, device=CPU)
    assert abs(wide.std() - 2) < 0.05
