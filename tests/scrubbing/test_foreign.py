"""The paper's claims on a classifier that is not ours, against an implementation that shares nothing with the library.

A bidirectional classifier of padded strings, read at position 0, in NumPy, with random weights, of which the last are
fitted; and the claims as the paper tells them, one forward pass after another.
"""

import jax
import numpy as np
import pytest

import jaxinterp as ji
from jaxinterp.scrubbing.brackets import adjusted_proportion, bracket_claims
from jaxinterp.tasks.brackets import horizon_classes

START, PAD, END, OPEN, CLOSE = range(5)
N_POS, D, HEADS, LAYERS, D_MLP = 10, 16, 2, 3, 20
KEY = jax.random.key(0)


def weights(seed):
    rng = np.random.default_rng(seed)

    def normal(*shape, scale):
        return rng.normal(size=shape) * scale

    layers = [
        {
            "qkv": normal(3, HEADS, D, D // HEADS, scale=0.5), "qkv bias": normal(3, HEADS, D // HEADS, scale=0.2),
            "out": normal(HEADS, D // HEADS, D, scale=0.7), "out bias": normal(D, scale=0.2),
            "up": normal(D, D_MLP, scale=0.4), "up bias": normal(D_MLP, scale=0.2),
            "down": normal(D_MLP, D, scale=0.3), "down bias": normal(D, scale=0.2),
            "norm 1": (1 + normal(D, scale=0.2), normal(D, scale=0.2)),
            "norm 2": (1 + normal(D, scale=0.2), normal(D, scale=0.2)),
        }
        for _ in range(LAYERS)
    ]  # fmt: skip
    return {
        "layers": layers, "token": normal(5, D, scale=1.0), "place": normal(N_POS, D, scale=0.6),
        "norm": (1 + normal(D, scale=0.2), normal(D, scale=0.2)),
        "classify": normal(D, 2, scale=0.8), "classify bias": normal(2, scale=0.2),
    }  # fmt: skip


def strings(seed, n=300):
    """Tokens of strings of up to 8 brackets, most of them with as many of one as of the other."""
    rng = np.random.default_rng(seed)
    tokens = np.full((n, N_POS), PAD)
    tokens[:, 0] = START
    for row in tokens:
        length = 2 * rng.integers(1, 5)
        own = rng.integers(OPEN, CLOSE + 1, length)
        if rng.random() < 0.6:
            own = rng.permutation(np.repeat([OPEN, CLOSE], length // 2))
        row[1 : length + 1], row[length + 1] = own, END
    return tokens


class Foreign:
    """The classifier, a piece at a time: everything is [sample, pos, ...]."""

    def __init__(self, weights):
        self.w = weights

    @staticmethod
    def norm(x, gain_and_bias):
        gain, bias = gain_and_bias
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * gain + bias

    def embed(self, tokens):
        return self.w["token"][tokens] + self.w["place"]

    def head(self, layer, head, x, mask):
        w = self.w["layers"][layer]
        read = self.norm(x, w["norm 1"])
        q, k, v = (read @ w["qkv"][i, head] + w["qkv bias"][i, head] for i in range(3))
        scores = np.einsum("nqd,nkd->nqk", q, k) / np.sqrt(D // HEADS)
        scores = np.where(mask[:, None], scores, -1e30)
        pattern = np.exp(scores - scores.max(-1, keepdims=True))
        return (pattern / pattern.sum(-1, keepdims=True)) @ v @ w["out"][head]

    def mlp(self, layer, x):
        w = self.w["layers"][layer]
        return np.maximum(self.norm(x, w["norm 2"]) @ w["up"] + w["up bias"], 0) @ w["down"] + w["down bias"]

    def pieces(self, tokens):
        """Everything that is added to the stream, and the stream that each layer's heads read."""
        mask, found, reads = tokens != PAD, {"embed": self.embed(tokens)}, []
        x = found["embed"]
        for layer in range(LAYERS):
            reads.append(x)
            for head in range(HEADS):
                found[layer, head] = self.head(layer, head, x, mask)
            x = x + found[layer, 0] + found[layer, 1] + self.w["layers"][layer]["out bias"]
            found[f"mlp {layer}"] = self.mlp(layer, x)
            x = x + found[f"mlp {layer}"]
        return found, reads, x

    def loss(self, x, label):
        logits = self.norm(x, self.w["norm"]) @ self.w["classify"] + self.w["classify bias"]
        return np.log1p(np.exp(np.where(label, logits[:, 0] - logits[:, 1], logits[:, 1] - logits[:, 0])))

    def as_ours(self):
        """(model, params)."""
        config = ji.TransformerConfig(
            n_layers=LAYERS, d_model=D, n_heads=HEADS, d_vocab=5, d_vocab_out=2, n_ctx=N_POS, d_mlp=D_MLP, eps=1e-5,
            causal=False, act_fn="relu", tie_embeddings=False, unembed_bias=True,
        )  # fmt: skip
        model = ji.Transformer(config)
        layers = self.w["layers"]

        def stacked(name, at=()):
            return np.stack([layer[name][at] for layer in layers])

        params = {
            "W_E": self.w["token"], "W_pos": self.w["place"], "W_U": self.w["classify"], "b_U": self.w["classify bias"],
            "W_O": stacked("out"), "b_O": stacked("out bias"), "W_in": stacked("up"), "b_in": stacked("up bias"),
            "W_out": stacked("down"), "b_out": stacked("down bias"),
            "ln_final.w": self.w["norm"][0], "ln_final.b": self.w["norm"][1],
        }  # fmt: skip
        for i, kind in enumerate("QKV"):
            params |= {f"W_{kind}": stacked("qkv", i), f"b_{kind}": stacked("qkv bias", i)}
        for i in (1, 2):
            params |= {f"ln{i}.w": stacked(f"norm {i}", 0), f"ln{i}.b": stacked(f"norm {i}", 1)}
        own = model.init(jax.random.key(0))
        assert {name: weight.shape for name, weight in own.items()} == {name: w.shape for name, w in params.items()}
        return model, {name: np.asarray(weight, np.float32) for name, weight in params.items()}


class Claims:
    """The paper's claims, one sample after another."""

    def __init__(self, model, tokens, rng):
        self.model, self.tokens, self.rng = model, tokens, rng
        is_open, is_bracket = tokens == OPEN, tokens >= OPEN
        opened, every = (np.cumsum(x[:, ::-1], 1)[:, ::-1] for x in (is_open, is_bracket))
        share = np.divide(opened, every, out=np.full(tokens.shape, np.nan), where=every > 0)
        count, horizon, first = 2 * opened[:, 0] == every[:, 0], ~(share > 0.5).any(1), tokens[:, 1] == OPEN
        self.label = count & horizon
        row = np.where(share > 0.5, -2, 2)
        last = np.concatenate([np.zeros((len(tokens), 1), int), tokens[:, :-1]], 1)
        row = np.where(tokens == END, np.where(last == CLOSE, 1, -1), row)
        self.row = np.where(tokens == PAD, 0, row)
        self.features = {
            "count": count * 2 + first, "horizon": horizon, "rows": (self.row >= 0).all(1), "first": first,
            "share": np.where(first, share[:, 1].round(6), -1), "length": every[:, 0],
        }  # fmt: skip

    def agree(self, feature, given):
        """For each datum another that has the same value of a feature."""
        values = self.features[feature] if isinstance(feature, str) else feature
        return np.array([self.rng.choice(np.flatnonzero(values == values[one])) for one in given])

    def any(self, n):
        return self.rng.integers(0, len(self.tokens), n)

    def run(self, at):
        return self.model.pieces(self.tokens[at])

    def direct(self, reference, heads):
        """The loss with these heads' outputs, everything else of one other string."""
        other, _, _ = self.run(self.any(len(reference)))
        biases = sum(layer["out bias"] for layer in self.model.w["layers"])
        total = sum(value[:, 0] for name, value in other.items() if name not in heads) + biases
        return self.model.loss(total + sum(value[:, 0] for value in heads.values()), self.label[reference])

    def claim(self, which, reference):
        heads = {}
        for layer in (1, 2):
            own = self.agree("count", reference)
            heads[layer, 0] = self.count_head(layer, own) if "2" in which else self.run(own)[0][layer, 0]
        own = self.agree("rows" if "3" in which else "horizon", reference)
        heads[2, 1] = self.horizon_head(own) if "3" in which else self.run(own)[0][2, 1]
        return self.direct(reference, heads)

    def count_head(self, layer, own):
        """A head whose input at position 1 is another string's, the rest a random string's."""
        middle, other = self.agree("count", own), self.any(len(own))
        _, reads, _ = self.run(other)
        x = reads[layer].copy()
        x[:, 1] = self.row_one(layer, middle)
        return self.model.head(layer, 0, x, self.tokens[other] != PAD)

    def row_one(self, layer, own):
        """The stream at position 1 from head 0.0's output there, the embedding there, and a random string."""
        written = self.run(self.agree("share", own))[0][0, 0][:, 1]
        first, other = self.agree("first", own), self.any(len(own))
        mask, w = self.tokens[other] != PAD, self.model.w["layers"]
        pieces, _, _ = self.run(other)
        x = pieces["embed"].copy()
        x[:, 1] = self.model.embed(self.tokens[first])[:, 1]
        head_0 = pieces[0, 0].copy()
        head_0[:, 1] = written
        x = x + head_0 + self.model.head(0, 1, x, mask) + w[0]["out bias"]
        x = x + self.model.mlp(0, x)
        if layer == 2:
            x = x + self.model.head(1, 0, x, mask) + self.model.head(1, 1, x, mask) + w[1]["out bias"]
            x = x + self.model.mlp(1, x)
        return x[:, 1]

    def horizon_head(self, own):
        """A head each row of whose input is of a string of its own."""
        x = np.stack([self.run(self.agree(self.row[:, i], own))[1][2][:, i] for i in range(N_POS)], axis=1)
        return self.model.head(2, 1, x, self.tokens[self.agree("length", own)] != PAD)


@pytest.fixture(scope="module")
def foreign():
    tokens = strings(0)
    model = Foreign(weights(1))
    claims = Claims(model, tokens, np.random.default_rng(2))
    read = model.norm(claims.run(np.arange(len(tokens)))[2][:, 0], model.w["norm"])
    read = np.concatenate([read, np.ones((len(read), 1))], axis=1)
    fitted, *_ = np.linalg.lstsq(read, np.where(claims.label, 4.0, -4.0), rcond=None)
    model.w["classify"], model.w["classify bias"] = np.outer(fitted[:-1], [0, 1]), fitted[-1] * np.array([0, 1])
    data = ji.tasks.brackets(len(tokens), seed=0).replace(
        tokens=tokens.astype(np.int32), mask=tokens != PAD, label=claims.label.astype(np.int32),
        lengths=(tokens >= OPEN).sum(1).astype(np.int32),
    )  # fmt: skip
    return claims, *model.as_ours(), data


def test_the_foreign_model_is_ours(foreign):
    claims, model, params, data = foreign
    _, _, x = claims.run(np.arange(len(data)))
    logits, _ = model.apply(params, data.tokens, mask=data.mask)
    losses = -jax.nn.log_softmax(logits[:, 0])[np.arange(len(data)), data.label]
    np.testing.assert_allclose(losses, claims.model.loss(x[:, 0], claims.label), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("which", [*(pytest.param(w, marks=pytest.mark.slow) for w in ("1", "1+2", "1+2+3")), "1+3"])
def test_claims_about_a_foreign_model(foreign, which):
    claims, model, params, data = foreign
    n = 3000
    reference = np.arange(n) % len(data)
    losses = claims.claim(which, reference)
    result = ji.scrub(bracket_claims(model, params, data, which), params, data, num_samples=30_000, key=KEY)
    # both go through all strings equally often: the error is that of the draws
    spread = np.sqrt(np.mean([losses[reference == one].var(ddof=1) for one in range(len(data))]))
    error = spread * np.sqrt(1 / n + 1 / 30_000)
    assert abs(result.loss - losses.mean()) < 3 * error, (result.loss, losses.mean(), error)
    assert result.loss - result.model_loss > 10 * error  # a claim that costs nothing would show nothing


def test_the_share_a_head_sees_is_that_of_its_average_attention(foreign):
    """Claim 3b's share, string by string and bracket by bracket."""
    _, model, params, data = foreign
    tokens = np.asarray(data.tokens)
    _, cache = model.apply(params, tokens, mask=data.mask, capture=("pattern",))
    pattern, lengths = np.asarray(cache["pattern"][0, :, 1]), (tokens >= OPEN).sum(1)
    found = adjusted_proportion(model, params, data, (0, 1))(tokens)
    for row in (0, 1, 2):
        alike, n = lengths == lengths[row], lengths[row]
        for i in range(N_POS):
            before, after = range(1, min(i, n + 1)), range(max(i, 1), n + 1)
            weight = {}
            for side in (before, after):
                weight |= dict.fromkeys(side, pattern[alike, i][:, list(side)].mean() if len(side) else 0)
            total = sum(weight.values())
            np.testing.assert_allclose(
                found[row, i], sum(weight[j] * (tokens[row, j] == OPEN) for j in weight) / total, rtol=1e-5
            )
    claim = bracket_claims(model, params, data, "1+3", adjusted=True)
    values = claim.interpretation["horizon at 3"].values(data)
    assert 0.5 < (values == horizon_classes(tokens)[:, 3]).mean() < 1  # nearly the plain share, and not quite
