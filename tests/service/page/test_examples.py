"""The JavaScript examples of service/README.md, in a page."""

import base64
from io import BytesIO
from zipfile import ZipFile

from PIL import Image

from tests.support.documents import ADDRESS, blocks

IN_A_PAGE = """async (data) => {
    const image = await (await fetch(`data:image/png;base64,${data}`)).blob();
    const states = [];
    const results = [
        await denoise(image),
        await denoiseBatch([image, image]),
        await denoiseAsJob(image, (job) => states.push(job.state)),
    ];
    let refusal;
    try { await denoise(new Blob(["no image"])); } catch (error) { refusal = error.message; }
    const text = async (blob) => btoa(String.fromCharCode(...new Uint8Array(await blob.arrayBuffer())));
    return { results: await Promise.all(results.map(text)), states, refusal };
}"""


def test_the_javascript_functions_run_in_a_page(address, browser, samples, file_of):
    functions, _ = blocks("service/README.md", "js")
    data = file_of(samples(21, 34))
    page = browser.new_page()
    page.goto(f"{address}health")
    page.add_script_tag(content=functions.replace(ADDRESS, address.rstrip("/")))

    seen = page.evaluate(IN_A_PAGE, base64.b64encode(data).decode())

    one, batch, job = map(base64.b64decode, seen["results"])
    assert [Image.open(BytesIO(each)).format for each in (one, job)] == ["JPEG", "PNG"]
    assert len(ZipFile(BytesIO(batch)).namelist()) == 2
    assert seen["states"][-1] == "done"
    assert "Supported formats" in seen["refusal"]
    page.close()
