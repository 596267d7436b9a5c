"""Distributions over actions."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key


class Policy(eqx.Module):
    """A distribution over the actions of one moment."""

    @abc.abstractmethod
    def sample(self, *, key: Key[Array, ""]) -> Array: ...

    @abc.abstractmethod
    def log_prob(self, action: Array) -> Float[Array, ""]: ...

    @abc.abstractmethod
    def entropy(self) -> Float[Array, ""]: ...

    @abc.abstractmethod
    def kl(self, other: Any) -> Float[Array, ""]:
        """KL(self ‖ other) in nats; `other` is of the same kind."""

    @abc.abstractmethod
    def mode(self) -> Array: ...


class Categorical(Policy):
    """A choice among as many actions as there are logits (unnormalised log-probabilities)."""

    logits: Float[Array, "actions"]

    def sample(self, *, key: Key[Array, ""]) -> Int[Array, ""]:
        return jax.random.categorical(key, self.logits)

    def log_prob(self, action: Int[Array, ""]) -> Float[Array, ""]:
        # A one-hot product, not an index: its derivative is a product too, where an index scatters.
        return self._log_probs() @ jax.nn.one_hot(action, self.logits.shape[-1])

    def entropy(self) -> Float[Array, ""]:
        log_probs = self._log_probs()
        return -(jnp.exp(log_probs) @ log_probs)

    def kl(self, other: "Categorical") -> Float[Array, ""]:
        ours, theirs = self._log_probs(), other._log_probs()
        return jnp.exp(ours) @ (ours - theirs)

    def _log_probs(self) -> Float[Array, "actions"]:
        """Finite, so that what is never chosen counts for nothing: 0 times infinity would be no number."""
        return jnp.maximum(jax.nn.log_softmax(self.logits), -1e30)

    def mode(self) -> Int[Array, ""]:
        return jnp.argmax(self.logits).astype(jnp.int32)


class Gaussian(Policy):
    """Independent normal distributions with the given means and standard deviations."""

    mean: Float[Array, "dims"]
    std: Float[Array, "dims"]

    def sample(self, *, key: Key[Array, ""]) -> Float[Array, "dims"]:
        return self.mean + self.std * jax.random.normal(key, self.mean.shape)

    def log_prob(self, action: Float[Array, "dims"]) -> Float[Array, ""]:
        return jax.scipy.stats.norm.logpdf(action, self.mean, self.std).sum()

    def entropy(self) -> Float[Array, ""]:
        return (0.5 + 0.5 * jnp.log(2 * jnp.pi) + jnp.log(self.std)).sum()

    def kl(self, other: "Gaussian") -> Float[Array, ""]:
        ratio, apart = self.std / other.std, (self.mean - other.mean) / other.std
        return (0.5 * (ratio**2 + apart**2 - 1) - jnp.log(ratio)).sum()

    def mode(self) -> Float[Array, "dims"]:
        return self.mean


class Deterministic(Policy):
    """One action for certain, as baselines choose; it has no density, so nothing can be differentiated through it."""

    action: Array

    def sample(self, *, key: Key[Array, ""]) -> Array:
        del key
        return self.action

    def log_prob(self, action: Array) -> Float[Array, ""]:
        return jnp.where((action == self.action).all(), 0.0, -jnp.inf)

    def kl(self, other: "Deterministic") -> Float[Array, ""]:
        return -other.log_prob(self.action)

    def entropy(self) -> Float[Array, ""]:
        return jnp.zeros(())

    def mode(self) -> Array:
        return self.action
