"""`csp keys`: make, show, trust and revoke keys, and sign a file offline.

Exit status 0 = did it, 1 = it failed (with a reason), 2 = wrong use.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from csp.files.wire import check_name
from csp.keyfiles import (
    FOLDER,
    OperatorKey,
    PublicKey,
    generate,
    read_public,
    revoke_key,
    trust_key,
    trusted_keys,
)

_EPILOG = """\
examples:
  csp keys generate ops.key            a key pair: ops.key stays on the ground, ops.key.pub goes up
  csp keys trust ops.key.pub STATE     from its next start on, the node of this state directory
                                       takes only what a trusted key signed
  csp keys show STATE                  whom that node trusts
  csp keys revoke ops.key.pub STATE    trust it no longer (name or fingerprint); rotate by trusting
                                       the new key first. Without any key left, nothing is accepted
  csp keys sign -k ops.key cloud.py    writes cloud.py.sig for `upload --signature`

Signing in the shell: `upload --key ops.key ...`, `ippc pipeline --key ops.key ...`, `proc push
--key ops.key ...`, or set PAYLOAD_KEY. For a stock csh: `dipp sign`, `dish sign`. Remove the folder
STATE/keys to switch signing off.
"""


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Add the actions."""
    parser.description = "Keys that sign uplinked files and configurations (Ed25519)."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = actions.add_parser("generate", help="make a key pair")
    one.add_argument("key", type=Path, help="file for the private key; .pub is added for the other")
    one = actions.add_parser("show", help="show public keys")
    one.add_argument("path", type=Path, help="state directory of a node, or a .pub file")
    one.add_argument("--json", action="store_true", help="for programs")
    one = actions.add_parser("trust", help="let a node trust a public key")
    one.add_argument("key", type=Path, help="the .pub file")
    one.add_argument("state", type=Path, help="state directory of the node")
    one = actions.add_parser("revoke", help="let a node trust a key no longer")
    one.add_argument("key", help="file name or fingerprint, as `csp keys show` says")
    one.add_argument("state", type=Path, help="state directory of the node")
    one = actions.add_parser("sign", help="sign a file that somebody else will upload")
    one.add_argument("-k", "--key", type=Path, required=True, help="private key")
    one.add_argument("-N", "--name", help="name on board (default: that of the file)")
    one.add_argument("file", type=Path)


def run(options: argparse.Namespace) -> int:
    """Do it. Raises CspError, OSError."""
    if options.action == "generate":
        key = generate(options.key)
        print(f"{options.key}: private, keep it secret\n{_line(key)}")
    elif options.action == "show":
        return _show(options.path, as_json=options.json)
    elif options.action == "trust":
        print(f"trusted from the next start on: {_line(trust_key(options.key, _folder(options)))}")
    elif options.action == "revoke":
        key = revoke_key(options.key, _folder(options))
        left = len(trusted_keys(_folder(options)) or ())
        print(f"revoked from the next start on: {_line(key)}; {left} left")
    else:
        _sign(options)
    return 0


def _folder(options: argparse.Namespace) -> Path:
    return Path(options.state) / FOLDER


def _line(key: PublicKey) -> str:
    return f"{key.path}: {key.fingerprint}"


def _show(path: Path, *, as_json: bool) -> int:
    keys = [read_public(path)] if path.is_file() else trusted_keys(path / FOLDER)
    if as_json:
        found = [{"file": str(key.path), "fingerprint": key.fingerprint} for key in keys or ()]
        print(json.dumps({"required": keys is not None, "keys": found}))
        return 0
    if keys is None:
        print(f"{path}: no folder {FOLDER}, so nothing has to be signed")
        return 0
    for key in keys:
        print(_line(key))
    if not keys:
        print(f"{path}: no key is trusted, so nothing that must be signed is accepted")
    return 0


def _sign(options: argparse.Namespace) -> None:
    name = check_name(options.name or options.file.name)
    key = OperatorKey(options.key)
    seal = key.signer.seal_file(name, options.file.read_bytes(), key.next_counter())
    path = options.file.with_name(options.file.name + ".sig")
    path.write_text(seal.encode().hex() + "\n")
    print(f"{path}: {name}, counter {seal.counter}")
