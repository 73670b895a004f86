import json
import os
import re
import stat

import pytest

from service.auth.api_keys import ApiKey, add_key, digest, parse_keys, read_keys, revoke_key

SECRET = "x" * 32


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys"


def test_a_key_is_shown_once_and_only_its_hash_is_kept(file):
    secret = add_key(file, "scanner")

    [key] = read_keys(file)
    assert re.fullmatch(r"denoise_[A-Za-z0-9_-]{43}", secret), "256 bits"
    assert secret not in file.read_text()
    assert key.sha256 == digest(secret)
    assert (key.name, key.admin, key.rate, key.pixels) == ("scanner", False, None, None)
    assert key.created.utcoffset().total_seconds() == 0


def test_two_keys_are_never_the_same(file):
    assert add_key(file, "a") != add_key(file, "b")


def test_a_key_keeps_its_limits_and_whether_it_is_an_admins(file):
    add_key(file, "web", admin=True, rate=60, pixels=10**9)

    [key] = read_keys(file)
    assert (key.admin, key.rate, key.pixels) == (True, 60, 10**9)


def test_only_the_owner_can_read_the_file_whatever_it_was_before(file):
    add_key(file, "a")
    file.chmod(0o644)
    add_key(file, "b")

    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_file_stays_the_services_when_root_writes_to_it(file):
    add_key(file, "a")
    os.chown(file, 1234, 5678)

    add_key(file, "b")

    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 5678)


def test_a_name_is_given_once(file):
    add_key(file, "scanner")

    with pytest.raises(ValueError, match="has a key 'scanner' already: revoke it first"):
        add_key(file, "scanner")


@pytest.mark.parametrize("name", ["", "a b", "a,b", "ä", "x" * 65, "a\n"])
def test_a_name_that_could_be_misread_is_refused(name, file):
    with pytest.raises(ValueError, match="name: String should match pattern"):
        add_key(file, name)
    assert not file.exists()


def test_a_key_that_is_revoked_is_gone_and_the_others_are_as_they_were(file):
    for name in ("a", "b", "c"):
        add_key(file, name)
    a, _, c = read_keys(file)

    revoke_key(file, "b")

    assert read_keys(file) == (a, c)


def test_revoking_a_key_that_is_not_there_names_those_that_are(file):
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
def test_a_line_that_is_no_keys_is_named_by_its_number_and_not_repeated(wrong, words, file):
    add_key(file, "a")
    file.write_text(f"{file.read_text()}\n{wrong}\n")

    with pytest.raises(ValueError, match=f"keys: line 3: {words}") as told:
        read_keys(file)
    assert SECRET not in str(told.value)


def test_a_name_twice_in_a_file_is_refused(file):
    add_key(file, "a")
    file.write_text(file.read_text() * 2)

    with pytest.raises(ValueError, match="there are two keys of the name 'a'"):
        read_keys(file)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_refused_with_its_mode(mode, file):
    add_key(file, "a")
    file.chmod(mode)

    with pytest.raises(ValueError, match=rf"its mode is {mode:o}, .* make it 600"):
        read_keys(file)


def test_a_file_that_others_may_only_read_is_taken_as_secrets_are_mounted(file):
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
def test_what_is_no_key_in_a_variable_is_named_by_its_number_and_not_repeated(text, words):
    with pytest.raises(ValueError, match=words) as told:
        parse_keys(text)
    assert SECRET[1:] not in str(told.value)


def test_a_hash_is_not_shown_where_its_key_is_printed(file):
    secret = add_key(file, "a")

    assert digest(secret) not in repr(read_keys(file))
