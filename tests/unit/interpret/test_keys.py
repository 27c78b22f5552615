"""SSH public keys in text, with OpenSSH's fingerprints."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowrieprocessor.interpret.keys import MAX_COMMENT_CHARS, PublicKey, keys_in

VECTORS = [
    tuple(row.split("\t"))
    for row in (Path(__file__).parent / "ssh_public_keys.txt").read_text(encoding="utf-8").splitlines()
]
"""What `ssh-keygen -l` prints of a key, and the key."""


def listed(key: PublicKey) -> str:
    """Return a key as `ssh-keygen -l` prints it."""
    return f"{key.bits} {key.fingerprint} {key.comment or 'no comment'} ({key.short_type})"


@pytest.mark.parametrize(("expected", "line"), VECTORS, ids=[line.split()[0] for _, line in VECTORS])
def test_keys_have_the_fingerprints_of_openssh(expected: str, line: str) -> None:
    """Type, length, fingerprint and comment of each kind of key are as OpenSSH prints them."""
    (key,) = keys_in(line)

    assert listed(key) == expected
    assert key.key_type == line.split()[0]


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not here")
@pytest.mark.parametrize("line", [line for _, line in VECTORS if not line.startswith("ssh-dss")])
def test_the_vectors_are_those_of_openssh(line: str, tmp_path: Path) -> None:
    """The `ssh-keygen` of this machine prints what we do."""
    path = tmp_path / "key.pub"
    path.write_text(f"{line}\n", encoding="utf-8")
    path.chmod(0o600)
    printed = subprocess.run(["ssh-keygen", "-lf", path], capture_output=True, text=True, check=True).stdout

    assert listed(keys_in(line)[0]) == printed.strip()


def test_keys_are_found_in_text() -> None:
    """Keys are found between options, quotes and other lines, each once, without what follows the quotes."""
    _, first = VECTORS[0]
    _, second = VECTORS[-1]
    text = f"command=\"x\",no-pty {first}\r\n# {second}\necho '{first}'>>x; id"

    assert [key.comment for key in keys_in(text)] == [first.split(" ", 2)[2], second.split(" ", 2)[2]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace("AAAA", "AAAB", 1),
        lambda line: re.sub(r"(AAAA[A-Za-z0-9+/]{40})[A-Za-z0-9+/]{4}", r"\1", line),
        lambda line: line.replace("AAAA", "AAAA...", 1),
        lambda line: re.sub(r"AAAA\S+", "AAAA", line),
        lambda line: re.sub(r"(AAAA\S{20})\S+", r"\1", line),
        lambda line: line.replace(line.split()[0], "ssh-rsa" if not line.startswith("ssh-rsa") else "ssh-dss", 1),
        lambda line: f"x{line}",
    ],
)
@pytest.mark.parametrize("line", [line for _, line in VECTORS], ids=[line.split()[0] for _, line in VECTORS])
def test_a_damaged_key_is_no_key(line: str, damage: object) -> None:
    """Wrong base64, a wrong length, another type or a part of a key is none."""
    assert callable(damage)
    assert keys_in(damage(line)) == []


def test_a_blob_with_more_after_the_key_is_none() -> None:
    """A blob has the fields of its type and nothing else."""
    _, line = next(vector for vector in VECTORS if vector[1].startswith("ssh-ed25519"))
    blob = base64.b64decode(line.split()[1])
    longer = base64.b64encode(blob + b"\0\0\0\1x").decode()

    assert keys_in(f"ssh-ed25519 {longer}") == []


def test_a_comment_is_cut() -> None:
    """A comment has a limited length."""
    (key,) = keys_in(f"{VECTORS[0][1]} {'x' * 5000}")

    assert len(key.comment) == MAX_COMMENT_CHARS


@given(st.binary(max_size=300), st.sampled_from(["ssh-rsa", "ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-dss"]))
def test_any_blob_is_a_key_or_none(blob: bytes, key_type: str) -> None:
    """No blob is an error, not even one that begins as a key of its type does."""
    name = key_type.encode()
    for whole in (blob, len(name).to_bytes(4, "big") + name + blob):
        keys_in(f"{key_type} {base64.b64encode(whole).decode()} x")
