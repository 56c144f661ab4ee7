"""A VAE of scikit-learn's digits, trained once (`captum_deduce.training.train_vae`) and cached."""

import torch

from captum_deduce.datasets import load_digits
from captum_deduce.zoo import RECONSTRUCTIONS, obtain_reconstruction

splits, cpu = load_digits(), torch.device("cpu")
recipe = RECONSTRUCTIONS["vae"]["digits"]
vae = obtain_reconstruction("vae", "digits", splits, recipe, 0, cpu, show_progress=False)
