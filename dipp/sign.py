"""`dipp sign`: a signed configuration as a line for any shell that can set a parameter.

`ippc --key` of our shell does the same and sends it; this is for a stock csh.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from csp.keyfiles import OperatorKey
from dipp.config.codec import EMPTY_SLOT, encode_module, encode_pipeline
from dipp.config.definition import PARAM_SLOT_COUNT, PIPELINE_COUNT
from dipp.config.yaml import parse_module, parse_pipeline
from dipp.errors import Code, MisuseError
from dipp.params import make_table, params_name, pipeline_name
from dipp.serve import DEFAULT_ADDRESS
from dipp.signedslot import SIGNED_BYTES, sign_slot


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description = (
        f"Sign a pipeline or module configuration (at most {SIGNED_BYTES} bytes packed) and print"
        " the line that sets it: for a stock csh. With our shell, `ippc ... --key` does it all."
    )
    parser.add_argument("kind", choices=("pipeline", "module"))
    parser.add_argument("index", type=int, help="pipeline 1..6, module parameter slot 1..20")
    parser.add_argument("file", type=Path, nargs="?", help="YAML; none with --clear")
    parser.add_argument("--clear", action="store_true", help="make the slot unconfigured")
    parser.add_argument("-k", "--key", type=Path, required=True, help="private key")
    parser.add_argument(
        "-n", "--node", type=int, default=DEFAULT_ADDRESS, help="node (default %(default)d)"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def run(options: argparse.Namespace) -> int:
    """Print the line. Raises DippError, CspError, OSError."""
    is_pipeline = options.kind == "pipeline"
    limit = PIPELINE_COUNT if is_pipeline else PARAM_SLOT_COUNT
    if not 1 <= options.index <= limit:
        raise MisuseError(f"{options.kind} index is 1..{limit}", Code.CONFIG_INVALID)
    if options.clear == (options.file is not None):
        raise MisuseError("either a YAML file or --clear", Code.CONFIG_INVALID)
    parameter = make_table()[(pipeline_name if is_pipeline else params_name)(options.index)]
    slot = EMPTY_SLOT
    if options.file is not None:
        text = options.file.read_text("utf-8")
        slot = (
            encode_pipeline(parse_pipeline(text)) if is_pipeline
            else encode_module(parse_module(text))
        )  # fmt: skip
    key = OperatorKey(options.key)
    counter = key.next_counter()
    value = sign_slot(
        slot, key.signer, node=options.node, parameter_id=parameter.id, counter=counter
    )
    if options.json:
        row = {"node": options.node, "id": parameter.id, "name": parameter.name}
        print(json.dumps({**row, "counter": counter, "value": value.hex()}))
    else:
        print(f"set -n {options.node} {parameter.name} {value.hex()}")
    return 0
