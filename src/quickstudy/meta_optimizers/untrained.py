"""No outer loop: the learner stays as it is. For learners without meta-parameters, which are only tested."""

from jaxtyping import Array, Key

from quickstudy.core import Batch, Learner, Memory, MetaOptimizer, Metrics, Objective


class Untrained(MetaOptimizer):
    """With `meta_steps` = 0 a run is its test: planners, and reinforcement learning from scratch."""

    population = None

    def init(self, learner: Learner) -> Memory:
        return ()

    def candidates(self, learner: Learner, memory: Memory, *, key: Key[Array, ""]) -> Learner:
        return learner

    def update(
        self, objective: Objective, learner: Learner, memory: Memory, batch: Batch, *, key: Key[Array, ""]
    ) -> tuple[Learner, Memory, Metrics]:
        score = objective.score(batch)
        return learner, memory, {"loss": -score, "diverged": score != score}
