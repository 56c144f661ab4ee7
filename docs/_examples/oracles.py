"""Two oracles: classifiers of another architecture that had no part in any search."""

import torch

from captum_deduce.datasets import load_digits
from captum_deduce.metrics import Oracle
from captum_deduce.models import SmallCNN
from captum_deduce.training import accuracy, train_classifier

train, validation, test = load_digits()
settings = {"epochs": 20, "batch_size": 64, "learning_rate": 0.05}
judges = []
for seed in (1, 2):
    torch.manual_seed(seed)
    judge = SmallCNN(image_size=8)
    train_classifier(judge, train, **settings, seed=seed)
    judges.append(judge)
oracle = Oracle(judges)
accuracies = [f"{accuracy(judge, test):.1%}" for judge in judges]
print("accuracy of the oracles on test images:", ", ".join(accuracies))
