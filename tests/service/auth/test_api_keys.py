import json
import os
import re
import stat
import subprocess
import sys
import time

import pytest

from service.auth import api_keys
from service.auth.api_keys import ApiKey, add_key, digest, parse_keys, read_keys, revoke_key

SECRET = "x" * 32


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys"


def test_only_the_hash_of_a_key_is_stored(file):
    secret = add_key(file, "scanner")

    [key] = read_keys(file)
    assert re.fullmatch(r"denoise_[A-Za-z0-9_-]{43}", secret), "256 bits"
    assert secret not in file.read_text()
    assert key.sha256 == digest(secret)
    assert (key.name, key.admin, key.rate, key.pixels) == ("scanner", False, None, None)
    assert key.created.utcoffset().total_seconds() == 0


def test_two_keys_differ(file):
    assert add_key(file, "a") != add_key(file, "b")


def test_a_key_keeps_its_limits_and_admin_flag(file):
    add_key(file, "web", admin=True, rate=60, pixels=10**9)

    [key] = read_keys(file)
    assert (key.admin, key.rate, key.pixels) == (True, 60, 10**9)


def test_only_the_owner_can_read_the_key_file(file):
    add_key(file, "a")
    file.chmod(0o644)
    add_key(file, "b")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_file_keeps_its_owner_when_root_writes_it(file, monkeypatch):
    add_key(file, "a")
    os.chown(file, 1234, 5678)
    owners, replace = [], os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (owners.append(a.stat().st_uid), replace(a, b)))

    add_key(file, "b")
    revoke_key(file, "b")

    assert owners == [1234, 1234]
    assert {(each.stat().st_uid, each.stat().st_gid) for each in file.parent.iterdir()} == {(1234, 5678)}


# Says when it has read the file, and waits for a line before it writes.
PAUSED = """
import sys
from pathlib import Path
from service.auth import api_keys
write = api_keys.write_atomically

def paused(*what, **how):
    print("read", flush=True)
    sys.stdin.readline()
    write(*what, **how)

api_keys.write_atomically = paused
api_keys.add_key(Path(sys.argv[1]), "new")
"""
REVOKE = "import sys; from pathlib import Path; from service.auth.api_keys import *; print(flush=True); "
REVOKE += "revoke_key(Path(sys.argv[1]), 'old')"


def test_a_key_revoked_during_an_add_stays_revoked(file):
    add_key(file, "old")
    pipe = subprocess.PIPE

    with subprocess.Popen([sys.executable, "-c", PAUSED, file], stdin=pipe, stdout=pipe, text=True) as adding:
        adding.stdout.readline()
        with subprocess.Popen([sys.executable, "-c", REVOKE, file], stdout=pipe, text=True) as revoking:
            revoking.stdout.readline()
            time.sleep(0.3)
            waited = revoking.poll() is None
            adding.communicate("\n", timeout=60)
            revoking.communicate(timeout=60)

    assert (adding.returncode, revoking.returncode) == (0, 0)
    assert waited
    assert [key.name for key in read_keys(file)] == ["new"]


def test_a_lock_that_is_never_released_is_an_error(file, monkeypatch):
    monkeypatch.setattr(api_keys, "LOCK_SECONDS", 0.01)
    with api_keys._locked(file), pytest.raises(ValueError, match="another process has been changing the file"):
        add_key(file, "a")


def test_a_change_to_a_missing_file_names_the_file(file):
    with pytest.raises(FileNotFoundError, match=r"keys'$"):
        revoke_key(file, "a")

    assert not list(file.parent.iterdir())


def test_a_name_can_be_used_once(file):
    add_key(file, "scanner")

    with pytest.raises(ValueError, match="has a key 'scanner' already: revoke it first"):
        add_key(file, "scanner")


@pytest.mark.parametrize("name", ["", "a b", "a,b", "ä", "x" * 65, "a\n"])
def test_an_ambiguous_name_is_refused(name, file):
    with pytest.raises(ValueError, match="name: String should match pattern"):
        add_key(file, name)
    assert not file.exists()


def test_revoking_a_key_keeps_the_others(file):
    for name in ("a", "b", "c"):
        add_key(file, name)
    a, _, c = read_keys(file)

    revoke_key(file, "b")

    assert read_keys(file) == (a, c)


def test_revoking_an_unknown_key_lists_the_known_ones(file):
    add_key(file, "a")
    add_key(file, "b")

    with pytest.raises(ValueError, match="has no key 'c'; there are: a, b"):
        revoke_key(file, "c")


def line(**others):
    return json.dumps({"name": "b", "sha256": "0" * 64} | others)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (SECRET, "Invalid JSON"),
        ('{"name": "b"}', "sha256: Field required"),
        (line(sha256=SECRET), "sha256: String should match pattern"),
        (line(rate=0), "rate: Input should be greater than or equal to 1"),
        (line(key=SECRET), "key: Extra inputs"),
    ],
)
def test_an_invalid_line_is_refused_by_number_only(wrong, words, file):
    add_key(file, "a")
    file.write_text(f"{file.read_text()}\n{wrong}\n")

    with pytest.raises(ValueError, match=f"keys: line 3: {words}") as caught:
        read_keys(file)
    assert SECRET not in str(caught.value)


def test_a_duplicate_name_is_refused(file):
    add_key(file, "a")
    file.write_text(file.read_text() * 2)

    with pytest.raises(ValueError, match="there are two keys of the name 'a'"):
        read_keys(file)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_writable_by_others_is_refused(mode, file):
    add_key(file, "a")
    file.chmod(mode)

    with pytest.raises(ValueError, match=rf"its mode is {mode:o}, .* make it 600"):
        read_keys(file)


def test_a_file_readable_by_others_is_accepted(file):
    add_key(file, "a")
    file.chmod(0o444)

    assert [key.name for key in read_keys(file)] == ["a"]


def test_keys_of_a_variable_are_hashed(file):
    first, second = parse_keys(f"web:{SECRET}, scanner:{'y' * 40}:y")

    assert first == ApiKey(name="web", sha256=digest(SECRET))
    assert (second.name, second.sha256) == ("scanner", digest("y" * 40 + ":y"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"web:{SECRET},{SECRET}", "number 2 is not NAME:KEY"),
        (f"web:{SECRET[1:]}", "at least 32"),
        (f"web:{SECRET} {SECRET}", "number 1 is not"),
        (f"web:{SECRET},", "number 2"),
        (f"a b:{SECRET}", "number 1: name: "),
        (f"web:{SECRET},web:{SECRET}", "two keys of the name 'web'"),
    ],
)
def test_an_invalid_entry_is_refused_by_number_only(text, words):
    with pytest.raises(ValueError, match=words) as caught:
        parse_keys(text)
    assert SECRET[1:] not in str(caught.value)


def test_the_repr_of_a_key_has_no_hash(file):
    secret = add_key(file, "a")

    assert digest(secret) not in repr(read_keys(file))
