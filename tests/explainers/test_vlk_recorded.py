"""VLK against steps, prototypes and runs recorded from its authors' package.

Tolerances are those of the recording's own README: long runs at weights above 1 are chaotic in
floating point, so that whole runs are compared only below.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from captum_deduce import VLK, PrototypeIndex, search
from captum_deduce.classifiers import FrozenModel
from captum_deduce.explainers.vlk import PrototypeDescent
from captum_deduce.search.losses import elastic_net
from captum_deduce.search.problem import ANY_CLASS, Problem
from captum_deduce.search.steps import refine_weight
from tests.published import published

CONFIGS = ("gentle", "paper-like", "c-search")
STEP_TOLERANCE = {"gentle": 2e-6, "paper-like": 2e-5, "c-search": 2e-6}
RUN_TOLERANCE = {"gentle": 5e-5, "paper-like": 1e-3, "c-search": 5e-5}
NUMBERS = (
    "beta", "gamma", "theta", "kappa", "c_init", "c_steps", "max_iterations",
    "learning_rate_init", "k",
)  # fmt: skip

every_config = pytest.mark.parametrize("config", CONFIGS)
both_precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    return dict(np.load(published("vlk_parity") / "cases.npz", allow_pickle=False))


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    return dict(np.load(published("vlk_parity") / "models.npz", allow_pickle=False))


def module(layer: nn.Module, weight: np.ndarray, bias: np.ndarray) -> nn.Module:
    layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
    return layer


def linear(weights: dict[str, np.ndarray], name: str) -> nn.Module:
    weight = weights[f"{name}_weight"]
    return module(nn.Linear(*weight.shape[::-1]), weight, weights[f"{name}_bias"])


def models(weights: dict[str, np.ndarray], dtype: torch.dtype) -> SimpleNamespace:
    """The three models that the recording describes."""
    convolution = module(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        weights["clf_conv_weight"],
        weights["clf_conv_bias"],
    )
    parts = {
        "classifier": nn.Sequential(
            convolution, nn.ReLU(), nn.Flatten(), linear(weights, "clf_fc")
        ),
        "encoder": nn.Sequential(nn.Flatten(), linear(weights, "enc")),
        "autoencoder": nn.Sequential(
            nn.Flatten(),
            linear(weights, "ae_enc"),
            linear(weights, "ae_dec"),
            nn.Sigmoid(),
            nn.Unflatten(1, (1, 8, 8)),
        ),
    }
    return SimpleNamespace(**{name: part.to(dtype) for name, part in parts.items()})


class Recording:
    """The cases of one configuration, and the explainer that should repeat them."""

    def __init__(
        self,
        recorded: dict[str, np.ndarray],
        weights: dict[str, np.ndarray],
        config: str,
        dtype: torch.dtype,
    ) -> None:
        self.recorded, self.dtype = recorded, dtype
        row = recorded["config_name"].tolist().index(config)
        self.models = models(weights, dtype)
        settings: dict[str, Any] = {
            name: recorded[f"config_{name}"][row].item() for name in NUMBERS
        }
        self.rounds, self.steps = settings["c_steps"], settings["max_iterations"]
        self.beta = settings["beta"]
        low, high = recorded["config_clip"][row].tolist()
        assert low == -high
        self.prototypes = PrototypeIndex.from_loader(
            self.models.classifier, self.models.encoder, [self.images("train_image")]
        )
        self.explainer = VLK(
            self.models.classifier,
            self.models.autoencoder,
            self.models.encoder,
            self.prototypes,
            clip=high,
            **settings,
        )
        self.cases = np.flatnonzero(recorded["case_config"] == row)

    def images(self, name: str, rows: np.ndarray | slice = slice(None)) -> Tensor:
        return torch.from_numpy(self.recorded[name][rows]).to(self.dtype)

    def procedure(self, cases: np.ndarray) -> PrototypeDescent:
        """For cases that are all targeted or all not."""
        inputs = self.images("case_image", cases)
        target = torch.from_numpy(self.recorded["case_target_class"][cases]).long()
        assert ANY_CLASS == -1
        problem = Problem(
            model=FrozenModel(self.models.classifier),
            inputs=inputs,
            target=target,
            classes=target.tolist(),
            additional_forward_args=(),
            mask=None,
            lower=torch.zeros_like(inputs[0]),
            upper=torch.ones_like(inputs[0]),
        )
        return PrototypeDescent(problem, self.explainer)

    def split(self, cases: np.ndarray) -> list[np.ndarray]:
        targeted = self.recorded["case_target_class"][cases] >= 0
        return [cases[~targeted], cases[targeted]]


@pytest.fixture
def recording(recorded, weights, config, dtype) -> Recording:
    return Recording(recorded, weights, config, dtype)


@pytest.mark.parametrize("config", CONFIGS[:1])
@both_precisions
def test_the_index_groups_the_training_images_as_recorded(recording):
    features, labels = recording.recorded["train_feature"], recording.recorded["train_label"]
    index = recording.prototypes
    assert index.counts.tolist() == np.bincount(labels, minlength=10).tolist()
    expected = np.concatenate([features[labels == c] for c in range(10)])
    np.testing.assert_allclose(index.features.numpy(), expected, rtol=0, atol=5e-6)


@every_config
@both_precisions
def test_every_prototype(recording):
    for cases in recording.split(recording.cases):
        state = recording.procedure(cases).start(list(range(len(cases))))
        expected = recording.recorded["case_proto"][cases]
        np.testing.assert_allclose(state["prototype"].numpy(), expected, rtol=0, atol=5e-6)
        own = recording.recorded["case_orig_class"][cases]
        assert state["original_class"].tolist() == own.tolist()
        admissible = torch.arange(10) != torch.from_numpy(own).unsqueeze(1)
        targets = recording.recorded["case_target_class"][cases]
        if targets[0] >= 0:
            admissible = torch.arange(10) == torch.from_numpy(targets).unsqueeze(1)
        with torch.no_grad():
            features = recording.models.encoder(recording.images("case_image", cases))
        _, classes = recording.prototypes.select(features, admissible, k=recording.explainer.k)
        assert classes.tolist() == recording.recorded["case_proto_class"][cases].tolist()


@every_config
@both_precisions
def test_every_step(recording, config):
    data, tolerance = recording.recorded, STEP_TOLERANCE[config]
    checked = 0
    for cases in recording.split(recording.cases):
        rows = np.flatnonzero(np.isin(data["step_case"], cases))
        procedure = recording.procedure(data["step_case"][rows])
        pairs = list(range(len(rows)))
        state = procedure.start(pairs)
        state["images"] = recording.images("step_x", rows)
        state["ahead"] = recording.images("step_y", rows)
        state["iteration"] = torch.from_numpy(data["step_iter"][rows]).long()
        state["round"] = torch.from_numpy(data["step_cstep"][rows]).long()
        state["weight"] = recording.images("step_c", rows)
        evaluation = procedure.evaluate(state, pairs)

        gradient = data["step_grad"][rows]
        error = np.abs(evaluation.gradient.numpy() - gradient).reshape(len(rows), -1).max(1)
        assert (error <= 1e-5 * np.abs(gradient).reshape(len(rows), -1).max(1)).all()
        assert not procedure.step(state, evaluation).any()
        for name, recorded_name in (("images", "step_x_next"), ("ahead", "step_y_next")):
            np.testing.assert_allclose(
                state[name].numpy(), data[recorded_name][rows], rtol=0, atol=tolerance
            )

        following = procedure.evaluate(state, pairs)
        proba = data["step_proba_next"][rows]
        distance = following.distance.numpy()
        np.testing.assert_allclose(distance, data["step_dist_next"][rows], rtol=1e-4, atol=1e-6)
        chosen = proba[np.arange(len(rows)), following.target.numpy()]
        np.testing.assert_allclose(following.confidence.numpy(), chosen, rtol=0, atol=2e-5)
        assert following.prediction.tolist() == proba.argmax(1).tolist()
        own = data["case_orig_class"][data["step_case"][rows]]
        wanted = data["case_target_class"][data["step_case"][rows]]
        accepted = np.where(wanted < 0, proba.argmax(1) != own, proba.argmax(1) == wanted)
        assert following.success.tolist() == accepted.tolist()
        checked += len(rows)
    assert checked == np.isin(data["step_case"], recording.cases).sum() > 300


def rounds_of(recorded: dict[str, np.ndarray], case: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each round of a case the recorded distances, and which iterates were acceptable."""
    row = recorded["case_config"][case]
    count, steps = recorded["config_c_steps"][row], recorded["config_max_iterations"][row]
    classes = recorded["case_trace_class"][case][: count * steps].reshape(count, steps)
    distances = recorded["case_trace_dist"][case][: count * steps].reshape(count, steps)
    wanted, own = recorded["case_target_class"][case], recorded["case_orig_class"][case]
    assert recorded["config_kappa"][row] == 0
    accepted = classes != own if wanted < 0 else classes == wanted
    return list(zip(distances, accepted, strict=True))


