"""XLand-MiniGrid: rulesets that can be solved, rooms that begin anew, and the network that reads them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from quickstudy.data.batches import Transition
from quickstudy.learners.memory.recurrent import ActorCritic, OutcomeFeedback, Recurrent
from quickstudy.learners.replay import scan_replay
from quickstudy.nn.cells import GRU
from quickstudy.nn.symbols import SymbolGrid

K = jax.random.key(0)
package = functools.partial(pytest.importorskip, "xminigrid", reason="the extra `xland` is not installed")


def test_reading_symbols_is_embedding_and_convolving():
    """A 2×2 convolution of one-hot symbols is one of their embeddings, for embedding is linear."""
    net = SymbolGrid(5, (13, 12), key=K)
    seen = jax.random.randint(K, (5, 5, 2), 0, 12)
    y = jnp.concatenate([jax.nn.one_hot(seen[..., 0], 13), jax.nn.one_hot(seen[..., 1], 12)], -1)[None]
    for kernel, bias in zip(net.kernels, net.biases, strict=True):
        as_conv = kernel.reshape(2, 2, y.shape[-1], -1)
        y = jax.nn.relu(
            jax.lax.conv_general_dilated(y, as_conv, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
        )
    said = net(jnp.append(seen.reshape(-1), 3).astype(jnp.uint8))
    assert said.shape == (net.features,)
    np.testing.assert_allclose(said[:-4], y.reshape(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(said[-4:], [0, 0, 0, 1])


def test_an_agent_that_reads_symbols_replays_its_trial():
    net, feedback = SymbolGrid(4, (3, 2), (4, 5, 6), key=K), OutcomeFeedback(3)
    heads = ActorCritic(8, 3, key=K, hidden=5)
    learner = Recurrent(GRU(net.features + feedback.size, 8, key=K), heads, feedback, net)
    seen = jax.random.randint(K, (4, 1, 33), 0, 2).astype(jnp.uint8)
    never = jnp.zeros((4, 1), bool)
    reward, action = jax.random.normal(K, (4, 1)), jnp.array([[0], [2], [1], [0]])
    trajectory = Transition(seen, action, reward, never, never, never, seen)
    replays = lambda state, trajectory, key: (
        learner.replay(state, trajectory, key=key),
        scan_replay(learner, state, trajectory, key=key),
    )
    ours, by_hand = jax.jit(replays)(learner.init(key=K), trajectory, jax.random.split(K, 4))
    np.testing.assert_allclose(ours.policy.logits, by_hand.policy.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours.value, by_hand.value, rtol=1e-5, atol=1e-6)
    # A hidden layer says as much as it did, but the policy begins near indifference.
    assert np.abs(ours.policy.logits).max() < 0.02 < np.abs(ours.value).max()


@pytest.mark.parametrize("benchmark", ["trivial", "small"])
def test_every_ruleset_can_be_solved_and_is_in_one_split_only(benchmark):
    package()
    from quickstudy.envs.xland import CONDITIONS, OF_ONE, XLandTasks, encodings

    tasks = XLandTasks.make(benchmark, 600)
    of_goals, of_rules, things = (numbers.tolist() for numbers in encodings())
    assert len(set(of_goals)) == len(set(of_rules)) == len(CONDITIONS) == 11
    pickable = set(map(tuple, things))
    tiles = lambda numbers: [tuple(numbers[i : i + 2]) for i in range(0, len(numbers), 2)]
    num_rules = []
    for goal, encoded, lying in zip(*(np.asarray(x).tolist() for x in jax.tree.leaves(tasks.rulesets)), strict=True):
        wanted = tiles(goal[1:])[: 1 if of_goals.index(goal[0]) < OF_ONE else 2]
        there = [thing for thing in map(tuple, lying) if thing != (0, 0)]
        assert len(set(there)) == len(there) and set(there) | set(wanted) <= pickable
        made = {}
        for number, *rest in encoded:
            if number:
                one = of_rules.index(number) < OF_ONE
                needs, (product,) = tiles(rest)[: 1 if one else 2], tiles(rest)[1 if one else 2 :][:1]
                assert set(needs) <= set(there), "what a rule needs lies there"
                assert product not in made and not set(needs) & set(wanted), "no rule takes what the goal wants"
                made[product] = needs
        used = [thing for needs in made.values() for thing in needs]
        assert len(set(used)) == len(used), "no two rules need the same"
        for thing in wanted:
            assert (thing in there) != (thing in made), "it lies there, or a rule makes it"
        num_rules.append(len(made))
    assert (max(num_rules) == 0) == (benchmark == "trivial")
    assert set(num_rules) == ({0} if benchmark == "trivial" else {0, 1, 2, 3, 4})

    told = lambda family: {
        (g.tobytes(), r.tobytes())
        for g, r in zip(np.asarray(family.rulesets.goal), np.asarray(family.rulesets.rules), strict=True)
    }
    train, validation, test = tasks.split()
    parts = [told(train), told(validation.distribution), told(test.distribution)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(told(tasks))
    assert min(map(len, parts)) > 30
    drawn = test.tasks(5)
    assert drawn.goal.shape == (5, 5) and {g.tobytes() for g in np.asarray(drawn.goal)} <= {g for g, _ in parts[2]}


def test_a_room_begins_anew_under_the_same_rules():
    package()
    from quickstudy.envs.xland import XLandTasks, packaged

    tasks = XLandTasks.make("trivial", 40)
    environment, spec = tasks.environment, tasks.spec
    assert (spec.observation, spec.actions) == (51, 6)
    steps, most = 700, packaged(environment.room)[1].max_steps

    @jax.jit
    def live(rulesets, key):
        _, state = jax.vmap(environment.reset)(jax.random.split(key, 20), rulesets)

        def step(state, key):
            act, move = jax.random.split(key)
            actions = jax.random.randint(act, (20,), 0, spec.actions)
            seen, then, reward, terminated, truncated, info = jax.vmap(environment.step)(
                jax.random.split(move, 20), state, actions, rulesets
            )
            said = seen, then.time, then.grid, reward, terminated, truncated, info["final_observation"]
            return then, said

        return state.grid, jax.lax.scan(step, state, jax.random.split(key, steps))[1]

    rulesets = tasks.batch(jax.random.split(K, 20))
    first, rollout = live(rulesets, K)
    seen, time, grid, reward, terminated, truncated, final = map(np.asarray, rollout)
    ended = terminated | truncated
    assert not (terminated & truncated).any() and terminated.sum() > 5 and truncated.sum() > 5
    before = np.concatenate([np.zeros((1, 20), int), time[:-1]]) + 1  # steps of the episode, this one included
    np.testing.assert_array_equal(time, np.where(ended, 0, before))
    np.testing.assert_array_equal(truncated, (before == most) & ~terminated)
    np.testing.assert_allclose(reward, np.where(terminated, 1 - 0.9 * before / most, 0), rtol=1e-5)
    np.testing.assert_array_equal(seen[~ended], final[~ended])
    assert (seen[ended] != final[ended]).any(-1).mean() > 0.9
    # The same objects lie elsewhere.
    objects = lambda grid: sorted(map(tuple, grid.reshape(-1, 2)[grid.reshape(-1, 2)[:, 0] > 2].tolist()))
    where = zip(*np.nonzero(ended), strict=True)
    for moment, room in list(where)[:10]:
        assert objects(grid[moment, room]) == objects(np.asarray(first)[room])
        assert (grid[moment, room] != np.asarray(first)[room]).any()


def test_another_number_of_rulesets_is_another_split():
    package()
    from quickstudy.envs.xland import XLandTasks

    make = lambda num: XLandTasks.make("trivial", num).split().test.identity()
    assert make(60) == make(60) != make(50)  # which `quickstudy evaluate --other rulesets=50` refuses


def test_what_is_not_known_is_refused():
    package()
    from quickstudy.envs.xland import XLandTasks

    with pytest.raises(ValueError, match="there are trivial, small"):
        XLandTasks.make("high")
    with pytest.raises(ValueError, match="XLand-MiniGrid-R1-9x9"):
        XLandTasks.make("small", room="MiniGrid-Empty-8x8")


def test_without_the_package_the_error_names_the_extra(monkeypatch):
    import sys

    from quickstudy.envs.xland import XLandTasks

    monkeypatch.setitem(sys.modules, "xminigrid", None)
    with pytest.raises(ImportError, match=r"quickstudy\[xland\]"):
        XLandTasks.make("small")
