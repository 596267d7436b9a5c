"""The strategies everything is measured against: published indices, exact values, posteriors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from per_task import BLANK, per_task
from quickstudy.baselines import bandits
from quickstudy.baselines.gittins import indices
from quickstudy.baselines.sinusoid_posterior import SinusoidPosterior
from quickstudy.data.batches import Labelled, Transition
from quickstudy.objectives.trial import Trial
from quickstudy.tasks.bandits import Bandits
from quickstudy.tasks.sinusoid import Sinusoids
from registry import K


@pytest.mark.parametrize(
    ("discount", "published"),
    [  # Gittins 1979 and Gittins, Glazebrook, Weber 2011: Beta(1,1), (2,1), (1,2), (2,2)
        (0.9, [0.7029, 0.8001, 0.5001, 0.6346]),
        (0.95, [0.7614, 0.8381, 0.5601, 0.6810]),
        (0.99, [0.8699, 0.9102, 0.7005, 0.7844]),
    ],
)
def test_gittins_indices_are_the_published_ones(discount, published):
    table = indices(3, discount)
    np.testing.assert_allclose([table[0, 0], table[1, 0], table[0, 1], table[1, 1]], published, atol=1.5e-4)


def test_the_index_is_above_the_mean_and_nears_it():
    table = indices(40, 0.9)
    assert table[0, 0] > 0.5 and table[5, 5] > 0.5
    assert table[20, 20] - 0.5 < table[2, 2] - 0.5
    with pytest.raises(ValueError, match="discount"):
        indices(3, 1.0)


def test_a_lookahead_too_short_says_so():
    """At γ = .9999 the future of an arm weighs more than 20 pulls can tell."""
    with pytest.raises(ValueError, match=r"uncertain by .* lookahead=20"):
        indices(3, 0.9999, lookahead=20)
    near, far = indices(3, 0.99, lookahead=300), indices(3, 0.99, lookahead=900)
    np.testing.assert_allclose(near, far, atol=1e-3)
    assert np.isnan(far[3, 1]) and not np.isnan(far[3, 0])


def test_after_its_table_the_index_is_the_mean():
    learner = bandits.gittins(2, pulls=3, discount=0.9)
    won, lost = jnp.array([5.0, 1.0]), jnp.array([1.0, 0.0])
    index = learner.index(won, lost, K)
    np.testing.assert_allclose(index, [6 / 8, indices(3, 0.9)[1, 0]], rtol=1e-6)


def after(learner, arms, rewards):
    n = len(arms)
    never, none = jnp.zeros(n, bool), jnp.zeros((n, 0))
    t = Transition(none, jnp.asarray(arms), jnp.asarray(rewards, float), never, never, never, none)
    state = learner.adapt(learner.init(key=K), t, key=K)
    return state, int(learner.apply(state, jnp.zeros(0)).policy.mode())


def test_counts_and_choices():
    state, choice = after(bandits.bayes_greedy(3), [0, 1, 0, 2], [1, 0, 1, 1])
    assert state.won.tolist() == [2, 0, 1] and state.lost.tolist() == [0, 1, 0]
    assert choice == 0  # 3/4 against 1/3 and 2/3
    assert after(bandits.bayes_greedy(3), [0, 0], [1, 0])[1] == 1  # all means are ½: the least known, then the first
    at_random = bandits.bayes_greedy(5, ties="random")
    first = jax.vmap(lambda key: at_random.apply(at_random.init(key=key), jnp.zeros(0)).policy.mode())
    shares = np.bincount(first(jax.random.split(K, 20_000)), minlength=5) / 20_000
    np.testing.assert_allclose(shares, 0.2, atol=0.012)  # four standard errors
    assert after(bandits.ucb1(3), [0, 0, 0, 0], [1, 1, 0, 0])[1] == 1  # means ½ all, the bonus decides
    assert after(bandits.ucb1(3, scale=0.01), [0, 1], [1, 0])[1] == 0  # with hardly any bonus it is greedy


def test_thompson_draws_from_the_posterior_when_it_adapts_and_never_in_apply():
    learner = bandits.thompson(2)
    draw = lambda k: learner.index(jnp.array([8.0, 2]), jnp.array([2.0, 8]), k)
    drawn = jax.vmap(draw)(jax.random.split(K, 20_000))
    np.testing.assert_allclose(drawn.mean(0), [9 / 12, 3 / 12], atol=0.01)
    # The same experience and another key is another draw, and `apply` has no key to draw with.
    pull = Transition(jnp.zeros((1, 1)), jnp.zeros(1, int), jnp.ones(1), *jnp.zeros((3, 1), bool), jnp.zeros((1, 1)))
    states = jax.vmap(lambda k: learner.adapt(learner.init(key=K), pull, key=k))(jax.random.split(K, 50))
    chosen = jax.vmap(lambda s: learner.apply(s, jnp.zeros(1)).policy.mode())(states)
    assert 0 < int(chosen.sum()) < 25


def test_baselines_score_what_the_table_says():
    """Ten pulls of five arms (Duan et al. 2016, table 1): greedy 6.6, Gittins 6.6, Thompson 5.7."""
    tasks = Bandits(5)
    trial = Trial(tasks.environment, trial_length=10, baseline="none")
    sampled = tasks.split().test.tasks(20_000)

    def score(learner):
        return float(trial.score(trial.collect(learner, BLANK, sampled, keys=per_task(sampled, K))[0]).mean())

    # Expectations by dynamic programming over the counts; the standard error of a score is 0.015.
    assert score(bandits.bayes_greedy(5)) == pytest.approx(6.657, abs=0.05)
    least, random = (
        trial.score(trial.collect(bandits.bayes_greedy(5, ties=ties), BLANK, sampled, keys=per_task(sampled, K))[0])
        for ties in ("least pulled", "random")
    )
    assert float((least - random).mean()) == pytest.approx(6.657 - 6.626, abs=0.025)  # on the same tasks
    assert score(bandits.gittins(5, pulls=10, discount=0.9)) == pytest.approx(6.62, abs=0.08)
    # the paper averages over 1,000 tasks, which has a standard error of 0.07
    assert score(bandits.thompson(5)) == pytest.approx(5.7, abs=0.15)


def test_the_sinusoid_posterior_knows_the_function_after_five_points():
    learner = SinusoidPosterior()
    e = jax.tree.map(lambda x: x[0], Sinusoids(5, 20).batch(jax.random.split(K, 1)))
    predict = lambda state: jax.vmap(lambda x: learner.apply(state, x).prediction)(e.query.x)
    prior, posterior = learner.init(key=K), learner.adapt(learner.init(key=K), e.support, key=K)
    error = lambda state: float(((predict(state) - e.query.y) ** 2).mean())
    assert error(posterior) < 1e-3 < error(prior)
    one = learner.adapt(prior, Labelled(e.support.x[:1], e.support.y[:1]), key=K)
    np.testing.assert_allclose(learner.apply(one, e.support.x[0]).prediction, e.support.y[0], atol=0.05)
