"""A small classifier of scikit-learn's digits, the density of its features, and DeDUCE."""

import torch

from captum_deduce import ClassGaussianMixture, DeDUCE
from captum_deduce.datasets import load_digits
from captum_deduce.models import sn_resnet18
from captum_deduce.training import train_classifier

torch.set_num_threads(1)  # quickest for models this small
torch.manual_seed(0)
train, validation, test = load_digits()
model = sn_resnet18(width=8, image_size=8)
train_classifier(model, train, epochs=12, batch_size=64)
model.eval()
density = ClassGaussianMixture.fit_loader(
    model, model.avgpool, train.batches(), regularization="oas"
)
explainer = DeDUCE(model, model.avgpool, density)

# 50 test images, and for each a class that it isn't
images, labels = test.images[:50], test.target[:50]
target = (labels + 1 + torch.arange(50) % 9) % 10
