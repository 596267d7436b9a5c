"""Meta-policy optimisation, held against what is left of it when its parts are taken away. (Not Maximum a posteriori
Policy Optimisation, which has the same letters.)

2-D navigation: goals in [−½, ½]², episodes of 20 steps, trials of 5 episodes. The shifted family: goals in [−1, 1]²
outside of the training range, over trials of 20 episodes (`quickstudy evaluate RUN --other test_goals=outside
test_episodes=20`).

Written before the first run: the measure is the total return of the trial on 1,000 held-out goals, paired goal by goal.

1. In distribution, MPO must not be worse than without corrections (`--correction-steps 0`), without generation either
   (`--correction-steps 0 --generates input`), and MAML-RL (`--generates nothing --kl-weight 0`).
2. On the shifted family it must be better than each of them, and than RL² (`navigation-rl2`).

MDPs that mix shared kernels: 10 states, episodes of 10 steps, trials of 10 episodes. The shifted family: what tasks do
not share is larger, over trials of 40 episodes (`--other test_residual=outside test_episodes=40`). The measure is the
total reward of the trial on 1,000 held-out MDPs, paired; the two claims are the same (RL² is `kernels-rl2`).

Mazes of one layout, in which goal and wind differ: those of maze-mml, 5×5 cells, episodes of 20 steps, trials of 100.
The shifted family: the walls of another layout, over trials of 400 steps (`--other layout=1 trial_length=400`). The
measure is the goals reached in the trial in 1,000 held-out mazes, paired; the two claims are the same (RL² is
`maze-rl2` in these mazes: `--size 5 --wind 0.3 --episode-length 20 --trial-length 100 --meta-steps 1500`).

The first runs of navigation failed both; docs/learners/mpo.md has all figures, and why the defaults have changed since.
With today's both hold on MDPs, and in navigation but for one comparison each: the recurrent hypernetwork is better in
distribution, and MAML-RL level on the shifted family. In mazes the first holds, and another layout is too far for all.
"""

import dataclasses
from typing import Annotated, Any, Literal

import quickstudy as qs
from quickstudy.config import SIZES, Above, AtLeast, Between, Inside, Training
from quickstudy.recipes.methods.rl2 import Memory, trials
from quickstudy.recipes.outer import PPO, Evolution
from quickstudy.recipes.problem import Composition, EnvironmentFamily, MethodConfig, Problem

BECK = (
    "Beck, Vuorio, Xiong, Whiteson 2023, Recurrent Hypernetworks are Surprisingly Strong in Meta-RL; Beck, Jackson, "
    "Vuorio, Whiteson 2022, Hypernetworks in Meta-Reinforcement Learning"
)
# Rate and discount, the best of {0.01, 0.03, 0.06, 0.1} × {0, 0.2, 0.5} on 200 validation goals of navigation, over 20
# episodes, with gradients clipped at the last number.
SCRATCH = (0.06, 0.0, 8.0)


