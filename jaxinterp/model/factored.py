"""Matrices of low rank as their factors, and the two that every head is: what it looks for, and what it moves."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxinterp.model.config import TransformerConfig
from jaxinterp.model.layers import at_least_float32
from jaxinterp.model.params import Params, check_params
from jaxinterp.model.transformer import Transformer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FactoredMatrix:
    """The product of a tall and a wide matrix, kept apart: nothing as large as the product is made unless asked for.

    Attributes:
      left: [..., m, rank]. right: [..., rank, n].

    Example:
      >>> circuit = ji.ov_circuit(model, params)
      >>> circuit.shape, circuit.rank
      ((2, 4, 32, 32), 8)
      >>> full_circuit = params["W_E"] @ circuit @ params["W_E"].T
      >>> (jnp.ones(32) @ circuit).shape  # of a vector the array itself
      (2, 4, 32)
      >>> full_circuit.shape[-2:] == (len(params["W_E"]),) * 2
      True
    """

    left: jax.Array
    right: jax.Array

    def __post_init__(self) -> None:
        shapes = jnp.shape(self.left), jnp.shape(self.right)
        if all(shapes) and (min(map(len, shapes)) < 2 or shapes[0][-1] != shapes[1][-2]):
            raise ValueError(f"left must be [..., m, rank] and right [..., rank, n], got {shapes[0]} and {shapes[1]}")

    __array_ufunc__ = None  # so that `numpy_array @ factored` comes to `__rmatmul__`

    @property
    def shape(self) -> tuple[int, ...]:
        """[..., m, n]."""
        batch = jnp.broadcast_shapes(jnp.shape(self.left)[:-2], jnp.shape(self.right)[:-2])
        return (*batch, jnp.shape(self.left)[-2], jnp.shape(self.right)[-1])

    @property
    def rank(self) -> int:
        """The most that the product's rank can be."""
        return jnp.shape(self.left)[-1]

    @property
    def product(self) -> jax.Array:
        """The matrix itself, [..., m, n]."""
        return self.left @ self.right

    @property
    def T(self) -> "FactoredMatrix":
        """Each matrix transposed, [..., n, m]."""
        return FactoredMatrix(jnp.swapaxes(self.right, -1, -2), jnp.swapaxes(self.left, -1, -2))

    def __getitem__(self, index: Any) -> "FactoredMatrix":
        """Some of a stack of matrices: an index into the leading axes alone."""
        batch = self.shape[:-2]
        if len(index if isinstance(index, tuple) else (index,)) > len(batch):
            raise IndexError(f"index {index!r} goes beyond the leading axes {batch}: take entries of `product`")
        whole = (jnp.broadcast_to(part, (*batch, *jnp.shape(part)[-2:])) for part in (self.left, self.right))
        return FactoredMatrix(*(part[index] for part in whole))

    def __matmul__(self, other: Any) -> Any:
        """Times a factored matrix, a matrix (which stays factored), or a vector [n] (the array [..., m])."""
        if isinstance(other, FactoredMatrix):
            middle = self.right @ other.left
            if middle.shape[-2] <= middle.shape[-1]:  # the smaller rank stays
                return FactoredMatrix(self.left, middle @ other.right)
            return FactoredMatrix(self.left @ middle, other.right)
        if jnp.ndim(other) == 1:
            return (self.left @ (self.right @ other)[..., None])[..., 0]
        return FactoredMatrix(self.left, self.right @ other)

    def __rmatmul__(self, other: Any) -> Any:
        """A matrix (which stays factored) or a vector [m] (the array [..., n]) times this."""
        return self.T @ other if jnp.ndim(other) == 1 else FactoredMatrix(other @ self.left, self.right)

    def norm(self) -> jax.Array:
        """The Frobenius norm of each matrix, [...]; float32 at least, as all that follows."""
        left, right = at_least_float32(self.left), at_least_float32(self.right)
        left, right = jnp.swapaxes(left, -1, -2) @ left, right @ jnp.swapaxes(right, -1, -2)
        return jnp.sqrt(jnp.maximum(jnp.sum(left * jnp.swapaxes(right, -1, -2), axis=(-2, -1)), 0))

    def svd(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """(U [..., m, r], singular values [..., r] from the largest, Vh [..., r, n]); r is at most the rank."""
        left, inner = jnp.linalg.qr(at_least_float32(self.left))
        right, outer = jnp.linalg.qr(jnp.swapaxes(at_least_float32(self.right), -1, -2))
        U, values, Vh = jnp.linalg.svd(inner @ jnp.swapaxes(outer, -1, -2), full_matrices=False)
        return left @ U, values, Vh @ jnp.swapaxes(right, -1, -2)

    def eigenvalues(self) -> jax.Array:
        """The eigenvalues of each square matrix that can differ from 0, [..., rank], complex, in no order. CPU only.

        Raises:
          ValueError: a matrix that is not square.
        """
        if self.shape[-2] != self.shape[-1]:
            raise ValueError(f"only square matrices have eigenvalues, got {self.shape[-2]} by {self.shape[-1]}")
        return jnp.linalg.eigvals(at_least_float32(self.right) @ at_least_float32(self.left))


def qk_circuit(model: Transformer, params: Params) -> FactoredMatrix:
    """`W_Q W_K^T` of every head, [layer, head, d_model, d_model]: what in a query's stream looks for what in a key's.

    Scores are `x_query @ qk @ x_key` times `config.scale`, of normalised streams, without biases and where positions
    do not rotate. Under grouped queries each head is paired with the keys that it reads. (Elhage et al. 2021, "A
    Mathematical Framework for Transformer Circuits".)

    Example:
      >>> ji.qk_circuit(model, params)[0, 1].shape
      (32, 32)
    """
    config = checked_config(model, params)
    return FactoredMatrix(params["W_Q"], jnp.swapaxes(by_head(config, params["W_K"]), -1, -2))


def ov_circuit(model: Transformer, params: Params) -> FactoredMatrix:
    """`W_V W_O` of every head, [layer, head, d_model, d_model]: what a head adds when it looks at a stream.

    Of normalised streams, without biases. Under grouped queries each head is paired with the values that it reads.
    (Elhage et al. 2021.)

    Example:
      >>> U, strengths, Vh = ji.ov_circuit(model, params).svd()
      >>> strengths.shape
      (2, 4, 8)
    """
    config = checked_config(model, params)
    return FactoredMatrix(by_head(config, params["W_V"]), params["W_O"])


def checked_config(model: Transformer, params: Params) -> TransformerConfig:
    """The config of a model whose weights have names; raises for other models, and for weights that do not fit."""
    if not isinstance(model, Transformer):
        raise TypeError(f"model must be a ji.Transformer, whose weights are known by name, got {type(model).__name__}")
    check_params(model.config, params)
    return model.config


def by_head(config: TransformerConfig, x: jax.Array) -> jax.Array:
    """[layer, kv_head, ...] -> [layer, head, ...]."""
    return jnp.repeat(x, config.groups, axis=1)
