"""Checks an export and a receipt with an implementation of the C2SP formats that is not ours (aics-tlog,
PyPI, Python 3.12 or later), and leaves with nothing but Python's own JSON and SHA-256.

usage: second_opinion.py KEYS EXPORT RECEIPT
"""

import base64
import hashlib
import json
import sys

try:
    import aics_tlog as tlog
except ImportError:
    print("skipped: python3 has no aics-tlog")
    sys.exit(0)

keys, export, receipt = sys.argv[1:]
key = tlog.parse_vkey(open(keys, encoding="utf-8").read().splitlines()[-1])


def canonical(value):
    """RFC 8785 for what leaves and parts hold: strings, small integers, short decimals."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def opened(note):
    """The checkpoint in a note that the log's key has signed."""
    checkpoint, parsed = tlog.checkpoint.checkpoint_from_note(note)
    assert tlog.verify_checkpoint(parsed, key, expected_origin=key.name).ok, note
    return checkpoint


def leaf_of(entry):
    for part in ("actor", "subject"):
        sealed = hashlib.sha256(bytes.fromhex(entry[part + "Salt"]) + canonical(entry[part])).hexdigest()
        assert sealed == entry["leaf"]["sealed"][part], (part, entry)
    return canonical(entry["leaf"])


lines = [json.loads(line) for line in open(export, encoding="utf-8")]
leaves = [leaf_of(line) for line in lines if line["kind"] == "entry"]
tree = tlog.MerkleTree(leaves)
head = opened(lines[0]["checkpoint"])
assert (tree.size, tree.root()) == (head.size, head.root), "the root"

checkpoints = [opened(line["note"]) for line in lines if line["kind"] == "checkpoint"]
for old in checkpoints:
    assert tree.root(old.size) == old.root, "an older root"
    proof = tree.consistency_proof(old.size)
    assert tlog.verify_consistency(old.size, head.size, old.root, head.root, proof)

text, note = open(receipt, encoding="utf-8").read().split("\n\n", 1)
first, extra, index, *hashes = text.splitlines()
assert first == "c2sp.org/tlog-proof@v1"
entry = json.loads(base64.b64decode(extra.removeprefix("extra ")))
proof = [base64.b64decode(line) for line in hashes]
head = opened(note)
leaf = tlog.leaf_hash(leaf_of(entry))
assert tlog.verify_inclusion(leaf, int(index.removeprefix("index ")), head.size, proof, head.root)
print(f"agreed: {len(leaves)} entries, {len(checkpoints)} older checkpoints, one receipt")
