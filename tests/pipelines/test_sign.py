import base64
import json
import shutil
import stat
import subprocess
from pathlib import Path

import minisign
import pytest

from pipelines.cli import run as command
from pipelines.publish import SIGNATURE, SUMS, publish
from pipelines.sign import Keys, check_signature, keygen, sign
from pipelines.steps import Outcome
from privacy.errors import ReleaseError, UsageError

FILES = {"data/part-00000.parquet": b"rows", "README.md": b"# a card"}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return keygen(tmp_path / "keys" / "ours")


@pytest.fixture
def release(tmp_path: Path) -> Path:
    return publish(tmp_path / "root", "flights", FILES)


def test_another_implementation_of_minisign_takes_our_keys_and_signatures(keys: Keys, release: Path) -> None:
    path = sign(release, keys.secret)
    public = minisign.PublicKey.from_file(keys.public)
    public.verify((release / SUMS).read_bytes(), minisign.Signature.from_file(path))
    assert minisign.SecretKey.from_file(keys.secret).get_public_key() == public
    with pytest.raises(minisign.VerifyError):
        public.verify((release / SUMS).read_bytes() + b" ", minisign.Signature.from_file(path))


def test_we_take_keys_and_signatures_of_another_implementation(release: Path, tmp_path: Path) -> None:
    pair = minisign.KeyPair.generate()
    for name, key in (("their.key", pair.secret_key), ("their.pub", pair.public_key)):
        (tmp_path / name).write_bytes(bytes(key))
    theirs = pair.secret_key.sign((release / SUMS).read_bytes(), trusted_comment="theirs")
    (release / SIGNATURE).write_bytes(bytes(theirs))
    assert check_signature(release, tmp_path / "their.pub").startswith("valid, by key ")
    sign(release, tmp_path / "their.key")
    assert check_signature(release, tmp_path / "their.pub").startswith("valid, by key ")


@pytest.mark.skipif(shutil.which("minisign") is None, reason="minisign is not installed")
def test_stock_minisign_verifies_a_release(keys: Keys, release: Path) -> None:
    sign(release, keys.secret)
    call = ["minisign", "-Vm", SUMS, "-p", str(keys.public)]
    good = subprocess.run(call, cwd=release, capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    assert "Signature and comment signature verified" in good.stdout
    (release / SUMS).write_text("other")
    assert subprocess.run(call, cwd=release, capture_output=True, check=False).returncode != 0


def test_the_secret_key_is_for_its_owner_and_nothing_is_overwritten(keys: Keys) -> None:
    assert stat.S_IMODE(keys.secret.stat().st_mode) == 0o600
    with pytest.raises(UsageError, match="overwrites nothing"):
        keygen(keys.secret.with_suffix(""))


def test_two_pairs_differ(keys: Keys, tmp_path: Path) -> None:
    other = keygen(tmp_path / "other")
    assert other.number != keys.number
    assert other.public.read_bytes() != keys.public.read_bytes()


@pytest.mark.parametrize("change", ["file", "sums", "comment", "signature", "none", "garbage", "key"])
def test_what_is_not_as_it_was_signed_is_refused(
    keys: Keys, release: Path, tmp_path: Path, change: str
) -> None:
    path = sign(release, keys.secret)
    lines = path.read_text().splitlines()
    public = keys.public
    if change == "file":
        (release / "README.md").write_bytes(b"other")
        with pytest.raises(ReleaseError, match="differs"):
            sign(release, keys.secret)
        return
    if change == "sums":
        (release / SUMS).write_text((release / SUMS).read_text() + "\n")
    elif change == "comment":
        lines[2] += "0"
    elif change == "signature":
        data = bytearray(base64.b64decode(lines[1]))
        data[20] ^= 1
        lines[1] = base64.b64encode(data).decode()
    elif change == "garbage":
        lines = ["no", "signature"]
    elif change == "key":
        public = keygen(tmp_path / "other").public
    path.write_text("\n".join(lines))
    if change == "none":
        path.unlink()
    with pytest.raises(ReleaseError, match=r"signature|signed"):
        check_signature(release, public)


@pytest.mark.parametrize("content", ["", "untrusted comment: x\n", "no key", "comment\n" + "A" * 212])
def test_what_is_no_key_is_refused(release: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "bad").write_text(content)
    with pytest.raises(UsageError, match=r"`understudy keygen` makes one|no password|damaged"):
        sign(release, tmp_path / "bad")
    with pytest.raises(UsageError, match="`understudy keygen` makes one"):
        check_signature(release, tmp_path / "bad")


def test_the_commands_sign_and_verify(
    done: Outcome,
    copied: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["verify", str(copied), "--public-key", "understudy.pub"]) == 2
    assert command(["keygen", "--json"]) == 0
    assert command(["verify", str(copied), "--public-key", "understudy.pub"]) == 1
    assert command(["sign", str(copied)]) == 0
    capsys.readouterr()
    assert command(["verify", str(copied)]) == 0
    assert "signature: present, not checked" in capsys.readouterr().out
    assert command(["verify", str(copied), "--public-key", "understudy.pub", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signature"].startswith("valid, by key ")
