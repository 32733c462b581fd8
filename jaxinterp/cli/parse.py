"""What may be typed."""

import argparse
from collections.abc import Sequence
from typing import Any

from jaxinterp.attribution.edges import METHODS as EDGE_METHODS
from jaxinterp.attribution.integrated import RULES
from jaxinterp.attribution.patching import METHODS, PATHS
from jaxinterp.io.checkpoints import FORMATS
from jaxinterp.model.config import CHOICES
from jaxinterp.scrubbing.brackets import CLAIMS
from jaxinterp.scrubbing.induction import REFINEMENTS

SWEEP_EXAMPLES = """examples:
  jaxinterp sweep
      every (layer, head, position) of the built-in model on indirect objects
  jaxinterp sweep --site resid_pre --over layer pos --direction noising
  jaxinterp sweep --over layer head role
      the same by named position (S1, S2, IO, END ...), over prompts of any structure
  jaxinterp sweep --site mlp_post --over layer neuron pos --n 10000 --resume
      a long one, which goes on where it stopped if it is killed; --plan tells how long
  jaxinterp sweep --model ./gpt2 --prompts pairs.jsonl --site mlp_out --over layer pos
  jaxinterp sweep --model ./gpt2 --task natural.facts
      prompts made for the model's own tokenizer: natural.indirect_objects, .greater_than, .agreement, .facts
  jaxinterp sweep --clean "one two three" --corrupted "six seven eight" --correct four --wrong nine

A prompts file is JSONL, or CSV with a header; each row holds clean, corrupted, correct and wrong.
"""

SCRUB_EXAMPLES = """examples:
  jaxinterp scrub brackets --claim 1+2+3 --samples 1e6
  jaxinterp scrub brackets --through m0 m1 m2 --count a1.h1 a2.h1 --horizon a2.h0
  jaxinterp scrub induction --refine "three tokens" repeats
      heads by their scores, on the standard library of this Python; FOLDER of another training by --model
  jaxinterp scrub mine.py:claim
"""