def test_every_sequence_of_weights(recorded):
    for case in range(48):
        config = recorded["case_config"][case]
        weight = torch.from_numpy(recorded["config_c_init"][config : config + 1]).double()
        failure, success = torch.zeros(1).double(), torch.full((1,), torch.inf).double()
        weights = []
        for _, accepted in rounds_of(recorded, case):
            weights.append(weight.item())
            found = torch.tensor([bool(accepted.any())])
            weight, failure, success = refine_weight(weight, failure, success, found)
        expected = recorded["case_c_seq"][case]
        np.testing.assert_allclose(weights, expected[~np.isnan(expected)], rtol=1e-6)


class Replay(search.Procedure):
    """Evaluations as they were recorded; the image of step s is the number s."""

    def __init__(self, recorded: dict[str, np.ndarray]) -> None:
        self.rounds = [rounds_of(recorded, case) for case in range(48)]
        self.max_iterations = 1000

    def start(self, pairs: list[int]) -> search.State:
        return {"step": torch.zeros(len(pairs), dtype=torch.int64)}

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        distance, success, finished = [], [], []
        for pair, step in zip(pairs, state["step"].tolist(), strict=True):
            distances = np.concatenate([values for values, _ in self.rounds[pair]])
            accepted = np.concatenate([flags for _, flags in self.rounds[pair]])
            # The original comes first, and was never a candidate.
            distance.append(0.0 if step == 0 else distances[step - 1])
            success.append(step > 0 and bool(accepted[step - 1]))
            finished.append(step == len(distances))
        zeros = torch.zeros(len(pairs))
        return search.Evaluation(
            images=state["step"].double().unsqueeze(1),
            confidence=zeros,
            success=torch.tensor(success),
            finished=torch.tensor(finished),
            prediction=zeros.long(),
            gradient=zeros,
            distance=torch.tensor(distance, dtype=torch.float64),
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        state["step"] = state["step"] + 1
        return torch.zeros(len(state["step"]), dtype=torch.bool)


def test_every_selection(recorded):
    result = search.run(Replay(recorded), 48, batch_size=7)
    assert result.success.tolist() == recorded["case_found"].astype(bool).tolist()
    steps = recorded["config_max_iterations"][recorded["case_config"]]
    best = recorded["case_best_cstep"] * steps + recorded["case_best_iter"] + 1
    for case in np.flatnonzero(recorded["case_found"]):
        distances = np.concatenate([values for values, _ in rounds_of(recorded, case)])
        chosen = int(result.images[case].item())
        # Exact ties occur; the first of them is taken.
        assert distances[chosen - 1] == distances[best[case] - 1]
        assert chosen <= best[case]


@every_config
@both_precisions
def test_whole_runs_at_weights_up_to_1(recording, config):
    data = recording.recorded
    low = np.nanmax(data["case_c_seq"], 1) <= 1
    compared = 0
    for cases in recording.split(recording.cases[low[recording.cases]]):
        weights: list[list[float]] = [[] for _ in cases]
        evaluate = PrototypeDescent.evaluate

        def observed(
            self: PrototypeDescent,
            state: search.State,
            pairs: list[int],
            weights: list[list[float]] = weights,
            evaluate: Any = evaluate,
        ) -> search.Evaluation:
            evaluation: search.Evaluation = evaluate(self, state, pairs)
            for pair, weight, iteration in zip(
                pairs, state["weight"].tolist(), state["iteration"].tolist(), strict=True
            ):
                if iteration == 0:
                    weights[pair].append(weight)
            return evaluation

        targets = torch.from_numpy(data["case_target_class"][cases]).long()
        with mock.patch.object(PrototypeDescent, "evaluate", observed):
            result = recording.explainer.generate(
                recording.images("case_image", cases),
                None if targets[0] < 0 else targets,
                return_trajectory=True,
            )
        found = data["case_found"][cases].astype(bool)
        assert result.success.tolist() == found.tolist()
        assert result.iterations.tolist() == [recording.rounds * recording.steps] * len(cases)
        for i, case in enumerate(cases):
            expected = data["case_c_seq"][case][: recording.rounds]
            np.testing.assert_allclose(weights[i][: recording.rounds], expected, rtol=1e-6)
            if config != "paper-like":
                moved = result.trajectory[i] - recording.images("case_image", case)
                trace = data["case_trace_dist"][case][: len(moved) - 1]
                distances = elastic_net(moved[1:], recording.beta)
                np.testing.assert_allclose(distances.numpy(), trace, rtol=1e-3, atol=1e-4)
            if not found[i]:
                continue
            compared += 1
            image = result.counterfactuals[i].numpy()
            np.testing.assert_allclose(
                image, data["case_cf"][case], rtol=0, atol=RUN_TOLERANCE[config]
            )
            best = elastic_net(result.attributions[i : i + 1], recording.beta).item()
            assert best == pytest.approx(data["case_best_dist"][case], rel=1e-4)
            with torch.no_grad():
                scores = recording.models.classifier(result.counterfactuals[i : i + 1])
            assert scores.argmax() == data["case_cf_class"][case]
            assert result.target[i] == data["case_cf_class"][case]
            np.testing.assert_allclose(
                scores.softmax(1)[0].numpy(), data["case_cf_proba"][case], rtol=0, atol=2e-3
            )
    assert compared >= 8
