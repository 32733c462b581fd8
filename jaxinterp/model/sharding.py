"""Where on a mesh each weight lies: whole on every device, or divided by the names of its axes."""

import math
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxinterp.model.config import TransformerConfig, suggest
from jaxinterp.model.params import weight_axes, weight_shapes

#: The axes that a mesh axis divides when only it is named: every weight has one of them at most.
DIVIDED = ("head", "kv_head", "d_mlp", "d_vocab", "d_vocab_out")

#: All axes that weights have.
AXES = ("layer", *DIVIDED, "d_model", "d_head", "n_ctx")


def param_shardings(
    config: TransformerConfig, mesh: Mesh, sharding: str | Mapping[str, Any] | None = None
) -> dict[str, NamedSharding]:
    """How each weight lies on a mesh: `{name: sharding}`, for `jax.device_put` too.

    Args:
      config: of the model.
      mesh: its devices.
      sharding: `None`: every device holds every weight whole. The name of a mesh axis: heads, neurons and vocabulary
        are divided along it, as far as its devices divide their number; what they do not, and all other weights, are
        whole. `{axis of weights: mesh axis, or a tuple of them}`: what is said, and no more.

    Returns:
      The shardings. Where anything is divided, their mesh has automatic axes, so that the forward runs without a
      word about devices: the compiler says what they exchange.

    Raises:
      TypeError: `mesh` or `sharding` is something else.
      ValueError: an axis that does not exist, that the devices do not divide or that is divided twice, or a rule by
        which nothing is divided.

    Example:
      >>> from jaxinterp.model.sharding import param_shardings
      >>> mesh = jax.make_mesh((1,), ("model",))
      >>> tuple(param_shardings(model.config, mesh, "model")["W_Q"].spec)
      (None, 'model', None, None)
      >>> tuple(param_shardings(model.config, mesh, {"d_model": "model"})["W_Q"].spec)
      (None, None, 'model', None)
    """
    check_sharding(mesh, sharding)
    axes, shapes = weight_axes(config), weight_shapes(config)
    if sharding is None:
        return dict.fromkeys(axes, NamedSharding(mesh, PartitionSpec()))
    rule = sharding if isinstance(sharding, Mapping) else dict.fromkeys(DIVIDED, sharding)
    automatic = Mesh(mesh.devices, mesh.axis_names)

    def spec(name: str) -> PartitionSpec:
        parts = []
        for axis, size in zip(axes[name], shapes[name], strict=True):
            along = rule.get(axis)
            n_devices = math.prod(mesh.shape[one] for one in _names(along))
            if size % n_devices:
                if rule is sharding:
                    raise ValueError(
                        f"sharding[{axis!r}] = {along!r} would divide the {size} of {name} among {n_devices} devices"
                    )
                along = None
            parts.append(along)
        used = [one for along in parts for one in _names(along)]
        if twice := [one for one in used if used.count(one) > 1]:
            raise ValueError(f"sharding would divide {name} {axes[name]} twice along mesh axis {twice[0]!r}")
        return PartitionSpec(*parts)

    specs = {name: spec(name) for name in axes}
    if not any(_names(along) for one in specs.values() for along in one):
        raise ValueError(f"sharding={sharding!r} divides no weight of this model over a mesh of {dict(mesh.shape)}")
    return {name: NamedSharding(automatic, one) for name, one in specs.items()}


def check_sharding(mesh: Any, sharding: Any) -> None:
    """Raises an error for a mesh or a sharding that no model could have."""
    if mesh is not None and not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {type(mesh).__name__}")
    if sharding is None:
        return
    if mesh is None:
        raise ValueError("sharding needs a mesh: mesh=jax.make_mesh((number of devices,), (name,))")
    if not isinstance(sharding, (str, Mapping)):
        raise TypeError(
            f"sharding must be a mesh axis' name, or {{axis of weights: mesh axis}}, got {type(sharding).__name__}"
        )
    rule = sharding if isinstance(sharding, Mapping) else {"head": sharding}
    for axis, along in rule.items():
        if axis not in AXES:
            raise ValueError(f"sharding names {axis!r}, which is no axis of weights; {suggest(axis, AXES)}")
        for one in _names(along):
            if one not in mesh.axis_names:
                raise ValueError(f"sharding names mesh axis {one!r}; {suggest(one, mesh.axis_names)}")


def _names(along: Any) -> tuple[Any, ...]:
    """The mesh axes that one axis is divided along."""
    if along is None:
        return ()
    return tuple(along) if isinstance(along, (tuple, list)) else (along,)
