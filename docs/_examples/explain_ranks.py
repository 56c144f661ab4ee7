"""torchrun --standalone --nproc-per-node 2 explain_ranks.py OUT: each explains its own shards."""

import sys

import torch
from torch import distributed

from captum_deduce import JSMA
from captum_deduce.bulk import explain_dataset
from captum_deduce.datasets import load_digits
from captum_deduce.training import train_classifier

distributed.init_process_group("gloo")
torch.set_num_threads(1)
train, _, test = load_digits()
torch.manual_seed(0)  # the same classifier on each rank; you would load yours
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
train_classifier(model, train, epochs=5, show_progress=False)

run = explain_dataset(
    JSMA(model), test, sys.argv[1], only="all", targets="runner-up", shard_size=50
)
print(f"rank {distributed.get_rank()} of {distributed.get_world_size()}: {run}")
distributed.destroy_process_group()