ATTRIBUTE_EXAMPLES = """examples:
  jaxinterp attribute
      the effect of every (layer, head, position), estimated; prompts and files as of `jaxinterp sweep`
  jaxinterp attribute --site mlp_post --over layer neuron --method ig --steps 10
  jaxinterp attribute --verify 50
      estimates for all, exact patches of the fifty largest, and how many others like them may be left
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one command; exits with a message for what cannot be meant."""
    parser = argparse.ArgumentParser(
        prog="jaxinterp", description="Exact patching sweeps and attribution on transformers."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    sweep = commands.add_parser(
        "sweep",
        help="patch every head, position, ... and rank the effects",
        description="Patches activations of one run into another, everywhere, and ranks what it does.",
        epilog=SWEEP_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = _add_question(sweep)
    what.add_argument(
        "--resume",
        action="store_true",
        help="keep finished chunks in OUTPUT/sweep; the same command goes on there after a kill",
    )
    what.add_argument("--plan", action="store_true", help="print what would run, and stop")

    attribute = commands.add_parser(
        "attribute",
        help="estimate all effects by gradients, and verify the largest",
        description="Estimates what patching would do, everywhere at once, from one gradient (or some more).",
        epilog=ATTRIBUTE_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = _add_question(attribute)
    what.add_argument("--method", choices=METHODS, default="grad", help="of the estimates (default: grad)")
    what.add_argument("--steps", type=int, help="gradients on the way, for ig (default: 5)")
    what.add_argument("--rule", choices=RULES, help="where on the way, for ig (default: midpoint)")
    what.add_argument(
        "--path", choices=PATHS, help="what goes from one run to the other, for ig (default: activations)"
    )
    what.add_argument(
        "--verify", type=int, metavar="N", help="patch the N largest exactly, and as many others at random"
    )

    edges = commands.add_parser(
        "edges",
        help="estimate the effect of every edge between components",
        description="Estimates what each edge from a writer to a reader of the residual stream carries of the effect.",
    )
    what = _add_question(edges, nodes=False)
    what.add_argument("--method", choices=EDGE_METHODS, default="eap", help="one gradient or several (default: eap)")
    what.add_argument("--steps", type=int, help="gradients on the way, for eap_ig (default: 5)")

    commands.add_parser("models", help="list the models that can be loaded")
    sites = commands.add_parser("sites", help="list a model's sites with their axes and shapes")
    sites.add_argument("model", metavar="MODEL", help="a built-in name, a folder, or a hub id")

    convert = commands.add_parser(
        "convert",
        help="write a model as a folder of this library",
        description="Reads any model that can be loaded, and writes it as a folder that loads without conversion.",
    )
    convert.add_argument("source", metavar="SRC", help="a built-in name, a folder, or a hub id")
    convert.add_argument("destination", metavar="DST", help="the folder to write; an earlier save in it is replaced")
    convert.add_argument("--dtype", choices=CHOICES["dtype"], help="(default: as it is stored)")
    convert.add_argument(
        "--to", choices=FORMATS, default="safetensors", help="how weights are written (default: safetensors)"
    )
    convert.add_argument(
        "--overwrite", action="store_true", help="write to a folder that holds files of another kind as well"
    )

    card = commands.add_parser(
        "card",
        help="measure a reference model and write its card",
        description="Measures a reference model: every figure of its card with its interval, as text and drawings.",
    )
    card.add_argument("name", metavar="NAME", help="english, brackets or induction")
    card.add_argument("--model", metavar="FOLDER", help="another model to measure (default: the built-in one)")
    card.add_argument("--n", type=int, help="cases of each kind (default: as in the built-in model's card)")
    card.add_argument("--twin", metavar="FOLDER", help="of induction: a one-layer model to compare with")
    card.add_argument("--corpus", metavar="DIR", help="of induction: a folder of text (default: the standard library)")
    card.add_argument("--output", metavar="FOLDER", help="(default: jaxinterp-results/NAME)")

    scrub = commands.add_parser(
        "scrub",
        help="say how much of a behaviour a hypothesis about a model leaves",
        description="Causal scrubbing: resamples all that a hypothesis does not speak of, and says what is left.",
        epilog=SCRUB_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    scrub.add_argument(
        "what",
        metavar="WHAT",
        help="brackets, induction, or FILE.py:NAME, (hypothesis, params, dataset) or a function that returns them",
    )
    scrub.add_argument("--claim", choices=CLAIMS, help="of brackets: which claims (default: 1)")
    scrub.add_argument(
        "--through", nargs="+", default=[], metavar="MLP", help="of brackets: read heads by way of these"
    )
    scrub.add_argument("--count", nargs="+", default=[], metavar="HEAD", help="of brackets: heads, such as a1.h0")
    scrub.add_argument(
        "--horizon", metavar="HEAD", help="of brackets: the head that tells the horizon (default: a2.h1)"
    )
    scrub.add_argument("--proportion", metavar="HEAD", help="of brackets: writes the share of ( (default: a0.h0)")
    scrub.add_argument("--refine", nargs="+", default=[], metavar="HOW", help=f"of induction: {', '.join(REFINEMENTS)}")
    scrub.add_argument("--heads", nargs="+", default=[], metavar="HEAD", help="of induction: the heads, such as a1.h5")
    scrub.add_argument("--repeats", nargs="+", default=[], metavar="HEAD", help="of induction: heads that see repeats")
    scrub.add_argument("--model", metavar="FOLDER", help="of induction: a folder of its recipe (default: the built-in)")
    scrub.add_argument("--corpus", metavar="FOLDER", help="of induction: the text (default: the standard library)")
    scrub.add_argument("--n", type=_count, help="strings, or prompts at most (default: 10000 of brackets, 2000 others)")
    scrub.add_argument("--samples", type=_count, default=100_000, help="how many (default: 1e5)")
    scrub.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")
    scrub.add_argument("--output", default="jaxinterp-results", metavar="FOLDER", help="(default: jaxinterp-results)")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    """A whole number, which may be written as 1e6."""
    number = float(text)
    if number < 1 or number != int(number):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(number)


def _add_question(parser: argparse.ArgumentParser, *, nodes: bool = True) -> Any:
    """Adds a model, prompts, what is patched and how it is told; returns the group to which more may be added."""
    parser.add_argument("--model", default="english", help="a built-in name, a folder, or a hub id (default: english)")
    prompts = parser.add_argument_group("prompts (default: indirect objects, from their generator)")
    prompts.add_argument("--prompts", metavar="FILE", help="JSONL or CSV of prompt pairs")
    prompts.add_argument(
        "--task", default="indirect_objects", help="a generator of jaxinterp.tasks: natural.NAME for any tokenizer"
    )
    prompts.add_argument("--n", type=int, default=32, help="how many prompts to generate (default: 32)")
    prompts.add_argument("--seed", type=int, default=0, help="of the generator (default: 0)")
    for name in ("clean", "corrupted", "correct", "wrong"):
        prompts.add_argument(
            f"--{name}", action="append", metavar="TEXT", help=f"{name} text of an inline pair; may be repeated"
        )
    what = parser.add_argument_group("what is asked")
    if nodes:
        what.add_argument("--site", default="z", help="which activation (default: z, the heads' outputs)")
        what.add_argument(
            "--over", nargs="+", metavar="AXIS", help="axes of the sweep (default: all that the site has)"
        )
        what.add_argument("--raw", action="store_true", help="effects in the metric's units, not as a share of the way")
    what.add_argument(
        "--direction",
        choices=("denoising", "noising"),
        default="denoising",
        help="clean activations into the corrupted run (default), or the reverse",
    )
    what.add_argument(
        "--metric", choices=("logit_diff", "log_prob", "prob"), default="logit_diff", help="(default: logit_diff)"
    )
    what.add_argument("--dtype", choices=CHOICES["dtype"], help="(default: float32)", default="float32")
    what.add_argument("--max-bytes", type=int, help="memory for what runs at a time")
    what.add_argument("--top", type=int, default=10, help="how many effects to print (default: 10)")
    what.add_argument("--output", default="jaxinterp-results", metavar="FOLDER", help="(default: jaxinterp-results)")
    return what
