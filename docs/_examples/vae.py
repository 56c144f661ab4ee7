"""A VAE of scikit-learn's digits, trained once (`captum_deduce.training.train_vae`)."""

from captum_deduce.zoo import RECONSTRUCTIONS, obtain_reconstruction

recipe = RECONSTRUCTIONS["vae"]["digits"]
vae = obtain_reconstruction("vae", "digits", splits, recipe, 0, cpu, show_progress=False)
