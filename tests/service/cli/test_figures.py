"""`denoise demo` and `denoise plot`."""


def test_demo_draws_the_given_number_of_images(denoise, model, photos, tmp_path, pixels):
    for count in (1, 2):
        denoise("demo", model, "--clean", photos, "--count", count, "--out", tmp_path / f"{count}.png")

    assert pixels(tmp_path / "2.png").shape[0] == 2 * pixels(tmp_path / "1.png").shape[0]


def test_plot_draws_beside_the_log(denoise, tmp_path, pixels):
    (tmp_path / "my.jsonl").write_text('{"step": 1, "megapixels": 0.1, "loss": 0.5, "psnr": 20}\n')

    code, _, _ = denoise("plot", tmp_path / "my.jsonl")

    assert code == 0
    assert pixels(tmp_path / "my.png").ndim == 3
