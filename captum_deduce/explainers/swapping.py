"""The greedy exchange of cells between an image's features and those of distractors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from captum_deduce import search
from captum_deduce.classifiers import is_cut, ran_out_of_memory
from captum_deduce.counterfactuals import Counterfactuals
from captum_deduce.explainers.patches import PatchGrid, PatchSwaps
from captum_deduce.search import Problem, confidence_of, is_success, losses

# Images that are encoded at once.
_ENCODED = 64


class Rules(Protocol):
    """The settings of :class:`captum_deduce.PatchSwap` that the exchange goes by."""

    num_distractors: int
    similarity: Callable[[Tensor], Tensor] | None
    similarity_weight: float
    temperature: float
    tried_share: float
    until: str
    verified: int
    confidence: float
    max_iterations: int | None
    memory_budget: int


@dataclass(frozen=True)
class Distractors:
    """Images of the classes asked for, as the model and the similarity's features see them.

    Args:
        images (Tensor): K x channels x height x width.
        labels (Tensor): K classes.
        features (Tensor): What the layer outputs, cell by cell, K x h w x D.
        similar (Tensor or None): Features whose cosine says what is alike, K x S x h w, of length 1
            in each cell.
    """

    images: Tensor
    labels: Tensor
    features: Tensor
    similar: Tensor | None


class CellExchange(search.Procedure):
    """Replace in each step the cell by the one that raises the target's probability most.

    Args:
        problem (Problem): What the call asks for.
        rules (PatchSwap): The explainer, for its numbers.
        images (Tensor): Distractors, K x channels x height x width.
        labels (Tensor or None): Their classes; None: what the model predicts.

    Raises:
        ValueError: A layer whose output is no map of cells, or by which the model can't be cut, or
            a target without distractors.
    """

    def __init__(
        self, problem: Problem, rules: Rules, images: Tensor, labels: Tensor | None
    ) -> None:
        self.problem, self.rules = problem, rules
        shape = problem.model.layer_shape
        if len(shape) != 3:
            raise ValueError(
                "layer must output maps, N x D x height x width, such as a convolution does; got "
                f"N x {' x '.join(map(str, shape))}"
            )
        self.depth, *sides = shape
        height, width = problem.inputs.shape[2:]
        self.grid = PatchGrid((sides[0], sides[1]), (height, width))
        self.cells = sides[0] * sides[1]
        self.one_input = self._cut()
        self._given = images, labels
        self._known = set(problem.classes)
        self.distractors = self._encoded(self._known)
        count = int((self.distractors.labels if labels is None else labels).bincount().max())
        self.donors = min(self.rules.num_distractors, count)
        self.max_iterations = self.cells if rules.max_iterations is None else rules.max_iterations
        self._begun: set[int] = set()
        none = torch.full((len(problem.inputs), self.cells), -1, device=problem.inputs.device)
        self._record = {name: none.clone() for name in ("donor", "donor_cell", "order")}
        self._record |= {name: none[:, 0].clone() for name in ("best_edits", "feature_edits")}
        self._record["feature_confidence"] = problem.inputs.new_zeros(len(none))

    def start(self, pairs: list[int]) -> search.State:
        """Begin at the originals, see :meth:`captum_deduce.search.Procedure.start`."""
        self._begun.difference_update(pairs)  # a number may come again for another pair
        self._know({self.problem.classes[pair] for pair in pairs})
        state = self.problem.rows(pairs)
        images = state["original"]
        places = torch.full((len(pairs), self.cells), -1, device=images.device)
        free = torch.ones_like(places, dtype=torch.bool)
        if "allowed" in state:
            movable = state["allowed"].expand_as(images).any(1).flatten(1)
            owner = self.grid.cell.flatten().to(images.device)
            free = torch.zeros_like(places).index_add_(1, owner, movable.to(places.dtype)) > 0
        candidates = self.donors * self.cells
        state |= {
            "images": images.clone(),
            "features": images.new_zeros(len(pairs), self.depth * self.cells),
            "donors": places[:, :1].expand(-1, self.donors).clone(),
            "donor": places.clone(),
            "donor_cell": places.clone(),
            "order": places.clone(),
            "free": free,
            "offered": torch.zeros(len(pairs), candidates, dtype=torch.bool, device=images.device),
            "iteration": places[:, 0] + 1,
            "feature_edits": places[:, 0].clone(),
            "best_edits": places[:, 0] + 1,
            "best_merit": images.new_full((len(pairs),), -torch.inf),
            "best_feature_confidence": images.new_zeros(len(pairs)),
            "forward_evaluations": places[:, 0] + 1,
            "evaluations": places[:, 0] + 1,
        }
        if self.distractors.similar is not None:
            state["likeness"] = images.new_zeros(len(pairs), self.cells, candidates)
            state["tried"] = torch.zeros_like(state["likeness"], dtype=torch.bool)
        return state

    def evaluate(self, state: search.State, pairs: list[int]) -> search.Evaluation:
        """Classify pixels and features, see :meth:`captum_deduce.search.Procedure.evaluate`."""
        rules, target, images = self.rules, state["target"], state["images"]
        with torch.no_grad():
            scores, features = self.problem.forward(images, state)
            new = search.beginners(pairs, self._begun, state["iteration"])
            if new:
                self._begin(state, new, features)
            every = torch.arange(len(images), device=images.device)
            inner = self.problem.from_layer(
                state["features"].clone(), state, every, one_input=self.one_input
            )
        confidence, prediction = confidence_of(scores, target), scores.argmax(1)
        reached = is_success(confidence, prediction, target, rules.confidence)
        feature_confidence = confidence_of(inner, target)
        flipped = is_success(feature_confidence, inner.argmax(1), target, rules.confidence)
        first = flipped & (state["feature_edits"] < 0)
        state["feature_edits"] = torch.where(first, state["iteration"], state["feature_edits"])
        state["forward_evaluations"] = state["forward_evaluations"] + 2
        success, finished, merit = reached, reached, confidence
        if rules.until == "features":
            success, finished, merit = reached & flipped, flipped, confidence + flipped
        merit = merit.nan_to_num(0.0)
        better = success | (merit > state["best_merit"])
        state["best_merit"] = torch.where(better, merit, state["best_merit"])
        state["best_edits"] = torch.where(better, state["iteration"], state["best_edits"])
        state["best_feature_confidence"] = torch.where(
            better, feature_confidence, state["best_feature_confidence"]
        )
        self._remember(state, pairs)
        self._begun.update(pairs)
        return search.Evaluation(
            images=images,
            confidence=confidence,
            success=success,
            finished=finished,
            prediction=prediction,
            gradient=confidence,  # there is none, and nobody asks for it
            merit=merit,
        )

    def step(self, state: search.State, evaluation: search.Evaluation) -> Tensor:
        """Exchange one cell of each pair; see :meth:`captum_deduce.search.Procedure.step`."""
        with torch.no_grad():
            gains = self._gains(state)
            if "likeness" in state:
                gains = gains + self.rules.similarity_weight * state["likeness"].flatten(1)
            order = _quantised(gains)
            if self.rules.until == "pixels" and self.rules.verified > 1:
                choice = self._verified(state, gains, order)
            else:
                choice = order.argmax(1)
            stuck = ~order.amax(1).isfinite()
            self._exchange(state, choice, ~stuck)
            state["iteration"] = state["iteration"] + 1
        return stuck

    def swaps(self, result: Counterfactuals) -> PatchSwaps:
        """Say what was put where.

        Args:
            result (Counterfactuals): What became of the call.

        Returns:
            PatchSwaps: Its cells, in order.
        """
        record = self._record
        edits = record["best_edits"].clamp_min(0)
        most = max(int(edits.max()), 1)
        order = torch.where(record["order"] < 0, self.cells, record["order"]).argsort(dim=1)
        cells = order[:, :most]
        made = torch.arange(most, device=edits.device) < edits.unsqueeze(1)

        def in_order(values: Tensor) -> Tensor:
            return values.masked_fill(~made, -1)

        return PatchSwaps(
            result=result,
            distractors=self.distractors.images,
            grid=self.grid.cells,
            query_cells=in_order(cells),
            distractor_index=in_order(record["donor"].gather(1, cells)),
            distractor_cells=in_order(record["donor_cell"].gather(1, cells)),
            feature_edits=record["feature_edits"],
            feature_confidence=record["feature_confidence"],
        )

    def _cut(self) -> bool:
        """Whether one input does for all features; refuses a layer that is no cut."""
        problem = self.problem
        rows = problem.rows([0, min(1, len(problem.inputs) - 1)])
        images = rows["original"]
        if len(problem.inputs) == 1 or torch.equal(images[0], images[1]):
            images = torch.stack([images[0], images[0].flip(-1)])
        arguments = problem.arguments(rows)
        if not problem.arguments_of_each and is_cut(
            problem.model, images, arguments, one_input=True
        ):
            return True
        if is_cut(problem.model, images, arguments):
            return False
        raise ValueError(
            "layer must be one that the whole model goes through: its output alone does not decide "
            "about the scores, as something else goes past it (a skip connection?); choose a whole "
            "block of layers"
        )

    def _know(self, classes: set[int]) -> None:
        """See the distractors of further classes, where pairs flow in with targets of their own."""
        further = classes - self._known
        if not further or self._given[1] is None:
            return
        new, old = self._encoded(further), self.distractors
        self._known |= further
        similar = None
        if old.similar is not None and new.similar is not None:
            similar = torch.cat([old.similar, new.similar])
        self.distractors = Distractors(
            torch.cat([old.images, new.images]),
            torch.cat([old.labels, new.labels]),
            torch.cat([old.features, new.features]),
            similar,
        )

    def _encoded(self, classes: set[int]) -> Distractors:
        """See distractors as the model does; of those whose class is known only what is needed."""
        problem, rules = self.problem, self.rules
        images, labels = self._given
        asked = torch.tensor(sorted(classes), device=images.device)
        if labels is not None:
            kept = torch.isin(labels, asked)
            images, labels = images[kept], labels[kept]
        predicted, features, similar = [], [], []
        state = problem.rows([0])

        def encode(part: slice) -> None:
            some = images[part]
            rows = {
                name: value.expand(len(some), *value.shape[1:]) for name, value in state.items()
            }
            scores, found = problem.forward(some, rows)
            alike = None if rules.similarity is None else self._alike(some)
            predicted.append(scores.argmax(1))
            maps = found.view(len(some), self.depth, self.cells)
            features.append(maps.transpose(1, 2).contiguous())
            if alike is not None:
                similar.append(alike)

        with torch.no_grad():
            _in_parts(encode, len(images), _ENCODED)
        if labels is None and len(images):
            labels = torch.cat(predicted)
        present = set() if labels is None else set(labels.tolist())
        empty = sorted(classes - present)
        if empty or labels is None:
            raise ValueError(f"target names class(es) {empty} that no distractor belongs to")
        return Distractors(
            images, labels, torch.cat(features), torch.cat(similar) if similar else None
        )

    def _alike(self, images: Tensor) -> Tensor:
        """Describe cells by the similarity's features, with length 1 each."""
        extractor = self.rules.similarity
        found = None if extractor is None else extractor(images.clone())
        if not isinstance(found, Tensor) or found.dim() != 4 or len(found) != len(images):
            given = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(
                f"similarity must return maps, N x S x height x width for {len(images)} images, "
                f"got {given}"
            )
        cells = nn.functional.adaptive_avg_pool2d(found, self.grid.cells)
        return nn.functional.normalize(cells.flatten(2).to(images.dtype), dim=1)

    def _begin(self, state: search.State, slots: list[int], features: Tensor) -> None:
        """Give pairs that begin their features, their distractors and what is alike in them."""
        index = torch.tensor(slots, device=features.device)
        mine, target = features[index], state["target"][index]
        known = self.distractors
        means = mine.view(len(mine), self.depth, self.cells).mean(2)
        # Not by a matrix product, whose rounding depends on the number of pairs.
        distance = torch.cdist(
            means, known.features.mean(1), compute_mode="donot_use_mm_for_euclid_dist"
        )
        distance = distance.masked_fill(known.labels != target.unsqueeze(1), torch.inf)
        near = distance.sort(dim=1, stable=True)
        donors = near.indices[:, : self.donors]
        valid = near.values[:, : self.donors].isfinite().repeat_interleave(self.cells, 1)
        made = {"features": mine, "donors": donors, "offered": valid}
        if known.similar is not None:
            own = self._alike(state["original"][index])
            theirs = known.similar[donors].transpose(1, 2).flatten(2)
            cosine = own.transpose(1, 2) @ theirs
            cosine = cosine.masked_fill(~valid.unsqueeze(1), -torch.inf)
            made["likeness"] = (cosine / self.rules.temperature).log_softmax(2)
            made["tried"] = self._most_alike(cosine, valid)
        for name, value in made.items():
            state[name] = state[name].index_copy(0, index, value.to(state[name].dtype))

    def _most_alike(self, cosine: Tensor, valid: Tensor) -> Tensor:
        """Choose each pair's share of the combinations, the most similar ones."""
        flat = cosine.flatten(1)
        count = (valid.sum(1) * self.cells * self.rules.tried_share).ceil().long().clamp_min(1)
        ranks = flat.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        return (ranks < count.unsqueeze(1)).view_as(cosine)

    def _gains(self, state: search.State) -> Tensor:
        """Evaluate all exchanges that are left: log-probability of the target, A x (h w M h w)."""
        live = state["free"].unsqueeze(2) & state["offered"].unsqueeze(1)
        if "tried" in state:
            live &= state["tried"]
        pair, cell, place = live.nonzero().unbind(1)
        gains = state["features"].new_full(live.shape, -torch.inf).flatten(1)
        size = state["features"].element_size() * state["features"].shape[1]

        def evaluate(part: slice) -> None:
            rows, here, there = pair[part], cell[part], place[part]
            donor = state["donors"][rows, there // self.cells]
            changed = state["features"][rows].view(len(rows), self.depth, self.cells)
            number = torch.arange(len(rows), device=rows.device)
            changed[number, :, here] = self.distractors.features[donor, there % self.cells]
            scores = self.problem.from_layer(
                changed.flatten(1), state, rows, one_input=self.one_input
            )
            gained = losses.target_log_probability(scores, state["target"][rows])
            gains[rows, here * live.shape[2] + there] = gained.to(gains.dtype)

        _in_parts(evaluate, len(pair), max(self.rules.memory_budget // size, 1))
        made = torch.zeros_like(state["forward_evaluations"])
        made.index_add_(0, pair, torch.ones_like(pair))
        state["forward_evaluations"] = state["forward_evaluations"] + made
        return gains

    def _verified(self, state: search.State, gains: Tensor, order: Tensor) -> Tensor:
        """Of the exchanges that gain most in features, choose the one that does in pixels."""
        target = state["target"]
        few = order.sort(dim=1, descending=True, stable=True).indices[:, : self.rules.verified]
        gained = torch.full(few.shape, -torch.inf, dtype=gains.dtype, device=gains.device)
        for place, choice in enumerate(few.unbind(1)):

            def evaluate(part: slice, place: int = place, choice: Tensor = choice) -> None:
                some = {name: value[part] for name, value in state.items()}
                images = self._pasted(some, *self._sources(some, choice[part]))
                scores, _ = self.problem.forward(images, some)
                gained[part, place] = losses.target_log_probability(scores, target[part]).to(
                    gained.dtype
                )

            _in_parts(evaluate, len(target), len(target))
        state["forward_evaluations"] = state["forward_evaluations"] + few.shape[1]
        if "likeness" in state:
            likeness = state["likeness"].flatten(1).gather(1, few)
            gained = gained + self.rules.similarity_weight * likeness
        gained = gained.masked_fill(~order.gather(1, few).isfinite(), -torch.inf)
        best = _quantised(gained).argmax(1, keepdim=True)
        return few.gather(1, best).squeeze(1)

    def _sources(self, state: search.State, choice: Tensor) -> tuple[Tensor, Tensor]:
        """Where the cells of images come from, with one exchange more."""
        here, there = self._ends(choice)
        number = torch.arange(len(choice), device=choice.device)
        donor, cell = state["donor"].clone(), state["donor_cell"].clone()
        donor[number, here] = state["donors"][number, there // self.cells]
        cell[number, here] = there % self.cells
        return donor, cell

    def _ends(self, choice: Tensor) -> tuple[Tensor, Tensor]:
        """The query's cell of an exchange, and the place among all of the distractors' cells."""
        candidates = self.donors * self.cells
        return choice // candidates, choice % candidates

    def _pasted(self, state: search.State, donor: Tensor, cell: Tensor) -> Tensor:
        original = state["original"]
        images = self.grid.paste(original, self.distractors.images, donor, cell)
        pasted = (donor >= 0)[:, self.grid.cell.to(original.device)].unsqueeze(1)
        if "allowed" in state:
            pasted = pasted & state["allowed"]
        return torch.where(pasted, images.clamp(*self.problem.bounds(state)), original)

    def _exchange(self, state: search.State, choice: Tensor, move: Tensor) -> None:
        """Put the chosen cells into features and images, and retire them."""
        here, there = self._ends(choice)
        number = torch.arange(len(choice), device=choice.device)
        moved = move.unsqueeze(1)
        donor, cell = self._sources(state, choice)
        part = self.distractors.features[donor[number, here], cell[number, here]]
        maps = state["features"].view(len(number), self.depth, self.cells)
        maps[number, :, here] = torch.where(moved, part, maps[number, :, here])
        state["donor"] = torch.where(moved, donor, state["donor"])
        state["donor_cell"] = torch.where(moved, cell, state["donor_cell"])
        order = state["order"][number, here]
        state["order"][number, here] = torch.where(move, state["iteration"], order)
        state["free"][number, here] &= ~move
        state["offered"][number, there] &= ~move
        state["images"] = self._pasted(state, state["donor"], state["donor_cell"])

    def _remember(self, state: search.State, pairs: list[int]) -> None:
        index = torch.tensor(pairs, device=state["target"].device)
        for name in ("donor", "donor_cell", "order", "best_edits", "feature_edits"):
            self._record[name][index] = state[name]
        self._record["feature_confidence"][index] = state["best_feature_confidence"]


def _quantised(gains: Tensor) -> Tensor:
    """Make gains equal that differ by rounding only; float64, NaN are -inf.

    Cells that look the same, as of a black background, give the same score; which of them is taken
    must not depend on how a batch is computed.
    """
    known = gains.double().nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    return torch.round(known / torch.finfo(gains.dtype).eps ** 0.75)


def _in_parts(work: Callable[[slice], None], count: int, size: int) -> None:
    """Go through rows part by part; where memory runs out, in smaller parts."""
    start = 0
    while start < count:
        try:
            work(slice(start, start + size))
        except Exception as error:
            if size == 1 or not ran_out_of_memory(error):
                raise
            size = (size + 1) // 2
            continue
        start += size
