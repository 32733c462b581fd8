"""The libraries compared with, each pinned and in a virtual environment of its own."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Peer:
    """A library, and the module beside this one that does a job in it.

    Attributes:
      installs: what pip installs into its environment, step by step; empty: it runs in ours.
      skips: it leaves out by itself what cannot differ.
    """

    name: str
    installs: tuple[tuple[str, ...], ...] = ()
    skips: bool = False


TORCH = ("torch==2.13.0",)  # before what depends on it, so that no other build comes along

PEERS = (
    Peer("transformer_lens", (TORCH, ("transformer_lens==3.9.0", "transformers==5.23.0"))),
    Peer("nnsight", (TORCH, ("nnsight==0.8.1", "transformers==5.23.0", "safetensors==0.8.0"))),
    Peer("penzai", (("penzai==0.2.5", "jax==0.10.2", "safetensors==0.8.0"),)),
    Peer("plain", skips=True),
)


def environment(peer: Peer, folder: Path) -> str:
    """The interpreter of a peer's environment, which is made unless it stands there as asked for."""
    if not peer.installs:
        return sys.executable
    home = folder.expanduser() / peer.name
    python, stamp, asked = home / "bin" / "python", home / "installed.json", json.dumps(peer.installs)
    if not stamp.exists() or stamp.read_text() != asked:
        tell(f"making {home}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        for packages in peer.installs:
            subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        stamp.write_text(asked)
    return str(python)


def tell(message: str) -> None:
    """A line of progress."""
    print(message, file=sys.stderr, flush=True)
