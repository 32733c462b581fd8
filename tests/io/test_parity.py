"""The goldens' check, live: freshly drawn configurations against `transformers`."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.io import load
from jaxinterp.io.huggingface import FAMILIES

pytestmark = pytest.mark.parity

SCRIPT = Path(__file__).parents[1] / "goldens" / "make_goldens.py"


@pytest.fixture(autouse=True)
def _forget_programs_of_each():
    """Each configuration compiles its own, and more than a process may map of them would come together."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def goldens():
    """The script that made the goldens, as a module."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    spec = importlib.util.spec_from_file_location("make_goldens", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("family", FAMILIES)
def test_random_configurations(goldens, tmp_path, family, seed):
    rng = np.random.default_rng([seed, *family.encode()])
    fields = goldens.draw_fields(family, rng)
    reference = goldens.make_reference(family, fields, seed)
    reference.save_pretrained(tmp_path)
    prompts = goldens.draw_prompts(rng, fields["vocab_size"], n_pos=9)
    tokens, real = prompts["tokens"], prompts["mask"].astype(bool)

    expected, _ = goldens.run_reference(reference, prompts)
    model, params, _ = load(tmp_path)
    logits, _ = model.apply(params, tokens, mask=real)
    assert abs(logits - expected)[real].max() <= 1e-4 * max(1, abs(expected[real]).max()), fields

    with goldens.double_precision(reference):
        expected, stream = goldens.run_reference(reference, prompts)
    with jax.enable_x64(True):
        model, params, _ = load(tmp_path, dtype="float64")
        logits, cache = model.apply(params, tokens, mask=real, capture=("resid_pre",))
        bound = 1e-9 * abs(expected[real]).max()
        assert abs(logits - expected)[real].max() <= bound, fields
        assert abs(cache["resid_pre"] - stream)[:, real].max() <= 1e-9 * abs(stream[:, real]).max(), fields
        for row, kept, wanted in zip(tokens, real, expected, strict=True):
            alone, _ = model.apply(params, row[kept][None])
            assert abs(alone[0] - wanted[kept]).max() <= bound, fields


def test_another_token_type_is_an_edit(goldens):
    tokens, types = np.array([[3, 4, 5, 6, 7]]), np.array([[0, 0, 0, 1, 1]])
    reference = goldens.BertForMaskedLM.from_pretrained(SCRIPT.parent / "bert-tied").eval()
    with goldens.torch.no_grad():
        expected = reference(goldens.torch.tensor(tokens), token_type_ids=goldens.torch.tensor(types)).logits.numpy()
    model, params, _ = load(SCRIPT.parent / "bert-tied")
    step = (params["W_type"][1] - params["W_type"][0])[None, None]
    logits, _ = model.apply(params, tokens, {"pos_embed": ji.add(step, ji.at(pos=[3, 4]))})
    assert abs(logits - expected).max() <= 1e-5 * abs(expected).max()
