"""VariBAD: the ELBO in plain numpy, the policy's gradient with and without the encoder, what is drawn of a belief."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from per_task import BLANK
from quickstudy.data.batches import Output, RolloutBatch
from quickstudy.data.distributions import Gaussian
from quickstudy.evaluate.config import EvaluationConfig
from quickstudy.learners.inference.varibad import Decoder, Latent, VariBAD, divergence, reconstruction
from quickstudy.learners.memory.recurrent import ActorCritic, Heads, OutcomeFeedback, Recurrent
from quickstudy.nn.cells import GRU
from quickstudy.nn.models import MLP, Chain
from quickstudy.objectives.trial import Trial
from quickstudy.parameters import combine, partition
from quickstudy.recipes import recipe_of
from quickstudy.report.drawings import tasks as task_pictures
from quickstudy.report.traces import goals, grid_beliefs
from quickstudy.rl import losses
from quickstudy.tasks.bandits import Bandits
from quickstudy.tasks.mazes import GoalGrids

K = jax.random.split(jax.random.key(11), 8)
PPO = ((1.0, losses.ppo(0.2)), (0.5, losses.value), (0.01, losses.entropy))
ELBO = ((1.0, reconstruction), (1.0, divergence))
TASKS, TRIAL = GoalGrids(3, episode=3), 6


def agent(latent=1, observation=9, actions=5, through=False, **decoder) -> VariBAD:
    feedback = OutcomeFeedback(actions)
    return VariBAD(
        Recurrent(GRU(observation + feedback.size, 6, key=K[0]), Latent(6, latent, key=K[1]), feedback),
        Chain([MLP((observation + 2 * latent, 7), key=K[2]), jnp.tanh]),
        ActorCritic(7, actions, key=K[3]),
        Decoder(latent, observation, actions, key=K[4], hidden=4, **decoder),
        through,
    )


@eqx.filter_jit
def gradients(learner, objective, batch):
    """The mean loss of the tasks, and its gradient."""
    learned, rest = partition(learner)
    return jax.value_and_grad(lambda learned: objective.loss(combine(learned, rest), batch)[0].mean())(learned)


@eqx.filter_jit
def collected(learner, objective, tasks, num):
    return objective.collect(
        learner, BLANK, tasks.batch(jax.random.split(K[5], num)), keys=jax.random.split(K[6], num)
    )[0]


def rolled_out(learner) -> RolloutBatch:
    return collected(learner, Trial(TASKS.environment, trial_length=TRIAL, terms=PPO), TASKS, 1)


def alike(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **{"rtol": 1e-4, "atol": 1e-6, **tolerance})


def believing(mean, std) -> Gaussian:
    """A Gaussian a moment [moments, latent], as replays say it."""
    return jax.vmap(jax.vmap(Gaussian))(jnp.asarray(mean)[:, None], jnp.asarray(std)[:, None])


# --- numpy's own decoder ------------------------------------------------------------------------------------------


def dense(net: MLP, x):
    for layer in net.layers[:-1]:
        x = np.maximum(layer.weight @ x + layer.bias, 0)
    return net.layers[-1].weight @ x + net.layers[-1].bias


def said(bilinear, m, step):
    return dense(bilinear.task, m).reshape(bilinear.outputs, -1) @ dense(bilinear.step, step)


def normal(x, mean, std):
    return (-0.5 * ((x - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum()


def surprise(decoder: Decoder, m, transition) -> float:
    """Mean −log p of the steps of a trial in the task m."""
    of_steps = []
    for i in range(TRIAL):
        t = jax.tree.map(lambda x: x[i, 0], transition)
        before = np.concatenate([t.observation, np.eye(5)[int(t.action)]])
        told = said(decoder.reward, m, t.next_observation if decoder.arrival else np.append(before, t.next_observation))
        if decoder.values is None:
            log_p = normal(t.reward, told[0], np.exp(decoder.reward_noise.log))
        else:
            log_p = told[np.flatnonzero(np.isclose(decoder.values, t.reward))[0]] - np.log(np.exp(told).sum())
        if decoder.transition is not None:
            log_p += normal(
                t.next_observation, said(decoder.transition, m, before), np.exp(decoder.transition_noise.log)
            )
        of_steps.append(log_p)
    return -np.mean(of_steps)


@pytest.fixture(scope="module", params=["goal or not", "numbers and transitions"])
def reconstructed(request):
    """(a term's value for beliefs of given means and deviations, the decoder, the trial)."""
    choices = {"values": (-0.1, 1.0), "arrival": True} if request.param == "goal or not" else {"transitions": True}
    learner = agent(**choices)
    rollout = jax.tree.map(lambda x: x[0], rolled_out(learner))

    @jax.jit
    def term(mean, std, key):
        told = dataclasses.replace(rollout, loss_key=key)
        return reconstruction(learner, Output(prediction=believing(mean, std)), told)

    in_numpy = lambda tree: jax.tree.map(lambda x: np.asarray(x, float), tree)
    return term, in_numpy(learner.decoder), in_numpy(rollout.transition)


def test_every_moment_reconstructs_every_step_past_and_future(reconstructed):
    term, decoder, transition = reconstructed
    mean = np.linspace(-2, 2, TRIAL)[:, None]
    by_hand = np.mean([surprise(decoder, m, transition) for m in mean])
    np.testing.assert_allclose(term(mean, np.full_like(mean, 1e-9), K[7]), by_hand, rtol=1e-5)


def test_the_latent_is_drawn_from_the_belief(reconstructed):
    """The mean over draws is the expectation, by Gauss–Hermite quadrature in the one dimension."""
    term, decoder, transition = reconstructed
    mean, std = 0.3, 1.5
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    at_nodes = np.array([surprise(decoder, np.array([mean + std * node]), transition) for node in nodes])
    expected = weights @ at_nodes / weights.sum()
    full = lambda value: np.full((TRIAL, 1), value)
    drawn = jax.vmap(lambda key: term(full(mean), full(std), key))(jax.random.split(K[7], 2000))
    assert abs(drawn.mean() - expected) < 4 * drawn.std() / np.sqrt(len(drawn)) + 1e-3
    # A wrong deviation would be seen.
    wrong = weights @ np.array([surprise(decoder, np.array([mean + node]), transition) for node in nodes])
    assert abs(wrong / weights.sum() - expected) > 10 * drawn.std() / np.sqrt(len(drawn))


def test_the_divergence_is_the_closed_form_from_belief_to_belief():
    mean, log_variance = np.random.default_rng(0).normal(size=(2, TRIAL, 3))
    learner = agent(values=(-0.1, 1.0), arrival=True)
    rollout = jax.tree.map(lambda x: x[0], rolled_out(learner))
    latent = believing(mean, np.exp(0.5 * log_variance))
    value = lambda is_first: divergence(
        learner, Output(prediction=latent), dataclasses.replace(rollout, is_first=jnp.asarray(is_first))
    )
    before = np.concatenate([np.zeros((1, 3)), mean[:-1]]), np.concatenate([np.zeros((1, 3)), log_variance[:-1]])
    kl = 0.5 * (np.exp(log_variance - before[1]) + (mean - before[0]) ** 2 / np.exp(before[1]) - 1)
    kl = (kl - 0.5 * (log_variance - before[1])).sum(1)
    np.testing.assert_allclose(value(True), kl.mean() / TRIAL, rtol=1e-5)
    np.testing.assert_allclose(value(False), kl[1:].sum() / TRIAL / TRIAL, rtol=1e-5)


class ThroughLatent(Heads):
    latent: Latent
    body: Chain
    heads: ActorCritic

    def __call__(self, features):
        believed = self.latent(features).prediction
        return self.heads(self.body(jnp.concatenate([believed.mean, 2 * jnp.log(believed.std)])))


def test_without_a_decoder_it_is_the_plain_recurrent_actor_critic():
    """The policy's loss let through and the decoder's weight 0: the same network in RL²'s place, nothing observed."""
    ours = agent(2, 0, 3, through=True)
    plain = Recurrent(
        ours.encoder.cell, ThroughLatent(ours.encoder.heads, ours.body, ours.heads), ours.encoder.feedback
    )
    tasks = Bandits(3)
    trial = Trial(tasks.environment, trial_length=5, terms=PPO)
    batch = collected(plain, trial, tasks, 4)
    batch = dataclasses.replace(batch, log_prob=batch.log_prob - 0.1)  # where ratios are not 1
    weightless = dataclasses.replace(trial, terms=(*PPO, *((0.0, term) for _, term in ELBO)))
    loss, gradient = gradients(ours, weightless, batch)
    plain_loss, plain_gradient = gradients(plain, trial, batch)
    alike(loss, plain_loss)
    alike((gradient.encoder.cell, gradient.encoder.heads), (plain_gradient.cell, plain_gradient.heads.latent))
    alike((gradient.body, gradient.heads), (plain_gradient.heads.body, plain_gradient.heads.heads))
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient.decoder))


