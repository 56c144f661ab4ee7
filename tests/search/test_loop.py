"""The loop, driven by a procedure that has neither model nor loss."""

from __future__ import annotations

import re
import time
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from captum_deduce import progress, search


class Countdown(search.Procedure):
    """Pair i begins at 0 and adds its own stride; it succeeds above 1.

    A stride of 0 is stuck. Confidence is the value itself, or what ``confidence`` makes of it.
    """

    def __init__(self, strides: list[float], max_iterations: int = 100) -> None:
        self.strides = torch.tensor(strides, dtype=torch.float64)
        self.max_iterations = max_iterations
        self.batches: list[list[int]] = []

    def start(self, pairs: list[int]) -> search.State:
        return {
            "value": torch.zeros(len(pairs), 1, dtype=torch.float64),
            "stride": self.strides[pairs],
        }

    def confidence(self, value: Tensor) -> Tensor:
        return value

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        self.batches.append(list(pairs))
        value = state["value"].squeeze(1)
        assert torch.equal(state["stride"], self.strides[pairs]), "state and pairs went apart"
        return search.Evaluation(
            images=state["value"],
            confidence=self.confidence(value),
            success=value > 1,
            finished=value > 1,
            prediction=(value * 100).long(),
            gradient=torch.zeros_like(state["value"]),
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        state["value"] = state["value"] + state["stride"].unsqueeze(1)
        return state["stride"] == 0


def expected_steps(stride: float) -> int:
    steps, value = 0, 0.0
    while value <= 1:
        value += stride
        steps += 1
    return steps


STRIDES = [0.3, 0.7, 0.11, 2.0, 0.05, 0.4, 0.21, 0.9, 0.13]


@pytest.mark.parametrize("batch_size", [None, 1, 2, 4, 9, 50])
def test_every_pair_takes_its_own_number_of_steps_whatever_the_batch(batch_size):
    result = search.run(Countdown(STRIDES), len(STRIDES), batch_size=batch_size)
    assert result.iterations.tolist() == [expected_steps(stride) for stride in STRIDES]
    expected = [stride * expected_steps(stride) for stride in STRIDES]
    torch.testing.assert_close(result.images.squeeze(1), torch.tensor(expected).double())
    assert result.success.all()
    assert result.prediction.tolist() == [0] * len(STRIDES)


def test_a_pair_that_ends_leaves_at_once_and_the_next_takes_its_place():
    procedure = Countdown([0.3, 2.0, 2.0, 2.0, 0.3])
    search.run(procedure, 5, batch_size=2)
    # 0.3 needs 4 steps and so 5 evaluations; 2.0 needs 1 step, 2 evaluations.
    assert procedure.batches == [[0, 1], [0, 1], [0, 2], [0, 2], [0, 3], [4, 3]] + [[4]] * 4


def test_the_batch_is_full_while_pairs_wait():
    procedure = Countdown(STRIDES * 5)
    search.run(procedure, len(STRIDES) * 5, batch_size=6)
    seen: set[int] = set()
    for batch in procedure.batches:
        seen.update(batch)
        if len(batch) < 6:
            assert len(seen) == len(STRIDES) * 5


def test_total_cost_is_one_evaluation_for_each_step_and_the_last():
    procedure = Countdown(STRIDES)
    result = search.run(procedure, len(STRIDES), batch_size=3)
    assert sum(len(batch) for batch in procedure.batches) == int((result.iterations + 1).sum())


def test_failures_keep_the_best_attempt():
    class Rises(Countdown):
        def confidence(self, value: Tensor) -> Tensor:
            return 0.25 - (value - 0.5) ** 2  # highest at .5, equal at .4 and .6

    result = search.run(Rises([0.2, 0.5, 0.0], max_iterations=2), 3)
    assert result.success.tolist() == [False, False, False]
    assert result.iterations.tolist() == [2, 2, 0]
    torch.testing.assert_close(result.images.squeeze(1), torch.tensor([0.4, 0.5, 0.0]).double())
    torch.testing.assert_close(result.confidence, torch.tensor([0.24, 0.25, 0.0]).double())


def test_of_equal_attempts_the_earliest_is_kept():
    class Flat(Countdown):
        def confidence(self, value: Tensor) -> Tensor:
            return torch.full_like(value, 0.25)

    result = search.run(Flat([0.2, 0.3], max_iterations=3), 2)
    assert result.images.squeeze(1).tolist() == [0.0, 0.0]


def test_merit_ranks_attempts_without_success_where_a_procedure_gives_it():
    class Merited(Countdown):
        def evaluate(self, state, pairs):
            evaluation = super().evaluate(state, pairs)
            middle = -(evaluation.confidence - 0.5).abs()
            return replace(evaluation, merit=middle)

    result = search.run(Merited([0.25, 0.3], max_iterations=3), 2)
    assert not result.success.any()
    torch.testing.assert_close(result.confidence, torch.tensor([0.5, 0.6]).double())


def test_a_confidence_of_nan_never_becomes_the_best_attempt():
    class Broken(Countdown):
        def confidence(self, value: Tensor) -> Tensor:
            return torch.where(value > 0.3, torch.nan, value)

    result = search.run(Broken([0.2], max_iterations=4), 1)
    assert result.images.item() == pytest.approx(0.2)
    assert result.confidence.item() == pytest.approx(0.2)
    nowhere = search.run(Broken([0.4], max_iterations=1), 1)
    assert not nowhere.confidence.isnan().any()


def test_the_closest_success_wins_where_there_is_a_distance():
    class Closest(Countdown):
        def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
            seen = super().evaluate(state, pairs)
            seen.distance = (seen.images.squeeze(1) - 1.5).abs()
            seen.finished = torch.zeros_like(seen.success)
            return seen

    result = search.run(Closest([0.4, 0.7], max_iterations=6), 2, batch_size=1)
    assert result.success.all()
    torch.testing.assert_close(result.images.squeeze(1), torch.tensor([1.6, 1.4]).double())
    assert result.iterations.tolist() == [6, 6]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_trajectories_hold_every_image_evaluated(batch_size):
    result = search.run(
        Countdown(STRIDES), len(STRIDES), batch_size=batch_size, return_trajectory=True
    )
    for stride, path in zip(STRIDES, result.trajectory, strict=True):
        torch.testing.assert_close(
            path.squeeze(1), torch.arange(expected_steps(stride) + 1).double() * stride
        )
    assert search.run(Countdown(STRIDES), len(STRIDES)).trajectory is None


def test_no_steps_allowed_is_one_evaluation():
    procedure = Countdown([0.3, 0.4], max_iterations=0)
    result = search.run(procedure, 2)
    assert procedure.batches == [[0, 1]]
    assert result.iterations.tolist() == [0, 0]


def test_the_bar_counts_pairs(capsys):
    search.run(Countdown(STRIDES), len(STRIDES), batch_size=2, show_progress=True)
    drawn = capsys.readouterr().err
    assert f"{len(STRIDES)}/{len(STRIDES)}" in drawn
    assert "counterfactuals: " in drawn
    assert re.search(r"pair/s|s/pair", drawn)
    search.run(Countdown(STRIDES), len(STRIDES), show_progress=True, description="towards 3")
    assert "towards 3: " in capsys.readouterr().err
    search.run(Countdown(STRIDES), len(STRIDES))
    assert capsys.readouterr().err == ""


class Noted:
    """In the place of a bar: what it was told."""

    def __init__(self, disable: bool = False) -> None:
        self.disable = disable
        self.done, self.told = 0, []

    def __enter__(self) -> Noted:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def update(self, count: int) -> None:
        self.done += count

    def set_postfix(self, *, refresh: bool, **told: object) -> None:
        assert not refresh, "it would be drawn at once, whatever the delay"
        self.told.append((self.done, told))


def test_the_bar_tells_steps_pairs_found_and_the_best_confidence_so_far(monkeypatch):
    """Strides .5 and 2, and 0 in the queue: best confidences are 0; .5, 2; then 1, 0; then 1.5."""
    bar = Noted()
    monkeypatch.setattr(progress, "bar", lambda **_: bar)
    search.run(Countdown([0.5, 2.0, 0.0]), 3, batch_size=2)
    assert bar.done == 3
    assert bar.told == [
        (0, {"steps": 1, "found": 0, "confidence": "0.000"}),
        (0, {"steps": 2, "found": 1, "confidence": "1.250"}),
        (1, {"steps": 3, "found": 1, "confidence": "0.500"}),
        (2, {"steps": 4, "found": 2, "confidence": "1.500"}),
    ]


@pytest.mark.parametrize("disable", [False, True])
def test_a_step_is_one_copy_to_the_host_with_a_bar_and_without(monkeypatch, disable):
    monkeypatch.setattr(progress, "bar", lambda **_: Noted(disable))
    copies = []
    for name in ("tolist", "item", "__bool__", "__int__", "__float__", "cpu", "numpy"):
        whole = getattr(Tensor, name)

        def counted(self, *arguments, whole=whole, name=name):
            copies.append(name)
            return whole(self, *arguments)

        monkeypatch.setattr(Tensor, name, counted)

    class Silent(Countdown):
        def evaluate(self, state, pairs):
            self.strides = state["stride"]  # what the parent compares needs no copy then
            before = len(copies)
            evaluation = super().evaluate(state, list(range(len(pairs))))
            del copies[before:]
            return evaluation

    search.run(Silent([0.1]), 1)
    assert copies == ["tolist"] * 12  # 11 steps, and the evaluation that ends it


def test_the_bar_moves_while_no_pair_ends(capsys):
    class Slow(Countdown):
        def step(self, state, evaluation):
            time.sleep(0.05)
            return super().step(state, evaluation)

    search.run(Slow([0.02]), 1, show_progress=True)
    drawn = re.findall(r"0/1 .*?steps=(\d+)", capsys.readouterr().err)
    assert len(set(drawn)) >= 5


class Drifting(Countdown):
    """Any of several targets will do: each evaluation names the one that it is near."""

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        evaluation = super().evaluate(state, pairs)
        evaluation.target = (evaluation.images.squeeze(1) * 10).long()
        return evaluation


def test_the_target_is_that_of_the_best_attempt():
    result = search.run(Drifting([0.3, 0.35, 0.7, 0.0]), 4, batch_size=3)
    # The images that succeed are 1.2, 1.05 and 1.4; the last never moves.
    assert result.target.tolist() == [12, 10, 14, 0]
    assert search.run(Countdown([0.3]), 1).target is None


class Crowded(Countdown):
    """The model has memory for ``limit`` pairs, from the evaluation ``since`` on.

    It fails halfway, when the state has been added to.
    """

    def __init__(self, strides: list[float], limit: int, since: int = 0) -> None:
        super().__init__(strides)
        self.limit, self.since = limit, since
        self.failed: list[list[int]] = []

    def start(self, pairs: list[int]) -> search.State:
        none = torch.zeros(len(pairs), dtype=torch.int64)
        return super().start(pairs) | {"forward_evaluations": none}

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        state["forward_evaluations"] = state["forward_evaluations"] + 1
        if len(pairs) > self.limit and len(self.batches) >= self.since:
            self.failed.append(list(pairs))
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        evaluation = super().evaluate(state, pairs)
        evaluation.distance = (evaluation.images.squeeze(1) - 1.5).abs()
        return evaluation


@pytest.mark.parametrize("since", [0, 1, 2, 5, 20])
@pytest.mark.parametrize("limit", [1, 2, 4])
@pytest.mark.parametrize("batch_size", [None, 5])
def test_out_of_memory_the_search_goes_on_with_half_and_loses_nothing(since, limit, batch_size):
    free = Crowded(STRIDES, limit=100)
    expected = search.run(free, len(STRIDES), batch_size=batch_size, return_trajectory=True)
    crowded = Crowded(STRIDES, limit, since)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = search.run(crowded, len(STRIDES), batch_size=batch_size, return_trajectory=True)
    for name, value in vars(expected).items():
        assert all(map(torch.equal, value, vars(result)[name])) if value is not None else True
    # Nothing was evaluated twice but what had failed, and each failure halves.
    assert sum(map(len, crowded.batches)) == sum(map(len, free.batches))
    sizes = list(map(len, crowded.failed))
    assert sizes == sorted(set(sizes), reverse=True)
    assert max(map(len, crowded.batches[since:]), default=0) <= limit
    assert [str(one.message).split()[0] for one in told] == [str(n) for n in sizes[:1]]


def test_pairs_that_were_interrupted_come_before_those_that_never_began():
    crowded = Crowded([0.3, 0.7, 0.4, 0.9, 2.0], limit=2, since=1)
    with pytest.warns(UserWarning, match="internal_batch_size=2"):
        search.run(crowded, 5, batch_size=4)
    assert crowded.failed == [[0, 1, 2, 3]]
    # .7 needs two steps, .3 and .4 four and three; they go on from one, and 2.0 begins last.
    assert crowded.batches == [[0, 1, 2, 3], [0, 1], [0, 1], [0, 2], [0, 2], [3, 2], [3, 4], [4]]


def test_one_pair_out_of_memory_is_an_error_and_so_is_any_other():
    with pytest.raises(RuntimeError, match="memory"), pytest.warns(UserWarning, match="memory"):
        search.run(Crowded(STRIDES, limit=0), len(STRIDES))

    class Broken(Countdown):
        def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        search.run(Broken(STRIDES), len(STRIDES))


# --- pairs that come one by one ---


class Reused(Countdown):
    """Few slots that pairs take in turn: the stride of a slot is that of the pair in it."""

    def __init__(self, slots: int) -> None:
        super().__init__([0.0] * slots)

    def seat(self, slot: int, stride: float) -> int:
        self.strides[slot] = stride
        return slot


@pytest.mark.parametrize("slots", [1, 2, 4, 30])
def test_a_stream_gives_every_pair_what_a_batch_of_all_gives_it(slots):
    strides = STRIDES * 3
    whole = search.run(Countdown(strides), len(strides))
    procedure, free, seated = Reused(slots), list(range(slots)), {}

    def pairs():
        for pair, stride in enumerate(strides):
            slot = free.pop()  # an IndexError where more are drawn than have a place
            seated[slot] = pair
            yield procedure.seat(slot, stride)

    steps = {}
    for left, result in search.stream(procedure, pairs(), batch_size=slots):
        assert len(left) == len(result.images) == len(result.iterations)
        for slot, count in zip(left, result.iterations.tolist(), strict=True):
            steps[seated.pop(slot)] = count
        free += left
    assert not seated
    assert [steps[pair] for pair in range(len(strides))] == whole.iterations.tolist()


def test_the_batch_of_a_stream_is_full_until_the_last_pair_has_come():
    drawn = []

    def pairs():
        for pair in range(len(STRIDES) * 4):
            drawn.append(pair)
            yield pair

    procedure = Countdown(STRIDES * 4)
    ended = [pair for left, _ in search.stream(procedure, pairs(), batch_size=5) for pair in left]
    assert sorted(ended) == drawn == list(range(len(STRIDES) * 4))
    full = [len(batch) == 5 for batch in procedure.batches]
    assert full == sorted(full, reverse=True)
    last = next(i for i, batch in enumerate(procedure.batches) if drawn[-1] in batch)
    assert all(full[: last + 1])


def test_a_stream_of_no_pairs_ends_at_once():
    assert list(search.stream(Countdown([]), [], batch_size=3)) == []


def test_an_error_of_whoever_brings_the_pairs_comes_through():
    def pairs():
        yield 0
        raise OSError("the data set is gone")

    with pytest.raises(OSError, match="the data set is gone"):
        list(search.stream(Countdown([0.3]), pairs(), batch_size=1))


def test_a_stream_that_runs_out_of_memory_goes_on_with_fewer_pairs():
    class Small(Countdown):
        def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
            if len(pairs) > 2:
                raise torch.OutOfMemoryError("too many")
            return super().evaluate(state, pairs)

    procedure = Small(STRIDES)
    with pytest.warns(UserWarning, match="too many for the memory"):
        found = dict(
            pair
            for left, result in search.stream(procedure, range(len(STRIDES)), batch_size=7)
            for pair in zip(left, result.iterations.tolist(), strict=True)
        )
    assert found == {pair: expected_steps(stride) for pair, stride in enumerate(STRIDES)}


def test_beginners_are_those_at_their_first_evaluation():
    steps = torch.tensor([0, 3, 0, 2])
    assert search.beginners([7, 8, 9, 4], {7}, steps) == [2]  # 8 and 4 go on after a wait
    assert search.beginners([7, 8], {7, 8}, steps[:2]) == []
