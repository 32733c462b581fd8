"""Whether there is a derivative to take, found out before anything compiles."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal

from jaxinterp.metrics import Metric, score_read
from jaxinterp.model.interventions import Intervention, Interventions, joined
from jaxinterp.model.run import n_positions_read
from jaxinterp.model.sites import SiteSpec
from jaxinterp.model.where import Geometry
from jaxinterp.tasks.prompts import Prompts


def check_differentiable(
    model: Any, params: Any, base: Prompts, base_interventions: Interventions | None, metric: Metric
) -> None:
    """Raises for metrics, and functions among edits, that depend on activations in steps alone, or that JAX refuses.

    A rank or an accuracy has the derivative 0 wherever it has one, and so has what is rounded: all estimates are 0.
    """
    sites: Mapping[str, SiteSpec] = model.sites
    geometry = Geometry.of(base.tokens, base.mask)

    def applied(one: Intervention) -> Callable[[jax.Array], jax.Array]:
        return lambda x: one.fn(x, *one.args)

    for site, several in joined(base_interventions).items():
        for one in several:
            own = getattr(one.fn, "__module__", "").startswith("jaxinterp.") or one.fn is jax.lax.stop_gradient
            if own or one.where is not None:
                continue  # where a function acts on some entries alone, the others have their derivatives
            shape = sites[site].shape(geometry.batch, geometry.pos)[int(sites[site].per_layer) :]
            _check(f"the function at {site!r} in base_interventions", applied(one), _floats(shape))
    if "logits" not in sites or sites["logits"].sizes[-1] is None:
        return
    columns = sites["logits"].sizes[-1] if metric.columns is None else jnp.shape(metric.columns)[-1]
    cache = {name: _floats(sites[name].shape(geometry.batch, geometry.pos)) for name in metric.capture}
    if any(where is not None for where in metric.capture.values()):
        cache = jax.eval_shape(
            lambda params: model.apply(params, base.tokens, joined(base_interventions), capture=metric.capture,
                                       mask=base.mask)[1], params,
        )  # fmt: skip
    read = _floats((geometry.batch, n_positions_read(metric.positions, geometry), columns)), cache
    _check("metric", lambda read: score_read(metric, *read), read, must_read=True)


def _floats(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _check(what: str, fn: Callable[[Any], jax.Array], x: Any, *, must_read: bool = False) -> None:
    jax.eval_shape(fn, x)  # what is wrong with the function itself is told as it is
    try:
        traced = jax.make_jaxpr(lambda x, change: jax.jvp(fn, (x,), (change,)))(x, x)
        jax.make_jaxpr(jax.grad(lambda x: fn(x).sum()))(x)  # loops of unknown length go forward alone
    except Exception as error:
        raise ValueError(f"{what} cannot be differentiated: {error}") from error
    half = len(traced.jaxpr.invars) // 2
    of_x, of_change = (
        _reached(traced.jaxpr, part) for part in (traced.jaxpr.invars[:half], traced.jaxpr.invars[half:])
    )
    if must_read and not of_x[0]:
        raise ValueError(f"{what} does not depend on what it is given, logits and activations: nothing has an effect")
    if of_x[0] and not of_change[1]:
        raise ValueError(f"{what} changes in steps: its derivative is 0 everywhere, and so would every estimate be")


def _reached(jaxpr: Jaxpr, start: Any) -> list[bool]:
    """Which outputs of a traced function depend on some of its inputs."""
    reached = set(start)
    for equation in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in reached for v in equation.invars):
            reached.update(equation.outvars)
    return [not isinstance(v, Literal) and v in reached for v in jaxpr.outvars]
