"""The command line: `jaxinterp sweep`, `attribute`, `edges`, `scrub`, `models`, `sites`, `convert` and `card`."""

import os
import sys

from jaxinterp.cli.commands import attribute, card, convert, edges, list_models, list_sites, sweep
from jaxinterp.cli.parse import parse
from jaxinterp.cli.scrubbing import scrub


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status: 0, or 2 after an error told in one line."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "sweep": sweep, "attribute": attribute, "edges": edges, "models": list_models, "sites": list_sites,
        "convert": convert, "card": card, "scrub": scrub,
    }  # fmt: skip
    try:
        commands[options.command](options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads the output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"jaxinterp {options.command}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"jaxinterp {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0