def test_the_policy_and_the_belief_learn_apart():
    learner = agent(transitions=True)
    batch = rolled_out(learner)
    moved = lambda gradient: [bool((leaf != 0).any()) for leaf in jax.tree.leaves(gradient)]
    _, of_policy = gradients(learner, Trial(TASKS.environment, trial_length=TRIAL, terms=PPO), batch)
    _, of_belief = gradients(learner, Trial(TASKS.environment, trial_length=TRIAL, terms=ELBO), batch)
    assert not any(moved((of_policy.encoder, of_policy.decoder))) and all(moved((of_policy.body, of_policy.heads)))
    assert all(moved((of_belief.encoder, of_belief.decoder))) and not any(moved((of_belief.body, of_belief.heads)))


def test_what_is_drawn_is_where_the_goal_is_believed_to_be():
    learner = agent(values=(-0.1, 1.0), arrival=True)
    sure = Gaussian(jnp.array([0.7]), jnp.array([1e-9]))
    logits = np.stack([said(learner.decoder.reward, np.array([0.7]), cell) for cell in np.eye(9)])
    drawn = jax.jit(lambda: goals(learner.decoder, sure, 9, key=K[7], draws=3))()
    np.testing.assert_allclose(drawn, 1 / (1 + np.exp(logits[:, 0] - logits[:, 1])), rtol=1e-5)
    trial = Trial(TASKS.environment, trial_length=TRIAL, terms=PPO)
    task, rollout = (
        jax.tree.map(lambda x: x[0], tree) for tree in (TASKS.batch(jax.random.split(K[5], 1)), rolled_out(learner))
    )
    arrays = grid_beliefs(learner, EvaluationConfig(trial), task, rollout)
    assert arrays["moments"].tolist() == [0, 4] and arrays["believed"].shape == (2, 9)
    stacked = {name: np.stack([array] * 5) for name, array in arrays.items()}
    figure = task_pictures.tasks(grid_beliefs.kind, {**stacked, "task": np.arange(5), "value": np.zeros(5)}, "return")
    assert [text.get_text() for text in figure.axes[0].texts] == ["after 0", "after 4"]


@pytest.mark.parametrize("wrong", [{"latent": 0}, {"reconstruction": -1.0}, {"episodes": 0}])
def test_the_recipe_says_what_is_wrong(wrong):
    assert not recipe_of("grid-varibad").errors()
    assert next(iter(wrong)) in " ".join(recipe_of("grid-varibad").changed(**wrong).errors())