@dataclasses.dataclass(frozen=True)
class MPO(MethodConfig):
    memory: Memory = Memory()
    hidden_size: Annotated[int, AtLeast(1, SIZES), "width of the inner policy's one hidden layer"] = 16
    generates: Annotated[
        Literal["all", "modulation", "input", "nothing"], "what of the inner policy the memory generates"
    ] = "all"
    correction_steps: Annotated[int, AtLeast(0, 1000), "gradient steps that correct it at the end of an episode"] = 2
    # Within the training range a learned rate shrinks, and then there is nothing left for tasks outside of it.
    learn_corrections: Annotated[
        bool, "learn the rate of corrections and, where they are unrolled, the weight of their pull, discount and λ"
    ] = False
    # Unrolled, it passes on to the encoder, and crowds out the encoder's own: corrections then stand in for what could
    # be remembered.
    adjoint: Annotated[Literal["unrolled", "first-order"], "how the meta-gradient passes through corrections"] = (
        "first-order"
    )
    weigh_shortfall: Annotated[
        bool, "weight a correction by how far the episode fell short of what the critic expected"
    ] = True
    correction_rate: Annotated[float, Above(0), "step size of a correction, or where a learned one starts"] = 1.0
    correction_discount: Annotated[float, Inside(0, 1), "discount γ of a correction's returns, or where it starts"] = (
        0.05
    )
    correction_gae_lambda: Annotated[float, Inside(0, 1), "λ of a correction's returns, or where it starts"] = 0.9
    correction_clip: Annotated[float, Above(0), "largest norm of a correction's gradient, which is cut to it"] = 0.8
    # One-hot states are as many features as an episode has steps: unheld, the baseline explains all that happened, and
    # leaves nothing to correct by.
    correction_ridge: Annotated[float, Above(0), "how much the linear baseline of an episode is held back"] = 1e-5
    test_ridge: Annotated[
        float, AtLeast(0), "ridge of an episode's linear baseline in the test (0: as in training)"
    ] = 0.0
    normalise_within: Annotated[
        bool, "bring an episode's advantages to deviation 1, so that corrections never shrink"
    ] = False
    kl_weight: Annotated[float, AtLeast(0), "weight that pulls corrected weights to the generated ones (0: none)"] = 0.0
    init_noise: Annotated[float, AtLeast(0), "deviation of the corrections that a task of training may begin with"] = (
        0.3
    )
    init_noise_share: Annotated[
        float,
        Between(0, 1),
        "share of the training tasks whose corrections begin at random, so that they learn to mend",
    ] = 0.5
    outer: PPO | Evolution = PPO()

    title, source, meets = "MPO (a generated policy, corrected by policy gradients)", BECK, "trial"
    needs = "vectors", "episodes"

    def errors(self) -> list[str]:
        found = []
        if self.correction_steps == 1 and self.kl_weight:
            found.append(
                "correction_steps must be 0 or at least 2: the weight of the pull has no gradient in the first one"
            )
        if self.memory.cell == "attention":
            found.append("cell must be gru, lstm or s5 here: attention has no state to generate from")
        return found

    def errors_with(self, problem: Problem, training: Training) -> list[str]:
        return self.outer.errors_with(training, problem.trial_length)

    def build(self, family: EnvironmentFamily, training: Training) -> Composition:
        from quickstudy.report.traces import generated_policies

        # Where there are no corrections, nothing of them is there to be learned.
        learned = self.learn_corrections and self.correction_steps > 0
        # The first-order adjoint takes inner gradients, and what shapes them, for constants.
        shaped = learned and self.adjoint == "unrolled"
        bounded, positive = (qs.Bounded, qs.Positive) if shaped else (float, float)
        inner_loss = qs.PolicyGradient(
            bounded(self.correction_discount), bounded(self.correction_gae_lambda), normalise=self.normalise_within,
            ridge=self.correction_ridge,
        )  # fmt: skip
        rate = qs.Positive(self.correction_rate) if learned else self.correction_rate
        learner = self.learner(family, inner_loss, rate, positive(self.kl_weight) if self.kl_weight else None)
        pictured = family.task_features if self.generates != "nothing" else None

        def eval_view(learner: Any) -> Any:
            inner = dataclasses.replace(learner.inner_loss, ridge=self.test_ridge or self.correction_ridge)
            return dataclasses.replace(learner, init_noise=0.0, inner_loss=inner)

        return trials(
            family, training, self.memory, self.outer, learner,
            baselines={**family.baselines(), **self.scratch(family)},
            eval_view=eval_view,
            draw_many=generated_policies(pictured) if pictured else None,
        )  # fmt: skip

    def scratch(self, family: EnvironmentFamily) -> dict[str, Any]:
        """Where actions are vectors: policy gradients in each task from scratch, tuned on navigation."""
        import jax

        if family.tasks.spec.actions:
            return {}
        rate, discount, clip = SCRATCH
        alone = dataclasses.replace(
            self, generates="nothing", correction_steps=2, correction_clip=clip,
            memory=dataclasses.replace(self.memory, memory_size=1),
        )  # fmt: skip
        family = dataclasses.replace(family, key=lambda n: jax.random.fold_in(jax.random.key(2**31), n))
        return {
            "from scratch": alone.learner(family, qs.PolicyGradient(discount, self.correction_gae_lambda), rate, None)
        }

    def learner(self, family: EnvironmentFamily, inner: Any, rate: Any, kl_weight: Any) -> Any:
        """With this inner loss, and this rate and weight of the pull, numbers or leaves."""
        import jax
        import jax.numpy as jnp

        from quickstudy.learners.generated.mpo import MPO, no_generation_yet
        from quickstudy.learners.gradient.updates import Scaled, clipped
        from quickstudy.learners.memory.recurrent import OutcomeFeedback
        from quickstudy.nn import models
        from quickstudy.nn.layers import Linear

        spec, size, generates = family.tasks.spec, self.memory.memory_size, self.generates != "nothing"
        first, second, third = jax.random.split(family.key(1), 3)
        make = models.Modulated if self.generates == "modulation" else models.MLP
        net = make((spec.observation, self.hidden_size, spec.actions or spec.dims), key=second, activation=jnp.tanh)
        start = (
            models.CategoricalPolicy(net)
            if spec.actions
            else models.GaussianPolicy(net, jnp.zeros(spec.dims), family.action_scale)
        )
        fast = {"modulation": models.modulation, "input": models.input_bias}.get(self.generates, models.everything)
        return MPO(
            self.memory.encoder(spec, first),
            start,
            no_generation_yet(start, size, fast) if generates else None,
            Linear(size, 1, key=third),
            OutcomeFeedback(spec.actions, spec.dims),
            inner,
            Scaled(rate, clipped(self.correction_clip)),
            kl_weight,
            inputs=spec.observation,
            episode=family.segment_length,
            steps=self.correction_steps,
            critic_discount=self.outer.discount if self.weigh_shortfall and generates else None,
            adjoint=qs.FirstOrder() if self.adjoint == "first-order" else qs.Unrolled(),
            fast=fast,
            scale=self.outer.value_scale,
            # Without guidance and corrections there is nothing to be made wrong, and nothing to mend it.
            init_noise=self.init_noise if self.correction_steps and generates else 0.0,
            init_noise_share=self.init_noise_share,
        )
