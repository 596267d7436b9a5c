"""Train in one family of environments, test in another that was never seen."""

from jaxtyping import Array, Key, PyTree

from quickstudy.core import Incompatible, Splits
from quickstudy.envs.spec import Environment, EnvironmentTasks, Spec


class Transfer(EnvironmentTasks):
    """Tasks of `family`; held out are those of `unseen`, whose environment the objective of the evaluation must step.

    Raises `Incompatible` where a learner built for the one would not fit the other.
    """

    family: EnvironmentTasks
    unseen: EnvironmentTasks

    def __check_init__(self):
        if self.family.spec != self.unseen.spec:
            raise Incompatible(f"observations and actions differ: {self.family.spec} and {self.unseen.spec}")

    @property
    def environment(self) -> Environment:
        return self.family.environment

    @property
    def spec(self) -> Spec:
        return self.family.spec

    def sample(self, *, key: Key[Array, ""]) -> PyTree:
        return self.family.sample(key=key)

    def split(self) -> Splits:
        held_out = self.unseen.split()
        return Splits(self.family.split().train, held_out.validation, held_out.test)
