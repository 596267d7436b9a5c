"""VariBAD (Zintgraf et al. 2020): RL²'s tasks and protocol, a belief in the place of a hidden state.

The paper trains the belief on trajectories of a buffer, apart from A2C's batches, for 10⁸ steps; here both are terms of
one loss on the same trials, and the policy's is PPO's.
"""

import dataclasses
from typing import TYPE_CHECKING

from quickstudy.recipes.grid import ZINTGRAF, GridRL2
from quickstudy.recipes.mpo import NavigationTrial
from quickstudy.recipes.rl2 import RL2

if TYPE_CHECKING:
    from quickstudy.core import Learner
    from quickstudy.envs.spec import Spec
    from quickstudy.evaluate.config import Trace
    from quickstudy.rl.losses import LossTerm


@dataclasses.dataclass(frozen=True)
class VariBADRecipe(RL2):
    latent: int = 5  # dimensions of the belief
    policy_size: int = 32  # of the policy's two hidden layers
    decoder_size: int = 32  # of the decoder's hidden layers, and features of a task and of a step
    foretelling: float = 1.0  # weight of −ELBO, in nats per step
    divergence: float = 1.0  # weight of the KL within it
    transitions: bool = False  # foretell those too
    through: bool = False  # let the policy's loss reach the encoder

    def errors(self) -> list[str]:
        wrong = super().errors()
        wrong += self.must("be at least 1", lambda x: x >= 1, "latent", "policy_size", "decoder_size")
        return wrong + self.must("not be negative", lambda x: x >= 0, "foretelling", "divergence")

    def rewards(self) -> tuple[float, ...] | None:
        """What a reward may be; None: any number."""
        return None

    def agent(self, spec: "Spec", trial_length: int) -> "Learner":
        import jax
        import jax.numpy as jnp

        from quickstudy.learners.inference.varibad import Decoder, Latent, VariBAD
        from quickstudy.nn.models import MLP, Chain

        remember, believe, act, choose, foretell = jax.random.split(jax.random.fold_in(jax.random.key(self.seed), 1), 5)
        sizes = spec.observation + 2 * self.latent, self.policy_size, self.policy_size
        return VariBAD(
            self.memory(spec, trial_length, Latent(self.size, self.latent, key=believe), remember),
            Chain([MLP(sizes, key=act, activation=jnp.tanh), jnp.tanh]),
            self.actor_critic(spec, self.policy_size, choose),
            Decoder(
                self.latent,
                spec.observation,
                spec.actions,
                key=foretell,
                dims=spec.dims,
                hidden=self.decoder_size,
                values=self.rewards(),
                arrival=self.rewards() is not None,
                transitions=self.transitions,
            ),
            self.through,
        )

    def further_terms(self) -> "tuple[tuple[float, LossTerm], ...]":
        from quickstudy.learners.inference.varibad import divergence, reconstruction

        return (self.foretelling, reconstruction), (self.foretelling * self.divergence, divergence)


@dataclasses.dataclass(frozen=True)
class GridVariBAD(GridRL2, VariBADRecipe):
    meta_steps: int = 3000
    entropy: float = 0.02  # of the policy: until the belief tells goals apart, every way must stay open
    curriculum: tuple[tuple[int, int], ...] = ()

    name = "grid-varibad"
    description = "VariBAD on 5×5 grids with a hidden goal: a belief over goals, and a policy that acts on it"
    expected = "3.7, 9.0, 11.0 and 11.0 in the four episodes; the best explorer has 11.14 from the second on"
    source = ZINTGRAF

    def rewards(self) -> tuple[float, ...]:
        from quickstudy.tasks.mazes import GoalGrids

        environment = GoalGrids().environment
        return environment.step_reward, environment.goal_reward

    def drawing(self) -> "Trace":
        from quickstudy.report.traces import grid_beliefs

        return grid_beliefs


@dataclasses.dataclass(frozen=True)
class NavigationVariBAD(NavigationTrial, VariBADRecipe):
    name = "navigation-varibad"
    description = "VariBAD on 2-D navigation: a belief over where the goal is, and a policy that acts on it"
    expected = "return -9.3 over 5 episodes (RL² -5.6, optimum -2.5), after as many trials as RL²"
    source = ZINTGRAF
