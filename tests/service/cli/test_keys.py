"""`denoise keys`."""


def test_keys_are_created_listed_and_revoked(denoise, tmp_path, monkeypatch):
    monkeypatch.setenv("DENOISE_KEYS_FILE", str(tmp_path / "keys"))

    _, secret, _ = denoise("keys", "add", "scanner")
    denoise("keys", "add", "web", "--admin", "--rate", 60, "--pixels", 500_000_000)
    _, both, _ = denoise("keys", "list")
    denoise("keys", "revoke", "scanner")
    _, left, _ = denoise("keys", "list")
    code, _, stderr = denoise("keys", "revoke", "scanner")

    assert secret.strip().startswith("denoise_")
    assert secret.strip() not in both
    assert all(word in both for word in ("scanner", "web", "yes", "60", "500,000,000"))
    assert "scanner" not in left
    assert code == 1
    assert "scanner" in stderr
    assert "web" in stderr


def test_keys_asks_for_the_file(denoise, monkeypatch):
    monkeypatch.delenv("DENOISE_KEYS_FILE", raising=False)

    code, _, stderr = denoise("keys", "add", "scanner")

    assert code == 2
    assert "--keys-file" in stderr


def test_keys_alone_shows_the_commands(denoise):
    code, text, _ = denoise("keys")

    assert code == 0
    assert "revoke" in text
