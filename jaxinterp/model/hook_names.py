"""What TransformerLens calls the sites: the map between its hooks' names and ours.

Where both have a site its arrays are equal (`tests/model/test_hook_names.py` holds it), with its weight processing off,
layer first here. One differs in a detail: its `hook_attn_scores` stands after masking, `scores` before.
"""

import re

#: Our sites -> its hooks. `ln1_post` and `ln2_post` are its `ln1_post` and `ln2_post` too.
HOOK_NAMES = {
    "embed": "hook_embed",
    "pos_embed": "hook_pos_embed",
    "resid_pre": "blocks.{layer}.hook_resid_pre",
    "q_input": "blocks.{layer}.hook_q_input",
    "k_input": "blocks.{layer}.hook_k_input",
    "v_input": "blocks.{layer}.hook_v_input",
    "ln1.scale": "blocks.{layer}.ln1.hook_scale",
    "ln1.normalized": "blocks.{layer}.ln1.hook_normalized",
    "q": "blocks.{layer}.attn.hook_q",
    "k": "blocks.{layer}.attn.hook_k",
    "v": "blocks.{layer}.attn.hook_v",
    "rot_q": "blocks.{layer}.attn.hook_rot_q",
    "rot_k": "blocks.{layer}.attn.hook_rot_k",
    "scores": "blocks.{layer}.attn.hook_attn_scores",
    "pattern": "blocks.{layer}.attn.hook_pattern",
    "z": "blocks.{layer}.attn.hook_z",
    "result": "blocks.{layer}.attn.hook_result",
    "ln1_post.scale": "blocks.{layer}.ln1_post.hook_scale",
    "ln1_post.normalized": "blocks.{layer}.ln1_post.hook_normalized",
    "attn_out": "blocks.{layer}.hook_attn_out",
    "resid_mid": "blocks.{layer}.hook_resid_mid",
    "mlp_in": "blocks.{layer}.hook_mlp_in",
    "ln2.scale": "blocks.{layer}.ln2.hook_scale",
    "ln2.normalized": "blocks.{layer}.ln2.hook_normalized",
    "mlp_pre": "blocks.{layer}.mlp.hook_pre",
    "mlp_pre_linear": "blocks.{layer}.mlp.hook_pre_linear",
    "mlp_mid": "blocks.{layer}.mlp.hook_mid",
    "mlp_post": "blocks.{layer}.mlp.hook_post",
    "ln2_post.scale": "blocks.{layer}.ln2_post.hook_scale",
    "ln2_post.normalized": "blocks.{layer}.ln2_post.hook_normalized",
    "mlp_out": "blocks.{layer}.hook_mlp_out",
    "resid_post": "blocks.{layer}.hook_resid_post",
    "ln_final.scale": "ln_final.hook_scale",
    "ln_final.normalized": "ln_final.hook_normalized",
}


def site_of_hook(name: str) -> tuple[str, int | None] | None:
    """(our site, the layer) of one of TransformerLens' hooks; the layer is None where there is one for all.

    Returns:
      None for a name that is none of its hooks.

    Example:
      >>> from jaxinterp.model.hook_names import site_of_hook
      >>> site_of_hook("blocks.3.attn.hook_z"), site_of_hook("hook_embed")
      (('z', 3), ('embed', None))
    """
    layer = re.search(r"\.(\d+)\.", name)
    general = re.sub(r"\.\d+\.", ".{layer}.", name, count=1)
    site = next((ours for ours, theirs in HOOK_NAMES.items() if theirs == general), None)
    return None if site is None else (site, int(layer[1]) if layer else None)
