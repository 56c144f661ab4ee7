"""A classifier of scikit-learn's digits with its density, trained once and then cached."""

import torch

from captum_deduce.datasets import load_digits
from captum_deduce.zoo import RECIPES, obtain_classifier, plan_classifier

torch.set_num_threads(1)  # for models this small the quickest
cpu = torch.device("cpu")
splits = load_digits()
train, test = splits.train, splits.test
plan = plan_classifier("digits", train, "sn_resnet18", RECIPES["digits"], seed=0)
checkpoint = obtain_classifier(plan, splits, 64, cpu, show_progress=False)
model, density = checkpoint.model, checkpoint.density

# 50 test images, and for each a class that it isn't
images, labels = test.images[:50], test.target[:50]
target = (labels + 1 + torch.arange(50) % 9) % 10
