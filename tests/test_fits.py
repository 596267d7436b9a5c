"""What does not fit together is told before anything is compiled, in a person's words."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import pytest

import quickstudy as qs
import registry
from quickstudy.nn.models import MLP, CategoricalPolicy, Predictor
from quickstudy.objectives.few_shot import FewShot
from quickstudy.objectives.online import Online
from quickstudy.objectives.trial import Trial
from quickstudy.tasks.sinusoid import Sinusoids

KEYS = jax.random.split(jax.random.key(0), 3)


class Ill(eqx.Module):
    """An environment that keeps its interface, but for what `how` names."""

    how: str = eqx.field(static=True, default="")

    def reset(self, key, params):
        return jnp.zeros(2), jnp.zeros(())

    def step(self, key, state, action, params):
        ill = lambda name, one, other: other if self.how == name else one
        observation = ill("size", jnp.zeros(2), jnp.zeros(3))
        reward = ill("reward", jnp.zeros(()), jnp.zeros(1))
        terminated = ill("flag", jnp.zeros((), bool), jnp.zeros(()))
        info = ill("info", {"final_observation": jnp.zeros(2)}, {})
        state = ill("state", state + 1, jnp.zeros(4))
        six = observation, state, reward, terminated, jnp.zeros((), bool), info
        return ill("five", six, (*six[:4], info))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("size", r"changes the observation from \(2,\) float32, as reset gave it, to \(3,\) float32"),
        ("reward", r"one number as reward, got \(1,\) float32: take one, or a sum"),
        ("flag", r"one truth value as terminated, got \(\) float32: give terminated > 0"),
        ("info", r'info\["final_observation"\], and it is missing'),
        ("state", r"changes the state from \(\) float32.*to \(4,\)"),
        ("five", "got 5 values: of `done` make terminated and truncated"),
    ],
)
def test_an_ill_environment_is_refused_with_what_its_step_must_return(how, says):
    policy = registry.REGISTRY["reinforce"].make()
    trial = lambda how: Trial(Ill(how), 4, segment_length=4, baseline="none")
    tasks = jnp.zeros((3, 2))
    trial("").init(policy, tasks, keys=KEYS)
    with pytest.raises(qs.Incompatible, match=says):
        trial(how).init(policy, tasks, keys=KEYS)


@pytest.fixture
def as_used():
    """Without the checks of types that run while the tests do: they would be the first to complain."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_learners_that_do_not_fit_are_refused_with_the_reason(as_used):
    sinusoids, arms = Sinusoids().batch(KEYS), jnp.zeros((3, 2))
    trial = Trial(Ill(), 4, segment_length=4, baseline="none")
    chooses = lambda loss, inputs: qs.Gradient(CategoricalPolicy(net(inputs, 2)), loss, qs.SGD(0.1))
    net = lambda inputs, outputs: MLP((inputs, 4, outputs), key=jax.random.key(0))
    supervised = lambda n: qs.Gradient(Predictor(net(n, 1)), qs.Supervised(), qs.SGD(0.1))
    for objective, learner, tasks, says in (
        (FewShot(), supervised(7), sinusoids, r"x \(1,\) float32 and y .* a layer made for 7 numbers is given 1"),
        (FewShot(), registry.REGISTRY["dqn"].make(), sinusoids, "DQN .*`action`, so it learns from environments"),
        (FewShot(), registry.REGISTRY["rl2-gru"].make(), sinusoids, "Recurrent .*`action`.*; take Trial"),
        (Online(), registry.REGISTRY["ppo"].make(), sinusoids.support, "OnPolicy .*; take Trial"),
        (trial, supervised(2), arms, "Trial acts with a policy, and Gradient returns none"),
        (trial, chooses(qs.PolicyGradient(), 9), arms, "made for 9 numbers is given 2"),
        (trial, chooses(qs.Supervised(), 2), arms, "take FewShot or Online"),
    ):
        with pytest.raises(qs.Incompatible, match=says):
            objective.init(learner, tasks, keys=KEYS)
