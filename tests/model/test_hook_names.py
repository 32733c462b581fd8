from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxinterp as ji
from jaxinterp.model.hook_names import HOOK_NAMES, site_of_hook

GOLDENS = Path(__file__).parents[1] / "goldens"
NAMES = sorted(path.parent.name for path in GOLDENS.glob("*/transformer_lens.safetensors"))

#: Sites of ours that TransformerLens has no hook for, in any of these architectures.
OURS_ALONE = {"attn_out_pre_norm", "mlp_out_pre_norm", "resid_final", "logits"}

#: And theirs that have no site here.
THEIRS_ALONE = {"unembed.hook_in", "unembed.hook_out"}


def test_the_four_families_have_goldens():
    assert {name.split("-")[0] for name in NAMES} == {"gpt2", "gpt_neox", "llama", "gemma2"}


@pytest.mark.parametrize("name", NAMES)
def test_sites_equal_transformer_lens_hooks(name):
    theirs = load_file(GOLDENS / name / "transformer_lens.safetensors")
    tokens = theirs.pop("tokens")
    model, params, _ = ji.load(GOLDENS / name)
    capture = tuple(site for site in model.sites if site not in OURS_ALONE)
    _, cache = jax.jit(lambda params, tokens: model.apply(params, tokens, capture=capture))(params, tokens)
    compared = set()
    for hook, expected in theirs.items():
        if hook in THEIRS_ALONE:
            continue
        site, layer = site_of_hook(hook)
        found = np.asarray(cache[site] if layer is None else cache[site][layer])
        if site == "scores":  # theirs are masked already
            seen = np.isfinite(expected)
            found, expected = found[seen], expected[seen]
        assert found.shape == expected.shape, hook
        assert abs(found - expected).max() <= 1e-4, hook
        compared.add((site, layer))
    # nothing that both have was left out; beside each other, attention and MLP read one stream there
    lacking = {"mlp_in"} if model.config.parallel else set()
    for site in set(capture) - lacking:
        layers = range(model.config.n_layers) if model.sites[site].per_layer else [None]
        assert {(site, layer) for layer in layers} <= compared


def test_every_hook_name_is_known_back():
    for site, hook in HOOK_NAMES.items():
        layer = 12 if "{layer}" in hook else None
        assert site_of_hook(hook.format(layer=12)) == (site, layer)
    assert site_of_hook("blocks.3.attn.hook_zz") is None
    assert site_of_hook("z") is None


def test_a_hooks_name_for_a_site_is_told_by_an_error():
    model, params, _ = ji.load(GOLDENS / "gpt2-tied")
    tokens = np.zeros((1, 4), int)
    with pytest.raises(
        ValueError, match=r"unknown site 'blocks\.1\.attn\.hook_z'; here it is 'z', with ji\.at\(layer=1\)"
    ):
        model.apply(params, tokens, {"blocks.1.attn.hook_z": ji.zero()})
    with pytest.raises(ValueError, match=r"unknown site 'hook_embed'; here it is 'embed'$"):
        model.apply(params, tokens, capture=("hook_embed",))
